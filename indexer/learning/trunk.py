"""A vision tower cut in two: a frozen trunk, whose output can be cached, and a tail of last layers, which learns.

Both halves are open_clip's own modules, with all options of the model, in evaluation mode: trunk and tail together
compute what the whole tower computes. This module knows nothing of tiles, losses and files.
"""

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from indexer.errors import TrainingError
from retrieval.encoders.open_clip import Tower, trained_layers

__all__ = ["SplitTower", "Tail"]

_SUPPORTED = "supported are open_clip's vision transformers that pool by tok or avg (ViT-B-32, ViT-B-16, ViT-L-14, ...)"
_BLOCK = re.compile(r"(transformer\.resblocks\.)(\d+)(\..*)")
_BATCHES = {"cpu": 32, "cuda": 128}


class Tail(nn.Module):
    """The last layers of a tower; all of its parameters learn.

    `tower` is open_clip's VisionTransformer without its patches, embeddings and first blocks.
    """

    def __init__(self, tower: Tower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens before the first trained block, (n, t, width) of any float, to (n, dim) float32, unit rows."""
        pooled, _ = self.tower._pool(self.tower.transformer(tokens.float()))
        if self.tower.proj is not None:
            pooled = pooled @ self.tower.proj
        return functional.normalize(pooled.float(), dim=-1)


class SplitTower:
    """An open_clip vision tower cut before its last `blocks` transformer blocks: a frozen trunk and a tail that learns.

    The tower is not changed; the trunk shares its parameters. `names`: the trained layers, as `trained_layers` names
    them. `token_shape`: (t, width) of what passes from trunk to tail. `first`: the trunk's modules, the tower's
    without its last blocks. Patch dropout is off, because the trunk's output is computed once and cached.
    """

    def __init__(self, tower: Tower, blocks: int = 2) -> None:
        """Raises TrainingError unless the tower is an open_clip VisionTransformer with that many blocks."""
        _check(tower, blocks)
        self.names = tuple(trained_layers(tower, blocks))
        t, width = tower.positional_embedding.shape
        self.token_shape: tuple[int, int] = (int(t), int(width))
        self._cut = len(tower.transformer.resblocks) - blocks
        self.first, self._last = _first_part(tower, self._cut), _last_part(tower, self._cut)

    @property
    def batch(self) -> int:
        """Pictures that pass the trunk at once, for this tower's device."""
        return _BATCHES.get(self.first.conv1.weight.device.type, 32)

    def trunk(self, pixels: Tensor) -> Tensor:
        """Prepared pictures, (n, 3, s, s) float32, to (n, t, width) float32 on the tower's device, without gradient."""
        with torch.no_grad():
            weight = self.first.conv1.weight
            tokens: Tensor = self.first.transformer(self.first._embeds(pixels.to(weight.device)))
            return tokens.float()

    def trunk_of_rows(self, rows: NDArray[np.int64], pictures: Callable[[NDArray[np.int64]], Tensor]) -> Tensor:
        """Rows, (n,), to tokens, (n, t, width) float32 on the CPU; `pictures` reads rows as `trunk` takes them.

        All batches have `batch` pictures, the last one padded with zeros: a batch of another shape has other last bits,
        and a row's tokens must not depend on the rows beside it.
        """
        return torch.cat(
            [self._padded_trunk(pictures(rows[i : i + self.batch])) for i in range(0, len(rows), self.batch)]
        )

    def _padded_trunk(self, pixels: Tensor) -> Tensor:
        padded = torch.zeros((self.batch, *pixels.shape[1:]))
        padded[: len(pixels)] = pixels
        return self.trunk(padded)[: len(pixels)].cpu()

    def tail(self) -> Tail:
        """A new copy of the last layers on the tower's device, to be trained; it shares nothing with the tower."""
        return Tail(copy.deepcopy(self._last).requires_grad_(True))

    def tail_from(self, layers: Mapping[str, Tensor]) -> Tail:
        """A tail with these layers, named and shaped as `names`. Raises TrainingError for layers of another tower."""
        tail = self.tail()
        state = {self._name_in_tail(name): tensor for name, tensor in layers.items()}
        try:
            tail.load_state_dict(state)
        except RuntimeError as exc:
            raise TrainingError(f"these layers are not the last ones of this tower: {exc}") from exc
        return tail

    def layers(self, tail: nn.Module) -> dict[str, Tensor]:
        """A tail's layers by the tower's names, copied to the CPU, as `save_layers` and `tail_from` take them.

        Raises TrainingError for a tail that is wrapped by DistributedDataParallel or torch.compile.
        """
        state = tail.state_dict()
        names = {name: self._name_in_tail(name) for name in self.names}
        if set(names.values()) != set(state):
            raise TrainingError(
                f"{type(tail).__name__} is not a tail of this tower: give what `tail` returned, unwrapped"
            )
        return {name: state[name_in_tail].detach().to("cpu", copy=True) for name, name_in_tail in names.items()}

    def _name_in_tail(self, name: str) -> str:
        """The name in a tail of a layer that the tower calls `name`."""
        return "tower." + _BLOCK.sub(lambda m: f"{m[1]}{int(m[2]) - self._cut}{m[3]}", name)


def _check(tower: Tower, blocks: int) -> None:
    kinds = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(tower).__mro__}
    if "open_clip.VisionTransformer" not in kinds:
        raise TrainingError(f"a {type(tower).__name__} cannot be cut into a trunk and last layers; {_SUPPORTED}")
    if tower.attn_pool is not None:
        raise TrainingError(f"a tower with attention pooling (CoCa) cannot be trained here; {_SUPPORTED}")
    if tower.pool_type not in ("tok", "avg"):
        raise TrainingError(f"a tower that pools by {tower.pool_type!r} cannot be trained here; {_SUPPORTED}")
    count = len(tower.transformer.resblocks)
    if not 1 <= blocks <= count:
        raise TrainingError(f"--blocks {blocks}: the tower has {count} blocks, so give 1 to {count}")


def _first_part(tower: Tower, cut: int) -> Any:
    layers = _sharing(tower)
    layers.transformer.resblocks = layers.transformer.resblocks[:cut]
    layers.transformer.grad_checkpointing = False  # it saves memory of gradients, which the trunk does not have
    layers.ln_post, layers.proj = nn.Identity(), None
    return layers


def _last_part(tower: Tower, cut: int) -> Any:
    layers = _sharing(tower)
    layers.transformer.resblocks = layers.transformer.resblocks[cut:]
    layers.conv1, layers.patch_dropout, layers.ln_pre = nn.Identity(), nn.Identity(), nn.Identity()
    layers.class_embedding, layers.positional_embedding = None, None
    return layers


def _sharing(tower: Tower) -> Any:
    """A copy of the modules, in evaluation mode, around the same tensors."""
    tensors = {id(t): t for t in (*tower.parameters(), *tower.buffers())}
    return copy.deepcopy(tower, tensors).eval()
