"""The results of a search on a device: packed into bytes for one copy, and unpacked on the host into `Descent`s."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.index.calibration import Calibration
from retrieval.search.beam import Descent, Step, with_elsewhere
from retrieval.search.gpu.index import DeviceLevel
from retrieval.search.posterior import Floats

Integers = NDArray[np.int64]


class LevelResult(NamedTuple):
    """One level of a search, as tensors on the device or arrays on the host.

    c is m times w: the number of tiles above, times the most children of one.
    """

    vectors: Any  # (n, c) int64 numbers of vectors, -1 in gaps; ascending otherwise
    similarities: Any  # (n, c) float32
    log_mass: Any  # (n, c) float64
    beam: Any  # (n, min(k, c)) int64 positions, ascending, then -1


class _Compact(NamedTuple):
    """One level of all queries without gaps: the candidates of query q are bounds[q] to bounds[q + 1]."""

    bounds: Integers  # (n + 1,)
    rows: Integers
    similarities: NDArray[np.float32]
    log_mass: Floats
    slots: NDArray[np.intp]
    expanded: NDArray[np.bool_]  # (n, m): which tiles of the beam above have candidates
    beam: Integers  # (n, .) positions among the query's candidates
    beam_sizes: Integers  # (n,)


def pack(levels: Sequence[LevelResult], elsewhere: Tensor) -> Tensor:
    """All results as (bytes,) uint8. Eight-byte numbers come first, so that every array is aligned."""
    wide = [v for level in levels for v in (level.vectors, level.log_mass, level.beam)]
    narrow = [level.similarities for level in levels]
    return torch.cat([v.contiguous().view(-1).view(torch.uint8) for v in (elsewhere, *wide, *narrow)])


def unpack(
    levels: Sequence[DeviceLevel], widths: Sequence[int], packed: NDArray[np.uint8], n: int, calibration: Calibration
) -> list[Descent]:
    """The descents of n queries; `widths`: the number of tiles above each level, then the size of the last beam.

    The calibration's model of elsewhere is applied as in `beam.descend`.
    """
    elsewhere, results = _views(levels, widths, packed, n)
    compact = [_compacted(level, result, m) for level, result, m in zip(levels, results, widths, strict=False)]
    return [with_elsewhere(_steps(levels, compact, query), float(elsewhere[query]), calibration) for query in range(n)]


def _views(
    levels: Sequence[DeviceLevel], widths: Sequence[int], packed: NDArray[np.uint8], n: int
) -> tuple[Floats, list[LevelResult]]:
    """The arrays that `pack` joined, as views of its bytes."""
    counts = [m * level.width for m, level in zip(widths, levels, strict=False)]
    offset = 0

    def take(shape: tuple[int, ...], kind: Any) -> NDArray[Any]:
        nonlocal offset
        start, offset = offset, offset + int(np.prod(shape)) * np.dtype(kind).itemsize
        view: NDArray[Any] = packed[start:offset].view(kind).reshape(shape)
        return view

    elsewhere = take((n,), np.float64)
    wide = [
        (take((n, c), np.int64), take((n, c), np.float64), take((n, m), np.int64))
        for c, m in zip(counts, widths[1:], strict=True)
    ]
    return elsewhere, [
        LevelResult(vectors, take((n, c), np.float32), log_mass, beam)
        for (vectors, log_mass, beam), c in zip(wide, counts, strict=True)
    ]


def _compacted(level: DeviceLevel, result: LevelResult, above: int) -> _Compact:
    present = result.vectors >= 0
    expanded = present.reshape(len(present), above, -1).any(axis=2)
    slots = (np.cumsum(expanded, axis=1) - 1).repeat(level.width, axis=1)
    positions = np.cumsum(present, axis=1) - 1
    return _Compact(
        bounds=np.append(0, np.cumsum(present.sum(axis=1))),
        rows=level.rows[result.vectors[present]],
        similarities=result.similarities[present],
        log_mass=result.log_mass[present],
        slots=slots[present],
        expanded=expanded,
        beam=np.take_along_axis(positions, np.maximum(result.beam, 0), axis=1),
        beam_sizes=(result.beam >= 0).sum(axis=1),
    )


def _steps(levels: Sequence[DeviceLevel], compact: Sequence[_Compact], query: int) -> list[Step]:
    """One query's steps, down to where no tile of the beam has candidates."""
    steps: list[Step] = []
    for level, result in zip(levels, compact, strict=True):
        own = slice(result.bounds[query], result.bounds[query + 1])
        if own.start == own.stop:
            break
        if steps:
            above = steps[-1]
            steps[-1] = replace(above, expanded=above.beam[result.expanded[query, : len(above.beam)]])
        beam = result.beam[query, : result.beam_sizes[query]]
        steps.append(
            Step(level.level, result.rows[own], result.similarities[own], result.log_mass[own], result.slots[own], beam)
        )
    return steps
