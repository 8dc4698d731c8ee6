"""What a search on a device found, as bytes in one piece, and back on the host as the `Descent`s that `beam` makes."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.index.calibration import Calibration
from retrieval.search.beam import Descent, Step, weighed
from retrieval.search.gpu.index import DeviceLevel
from retrieval.search.posterior import Floats

Integers = NDArray[np.int64]


class Found(NamedTuple):
    """One level of a search, on the device or, as arrays, on the host: c candidates are m tiles above times w."""

    vectors: Any  # (n, c) int64, -1 where there is none; ascending where there are
    similarities: Any  # (n, c) float32
    log_mass: Any  # (n, c) float64
    kept: Any  # (n, min(k, c)) int64 positions, ascending, then -1


class _Compact(NamedTuple):
    """One level of all queries without its gaps: candidates of query q are bounds[q] to bounds[q + 1]."""

    bounds: Integers  # (n + 1,)
    rows: Integers
    similarities: NDArray[np.float32]
    log_mass: Floats
    slots: NDArray[np.intp]
    alive: NDArray[np.bool_]  # (n, m): which kept tiles above have candidates
    kept: Integers  # (n, .) positions among the query's candidates
    kept_counts: Integers  # (n,)


def pack(levels: Sequence[Found], elsewhere: Tensor) -> Tensor:
    """All of it as (bytes,) uint8, eight-byte numbers first, so that one copy brings it to the host."""
    wide = [v for found in levels for v in (found.vectors, found.log_mass, found.kept)]
    narrow = [found.similarities for found in levels]
    return torch.cat([v.contiguous().view(-1).view(torch.uint8) for v in (elsewhere, *wide, *narrow)])


def unpack(
    levels: Sequence[DeviceLevel], widths: Sequence[int], packed: NDArray[np.uint8], n: int, calibration: Calibration
) -> list[Descent]:
    """The descents of n queries; `widths`: how many tiles above each level has, and last how many are kept.

    What the calibration says of elsewhere is taken from their masses, as `beam.descend` does.
    """
    elsewhere, found = _views(levels, widths, packed, n)
    compact = [_compacted(level, one, m) for level, one, m in zip(levels, found, widths, strict=False)]
    return [weighed(list(_steps(levels, compact, query)), float(elsewhere[query]), calibration) for query in range(n)]


def _views(
    levels: Sequence[DeviceLevel], widths: Sequence[int], packed: NDArray[np.uint8], n: int
) -> tuple[Floats, list[Found]]:
    counts = [m * level.width for m, level in zip(widths, levels, strict=False)]
    at = 0

    def take(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        nonlocal at
        start, at = at, at + int(np.prod(shape)) * np.dtype(kind).itemsize
        found: NDArray[Any] = packed[start:at].view(kind).reshape(shape)
        return found

    elsewhere = take((n,), np.float64)
    wide = [
        (take((n, c), np.int64), take((n, c), np.float64), take((n, m), np.int64))
        for c, m in zip(counts, widths[1:], strict=True)
    ]
    return elsewhere, [
        Found(vectors, take((n, c), np.float32), log_mass, kept)
        for (vectors, log_mass, kept), c in zip(wide, counts, strict=True)
    ]


def _compacted(level: DeviceLevel, found: Found, above: int) -> _Compact:
    there = found.vectors >= 0
    alive = there.reshape(len(there), above, -1).any(axis=2)
    slots = (np.cumsum(alive, axis=1) - 1).repeat(level.width, axis=1)
    positions = np.cumsum(there, axis=1) - 1
    return _Compact(
        bounds=np.append(0, np.cumsum(there.sum(axis=1))),
        rows=level.rows[found.vectors[there]],
        similarities=found.similarities[there],
        log_mass=found.log_mass[there],
        slots=slots[there],
        alive=alive,
        kept=np.take_along_axis(positions, np.maximum(found.kept, 0), axis=1),
        kept_counts=(found.kept >= 0).sum(axis=1),
    )


def _steps(levels: Sequence[DeviceLevel], compact: Sequence[_Compact], query: int) -> Iterator[Step]:
    """One query's steps, each with what the next one says of it; they end where no kept tile has candidates."""
    above: Step | None = None
    for level, found in zip(levels, compact, strict=True):
        here = slice(found.bounds[query], found.bounds[query + 1])
        if here.start == here.stop:
            return
        if above is not None:
            above.expanded = above.kept[found.alive[query, : len(above.kept)]]
        kept = found.kept[query, : found.kept_counts[query]]
        above = Step(
            level.level, found.rows[here], found.similarities[here], found.log_mass[here], found.slots[here], kept
        )
        yield above
