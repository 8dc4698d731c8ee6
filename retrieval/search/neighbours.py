"""Neighbour smoothing: a tile's cosine is mixed with the mean cosine of its neighbours among a level's candidates.

A picture shows more than one small tile, and the mean over neighbours is less noisy than one tile's embedding. The
weight of the neighbours (kappa) is fitted per zoom. See "Neighbour smoothing" in docs/method.md. This module knows
Morton codes and cosines, nothing of probabilities.
"""

import numpy as np
from numpy.typing import NDArray

_X = np.uint64(0x5555555555555555)
_Y = np.uint64(0xAAAAAAAAAAAAAAAA)
_ONE_X, _ONE_Y = np.uint64(1), np.uint64(2)


def with_neighbours(
    codes: NDArray[np.uint64], zoom: int, similarities: NDArray[np.float32], kappa: float
) -> NDArray[np.float32]:
    """Cosines, (c,) float32, moved by `kappa` (0 to 1) towards their neighbours' mean; see `neighbours_mean`."""
    if not kappa:  # the look-up of neighbours costs time in every search
        return similarities
    return similarities + np.float32(kappa) * (neighbours_mean(codes, zoom, similarities) - similarities)


def neighbours_mean(codes: NDArray[np.uint64], zoom: int, similarities: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of `similarities`, (c,), over each tile's up to eight neighbours among the candidates: (c,) float32.

    `codes`: (c,) uint64 Morton codes at `zoom`, ascending. Columns wrap at the date line; rows end at the poles. A tile
    without neighbours gets its own similarity.
    """
    total, count = _over_neighbours(codes, zoom, similarities)
    return np.divide(total, count, out=similarities.astype(np.float32), where=count > 0)


def _over_neighbours(
    codes: NDArray[np.uint64], zoom: int, similarities: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sum and number of the neighbours' cosines, (c,) each. Four directions suffice, as each pair counts both ways.

    1 is added to x or y inside the interleaved code: the other coordinate's bits are set first, so that carries pass.
    """
    inside = np.uint64((1 << (2 * zoom)) - 1)
    x, y = codes & _X, codes & _Y
    east = ((x | _Y) + _ONE_X) & _X & inside
    south, has_south = ((y | _X) + _ONE_Y) & _Y & inside, y != inside & _Y
    north, has_north = (y - _ONE_Y) & _Y & inside, y != 0
    total, count = np.zeros(len(codes), dtype=np.float32), np.zeros(len(codes), dtype=np.float32)
    for wanted, exists in (
        (east | y, None),
        (x | south, has_south),
        (east | south, has_south),
        (east | north, has_north),
    ):
        at = codes.searchsorted(wanted)
        at[at == len(codes)] = 0
        is_candidate = codes[at] == wanted
        if exists is not None:
            is_candidate &= exists
        tile = is_candidate.nonzero()[0]
        other = at[tile]
        total[tile] += similarities[other]
        total[other] += similarities[tile]
        count[tile] += 1
        count[other] += 1
    return total, count
