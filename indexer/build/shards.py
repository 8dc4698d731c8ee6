"""From units to shards: means for rows without imagery, and shards cut where parents end; always the same bytes.

Memory is bounded by a shard, whatever the zoom holds. The module knows nothing of sources and encoders.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.build.inputs import Inputs
from indexer.build.units import Unit, ZoomRows, unit_path, write_unit
from indexer.build.workdir import Workdir
from indexer.progress import OnProgress, Progress
from retrieval.encoders.base import NO_ENCODER
from retrieval.index.manifest import ShardEntry, ZoomEntry
from retrieval.index.writer import write_shard
from tile_cache.addressing import parents_of_codes

__all__ = ["Cut", "cut_shards", "fill_from_children", "shard"]

Codes = NDArray[np.uint64]


class Cut(NamedTuple):
    """One shard: rows [first_row, first_row + rows), the children of parents [first_parent, first_parent + parents)."""

    first_row: int
    rows: int
    first_parent: int
    parents: int


def shard(work: Workdir, inputs: Inputs, levels: Sequence[ZoomRows], on_progress: OnProgress) -> list[ZoomEntry]:
    """Fill rows without imagery from the deepest zoom up, then write every zoom's shards into work/index.

    Both start afresh each time: they are quick and follow from the units. Returns the manifest's entries.
    """
    for folder in (work.filled, work.index):
        shutil.rmtree(folder, ignore_errors=True)
    work.index.mkdir()
    inferred = dict.fromkeys((rows.zoom for rows in levels), 0)
    if inputs.encoders is not None:
        for rows, below in zip(levels[-2::-1], levels[:0:-1], strict=True):
            inferred[rows.zoom] = fill_from_children(rows, below, inputs.dtype)
    return [
        _zoom(work.index, inputs, rows, above, inferred[rows.zoom], on_progress)
        for rows, above in zip(levels, [None, *levels[:-1]], strict=True)
    ]


def fill_from_children(rows: ZoomRows, below: ZoomRows, dtype: str) -> int:
    """Give rows without imagery the normalised mean of their children's vectors; returns how many got one.

    `below`, the next finer zoom, must be filled already. Units without such rows are left as they are.
    """
    count = 0
    for number in range(rows.unit_count):
        unit = rows.original(number)
        if unit.has_imagery.all():
            continue
        filled, means = _filled(unit, rows, below, dtype)
        if means:
            write_unit(unit_path(rows.filled, rows.zoom, number), filled)
            count += means
    return count


def cut_shards(codes: Codes, parents: Codes | None, step: int, limit: int) -> Iterator[Cut]:
    """Shards of at most `limit` rows and parents, cut where a parent's children end (one parent may have more).

    `codes`: (n,) uint64 ascending; `parents`: (m,) uint64, the rows `step` zooms up; None at the first zoom.
    """
    if parents is None:
        yield Cut(0, len(codes), 0, 1)
        return
    row = parent = 0
    while parent < len(parents):
        last = _last_parent(codes, parents, step, row, parent, limit)
        stop = _children_start(codes, parents, step, last)
        yield Cut(row, stop - row, parent, last - parent)
        row, parent = stop, last


def _zoom(
    directory: Path, inputs: Inputs, rows: ZoomRows, above: ZoomRows | None, inferred: int, on_progress: OnProgress
) -> ZoomEntry:
    """Write a zoom's shards one after another; `above`: the rows of the next coarser zoom."""
    step = 0 if above is None else rows.zoom - above.zoom
    parents = None if above is None else above.codes
    shards: list[ShardEntry] = []
    for number, cut in enumerate(cut_shards(rows.codes, parents, step, inputs.request.shard_rows)):
        shards.append(_write(directory, inputs, rows, number, cut, parents, step))
        on_progress(Progress("write", f"Writing zoom {rows.zoom}", cut.first_row + cut.rows, len(rows.codes)))
    if inputs.encoders is None:
        return ZoomEntry(rows.zoom, tuple(shards), NO_ENCODER)
    maps = inputs.encoders.maps
    return ZoomEntry(rows.zoom, tuple(shards), maps.fingerprint(rows.zoom), maps.context(rows.zoom), inferred)


def _write(
    directory: Path, inputs: Inputs, rows: ZoomRows, number: int, cut: Cut, parents: Codes | None, step: int
) -> ShardEntry:
    codes = np.asarray(rows.codes[cut.first_row : cut.first_row + cut.rows])
    has_vector, vectors = (None, None) if inputs.encoders is None else _vectors(rows, cut)
    return write_shard(
        directory,
        rows.zoom,
        number,
        codes,
        vectors,
        has_vector,
        parents=_parent_rows(codes, parents, step, cut),
        first_row=cut.first_row,
        first_parent=cut.first_parent,
        parent_count=cut.parents,
        codec=inputs.codec,
    )


def _parent_rows(codes: Codes, parents: Codes | None, step: int, cut: Cut) -> NDArray[np.int64]:
    """The parent's row, in the zoom above, of each of a shard's tiles, (n,) int64; zeros at the first zoom."""
    if parents is None:
        return np.zeros(len(codes), dtype=np.int64)
    span = np.asarray(parents[cut.first_parent : cut.first_parent + cut.parents])
    return np.searchsorted(span, parents_of_codes(codes, step)).astype(np.int64) + cut.first_parent


def _filled(unit: Unit, rows: ZoomRows, below: ZoomRows, dtype: str) -> tuple[Unit, int]:
    codes = np.asarray(rows.codes[unit.first_row : unit.first_row + len(unit.has_imagery)])
    shift = np.uint64(2 * (below.zoom - rows.zoom))
    holes = np.flatnonzero(~unit.has_imagery)
    starts = np.searchsorted(below.codes, codes[holes] << shift)
    stops = np.searchsorted(below.codes, (codes[holes] + np.uint64(1)) << shift)
    table = np.zeros((len(codes), unit.vectors.shape[1]), dtype=dtype)
    table[unit.has_imagery] = unit.vectors
    has_vector = unit.has_imagery.copy()
    for hole, start, stop in zip(holes, starts, stops, strict=True):
        mean = _mean(below, int(start), int(stop))
        if mean is not None:
            table[hole], has_vector[hole] = mean, True
    means = int(np.count_nonzero(has_vector)) - len(unit.vectors)
    return replace(unit, has_imagery=has_vector, vectors=table[has_vector]), means


def _mean(below: ZoomRows, start: int, stop: int) -> NDArray[np.float64] | None:
    """The normalised mean of the vectors of rows [start, stop); None if they have none, or if they cancel out."""
    if stop <= start:
        return None
    _, vectors = below.gather(start, stop)
    total = vectors.astype(np.float64).sum(axis=0)
    norm = float(np.sqrt(np.square(total).sum()))
    return total / norm if norm > 1e-6 else None


def _vectors(rows: ZoomRows, cut: Cut) -> tuple[NDArray[np.bool_], NDArray[np.floating[Any]]]:
    if cut.rows == 0:
        return np.zeros(0, dtype=np.bool_), rows.unit(0).vectors[:0]
    return rows.gather(cut.first_row, cut.first_row + cut.rows)


def _children_start(codes: Codes, parents: Codes, step: int, parent: int) -> int:
    """The row at which the children of a parent begin; the number of rows for a parent after the last."""
    if parent >= len(parents):
        return len(codes)
    return int(np.searchsorted(codes, np.asarray(parents[parent]) << np.uint64(2 * step)))


def _last_parent(codes: Codes, parents: Codes, step: int, row: int, parent: int, limit: int) -> int:
    """The last end, as a parent, at which a shard from `row` and `parent` keeps within `limit`; found by bisection."""
    low, high = parent + 1, min(len(parents), parent + limit)
    while low < high:
        middle = (low + high + 1) // 2
        if _children_start(codes, parents, step, middle) - row <= limit:
            low = middle
        else:
            high = middle - 1
    return low
