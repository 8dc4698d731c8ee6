"""From units to shards: means for rows without imagery, shards cut where parents end, the same bytes every time.

Rows of a zoom are numbered in Morton order over the whole zoom. Memory is bounded by a shard, whatever the zoom holds.
It knows nothing of sources and encoders.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.build.rows import ZoomRows
from indexer.build.units import Unit, unit_path, write_unit
from indexer.errors import BuildError
from retrieval.index.manifest import ShardEntry
from retrieval.index.shards import CODECS
from retrieval.index.writer import write_shard
from tile_cache.addressing import parents_of_codes

__all__ = ["Cut", "cut_shards", "fill_from_children", "parent_rows", "write_zoom"]

Codes = NDArray[np.uint64]


class Cut(NamedTuple):
    """One shard: rows [first_row, first_row + rows), all children of parents [first_parent, first_parent + parents)."""

    first_row: int
    rows: int
    first_parent: int
    parents: int


def fill_from_children(rows: ZoomRows, below: ZoomRows, dtype: str) -> int:
    """Give rows without imagery the normalised mean of their children's vectors; returns how many got one.

    `below` must be filled already. Units without such rows are left alone.
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


def cut_shards(codes: Codes, parents: Codes | None, step: int, most: int) -> Iterator[Cut]:
    """Shards of at most `most` rows and parents, cut where a parent's children end (one parent may have more).

    `codes`: (n,) uint64 ascending; `parents`: (m,) uint64, the rows `step` zooms up; None at the first zoom.
    """
    if parents is None:
        yield Cut(0, len(codes), 0, 1)
        return
    row = parent = 0
    while parent < len(parents):
        last = _last_parent(codes, parents, step, row, parent, most)
        stop = _children_start(codes, parents, step, last)
        yield Cut(row, stop - row, parent, last - parent)
        row, parent = stop, last


def write_zoom(
    directory: Path, rows: ZoomRows, above: ZoomRows | None, *, codec: str, most: int
) -> Iterator[ShardEntry]:
    """Write a zoom's shards one after another."""
    step = 0 if above is None else rows.zoom - above.zoom
    parents = None if above is None else above.codes
    for number, cut in enumerate(cut_shards(rows.codes, parents, step, most)):
        codes = np.asarray(rows.codes[cut.first_row : cut.first_row + cut.rows])
        has_vector, vectors = _vectors(rows, cut)
        yield write_shard(
            directory,
            rows.zoom,
            number,
            codes,
            vectors,
            has_vector,
            parents=parent_rows(codes, parents, step, cut),
            first_row=cut.first_row,
            first_parent=cut.first_parent,
            parent_count=cut.parents,
            codec=codec,
        )


def parent_rows(codes: Codes, parents: Codes | None, step: int, cut: Cut) -> NDArray[np.int64]:
    """The row of the zoom above that each of a shard's tiles lies in, (n,); zeros at the first zoom."""
    if parents is None:
        return np.zeros(len(codes), dtype=np.int64)
    span = np.asarray(parents[cut.first_parent : cut.first_parent + cut.parents])
    return np.searchsorted(span, parents_of_codes(codes, step)).astype(np.int64) + cut.first_parent


def stored_dtype(codec: str) -> str:
    """The type that a codec's vectors are kept in between embedding and shards."""
    if codec not in CODECS:
        raise BuildError(f"codec {codec!r} is none of {', '.join(CODECS)}")
    return CODECS[codec].str


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
    whole = Unit(unit.zoom, unit.first_row, has_vector, table[has_vector], unit.encoded, unit.codes_hash, unit.problems)
    return whole, means


def _mean(below: ZoomRows, start: int, stop: int) -> NDArray[np.float64] | None:
    """The normalised mean of what rows [start, stop) have; None where that is nothing, or no direction."""
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
    """The row at which the children of a parent begin; the number of rows for the one after the last."""
    if parent >= len(parents):
        return len(codes)
    return int(np.searchsorted(codes, np.asarray(parents[parent]) << np.uint64(2 * step)))


def _last_parent(codes: Codes, parents: Codes, step: int, row: int, parent: int, most: int) -> int:
    """The last end, found by halving, at which a shard that starts at `parent` keeps within `most`."""
    low, high = parent + 1, min(len(parents), parent + most)
    while low < high:
        middle = (low + high + 1) // 2
        if _children_start(codes, parents, step, middle) - row <= most:
            low = middle
        else:
            high = middle - 1
    return low
