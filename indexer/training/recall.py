"""How well photos find their tiles among all tiles of the validation photos, at one zoom."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["RECALLS", "ranks", "recalls"]

RECALLS = (1, 5, 10)
_BLOCK = 2048
"""Photos compared at once: with 100,000 tiles, 800 MB of similarities."""


def ranks(photos: Tensor, tiles: Tensor, rows: Tensor) -> NDArray[np.int64]:
    """How many tiles stand before each photo's own, (n,) int64: 0 is found first. Ties go to the lower row.

    `photos`: (n, d) unit rows; `tiles`: (t, d) unit rows, ascending by Morton code; `rows`: (n,) int64 on the same
    device.
    """
    found = []
    for start in range(0, len(photos), _BLOCK):
        mine = rows[start : start + _BLOCK, None]
        alike = photos[start : start + _BLOCK] @ tiles.t()
        own = alike.gather(1, mine)
        tied = (alike == own) & (torch.arange(len(tiles), device=tiles.device) < mine)
        found.append(((alike > own) | tied).sum(1))
    return np.asarray(torch.cat(found).cpu().numpy(), dtype=np.int64)


def recalls(before: NDArray[np.int64]) -> dict[str, float]:
    """Shares of photos whose tile is among the first k, from `ranks`, by `recall@k`."""
    return {f"recall@{k}": float(np.mean(before < k)) for k in RECALLS}
