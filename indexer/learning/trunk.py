"""A vision tower cut in two: a frozen trunk, whose output can be kept, and the last layers, which learn.

Both halves are open_clip's own modules, with whatever options the model has, run in evaluation mode: what a trunk and
its tail give together is what the whole tower gives. It knows nothing of tiles, losses and files.
"""

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from indexer.errors import TrainingError
from retrieval.encoders.open_clip import Tower, trained_layers

__all__ = ["SplitTower", "Tail"]

_KINDS = "open_clip's vision transformers work (ViT-B-32, ViT-B-16, ViT-L-14 and their kin, which pool by tok or avg)"
_BLOCK = re.compile(r"(transformer\.resblocks\.)(\d+)(\..*)")


class Tail(nn.Module):
    """The last layers of a tower; every parameter of it learns.

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

    The tower is not changed, and the trunk's parameters are its own, not copies. `names`: the trained layers, as
    `trained_layers` names them; `token_shape`: (t, width) of what passes between the halves.
    A tower's patch dropout is off, as what the trunk gives is computed once.
    """

    def __init__(self, tower: Tower, blocks: int = 2) -> None:
        """TrainingError for a tower that is no open_clip VisionTransformer, or has no such blocks."""
        _check(tower, blocks)
        self.names = tuple(trained_layers(tower, blocks))
        t, width = tower.positional_embedding.shape
        self.token_shape: tuple[int, int] = (int(t), int(width))
        self._cut = len(tower.transformer.resblocks) - blocks
        self._trunk, self._last = _first_part(tower, self._cut), _last_part(tower, self._cut)

    def trunk(self, pixels: Tensor) -> Tensor:
        """Prepared pictures, (n, 3, s, s) float32, to (n, t, width) float32 on the tower's device, without gradient."""
        with torch.no_grad():
            weight = self._trunk.conv1.weight
            tokens: Tensor = self._trunk.transformer(self._trunk._embeds(pixels.to(weight.device)))
            return tokens.float()

    def tail(self) -> Tail:
        """A fresh copy of the last layers on the tower's device, to be trained; it shares nothing with the tower."""
        return Tail(copy.deepcopy(self._last).requires_grad_(True))

    def tail_from(self, layers: Mapping[str, Tensor]) -> Tail:
        """The same, started from `layers`, named and shaped as `names`; TrainingError if they are other ones."""
        tail = self.tail()
        state = {self._place(name): tensor for name, tensor in layers.items()}
        try:
            tail.load_state_dict(state)
        except RuntimeError as exc:
            raise TrainingError(f"these layers are not the last ones of this tower: {exc}") from exc
        return tail

    def layers(self, tail: nn.Module) -> dict[str, Tensor]:
        """A tail's layers under the tower's names, copied to the CPU: what `save_layers` and `tail_from` take.

        Give the tail itself, not what DistributedDataParallel or torch.compile wrap around it.
        """
        state = tail.state_dict()
        places = {name: self._place(name) for name in self.names}
        if set(places.values()) != set(state):
            raise TrainingError(f"{type(tail).__name__} is no tail of this tower: give what `tail` returned, unwrapped")
        return {name: state[place].detach().to("cpu", copy=True) for name, place in places.items()}

    def _place(self, name: str) -> str:
        """Where a layer of the tower lies in a tail."""
        return "tower." + _BLOCK.sub(lambda m: f"{m[1]}{int(m[2]) - self._cut}{m[3]}", name)


def _check(tower: Tower, blocks: int) -> None:
    kinds = {f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(tower).__mro__}
    if "open_clip.VisionTransformer" not in kinds:
        raise TrainingError(f"a {type(tower).__name__} cannot be cut into a trunk and last layers; {_KINDS}")
    if tower.attn_pool is not None:
        raise TrainingError(f"a tower with attention pooling (CoCa) cannot be trained here; {_KINDS}")
    if tower.pool_type not in ("tok", "avg"):
        raise TrainingError(f"a tower that pools by {tower.pool_type!r} cannot be trained here; {_KINDS}")
    count = len(tower.transformer.resblocks)
    if not 1 <= blocks <= count:
        raise TrainingError(f"{blocks} blocks cannot be trained: the tower has {count}, so give 1 to {count}")


def _first_part(tower: Tower, cut: int) -> Any:
    part = _sharing(tower)
    part.transformer.resblocks = part.transformer.resblocks[:cut]
    part.transformer.grad_checkpointing = False  # there is no gradient to save memory for
    part.ln_post, part.proj = nn.Identity(), None
    return part


def _last_part(tower: Tower, cut: int) -> Any:
    part = _sharing(tower)
    part.transformer.resblocks = part.transformer.resblocks[cut:]
    part.conv1, part.patch_dropout, part.ln_pre = nn.Identity(), nn.Identity(), nn.Identity()
    part.class_embedding, part.positional_embedding = None, None
    return part


def _sharing(tower: Tower) -> Any:
    """A copy of the modules, in evaluation mode, around the same tensors."""
    tensors = {id(t): t for t in (*tower.parameters(), *tower.buffers())}
    return copy.deepcopy(tower, tensors).eval()
