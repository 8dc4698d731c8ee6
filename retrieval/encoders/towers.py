"""Image towers in use: towers that share most of their tensors, pictures through a tower, weights into a tower.

Knows torch, and no library of models.
"""

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from retrieval.errors import EncoderMismatchError

__all__ = ["assign", "embed", "run", "share_trunk"]


def share_trunk(trunk: nn.Module, layers: Mapping[int, Mapping[str, Tensor]]) -> dict[int, nn.Module]:
    """A tower per zoom whose unchanged parameters are the trunk's own tensors, not copies."""
    if not layers:
        return {}
    shape, state, device = copy.deepcopy(trunk).to("meta"), trunk.state_dict(), next(trunk.parameters()).device
    towers = {}
    for z, tensors in layers.items():
        unknown = [k for k, v in tensors.items() if k not in state or state[k].shape != v.shape]
        if unknown:
            raise EncoderMismatchError(f"map encoder of zoom {z}: {unknown[0]} does not fit the photo encoder's tower")
        tower = copy.deepcopy(shape)
        tower.load_state_dict(state | {k: v.float().to(device) for k, v in tensors.items()}, assign=True)
        _share_constants(tower, trunk, state)
        towers[z] = tower.eval().requires_grad_(False)
    return towers


def _share_constants(tower: nn.Module, trunk: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Share buffers that the state does not hold (tables of angles, masks) and that are computed at construction."""
    for name, buffer in trunk.named_buffers():
        if name not in state:
            owner, _, leaf = name.rpartition(".")
            tower.get_submodule(owner).register_buffer(leaf, buffer, persistent=False)


def embed(tower: nn.Module, batch: Tensor) -> Tensor:
    """Prepared pictures, (n, 3, s, s), to the tower's output, (n, d), not normalised."""
    output = tower(batch)
    embeddings: Tensor = output[0] if isinstance(output, tuple) else output  # CoCa's tower also returns tokens
    return embeddings


def run(tower: nn.Module, batch: Tensor, dim: int, autocast: torch.dtype | None = None) -> NDArray[np.float32]:
    """Prepared pictures, (n, 3, s, s), to embeddings, (n, dim) float32 unit rows; computed in `autocast`."""
    if not len(batch):  # towers cannot reshape an empty batch
        return np.empty((0, dim), dtype=np.float32)
    with torch.inference_mode(), torch.autocast(batch.device.type, autocast, enabled=autocast is not None):
        rows = functional.normalize(embed(tower, batch).float(), dim=-1)
    return np.asarray(rows.cpu().numpy(), dtype=np.float32)


def assign(tower: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put the tensors of the file `path` into a tower. Raises EncoderMismatchError if they are not the tower's."""
    try:
        tower.load_state_dict({k: v.float() for k, v in tensors.items()})
    except RuntimeError as exc:
        raise EncoderMismatchError(f"{path} does not hold the weights of the architecture beside it: {exc}") from exc
