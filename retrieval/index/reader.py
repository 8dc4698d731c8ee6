"""An open index directory: levels of tiles with vectors, searched list by list. `TileIndex.open` is the entry point.

Row r of a zoom owns list r of the next zoom; codes ascend over all shards of a zoom. Vectors are unit rows,
similarities are cosines. This module knows nothing of probabilities, photos or positions; `writer` writes the files.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexDamagedError, damage_as
from retrieval.files import read_npy
from retrieval.index.faiss_file import Shape
from retrieval.index.manifest import Manifest, ShardEntry, ZoomEntry
from retrieval.index.shards import CODECS, NoLists, ShardLists
from retrieval.index.structure import wrong_codes

__all__ = ["MEMORY_BYTES", "Candidates", "Level", "TileIndex"]

MEMORY_BYTES = 256_000_000
"""An index of at most this size is read into memory by default."""

Codes = NDArray[np.uint64]
Rows = NDArray[np.int64]


class Candidates(NamedTuple):
    """The result of searching a level: (c,) arrays in ascending row order."""

    rows: Rows
    similarities: NDArray[np.float32]
    slots: Rows  # each row's parent, as a position among the searched parents


@dataclass(frozen=True)
class Level:
    """One zoom of an open index. Parents are rows of the level above; the first level has one pseudo-parent."""

    zoom: int
    codes: Codes  # (n,) ascending
    starts: Rows  # (parents + 1,): children of parent p are rows starts[p] to starts[p + 1]
    vector_starts: Rows  # (parents + 1,): the same, counting only rows with a vector
    shards: tuple[ShardLists, ...]
    first_rows: Rows  # (shards,)
    first_parents: Rows  # (shards + 1,)

    @property
    def has_vectors(self) -> bool:
        """Whether any tile has a vector; the tiles of a zoom without vectors can only be ranked by a prior."""
        return any(shard.vectors for shard in self.shards)

    def search(self, query: NDArray[np.float32], parents: Rows) -> Candidates:
        """Compare `query`, (d,) float32, with all children of `parents`, (m,) int64 ascending, that have a vector.

        At a zoom without vectors: all children, with similarity 0.
        """
        if not self.has_vectors:
            return self._all_children(parents)
        counts = self.vector_starts[parents + 1] - self.vector_starts[parents]
        slots = np.arange(len(parents)).repeat(counts)
        if len(self.shards) == 1:
            rows, similarities = self.shards[0].similarities(query, parents)
        else:
            rows, similarities = self._search_shards(query, parents)
        return Candidates(rows, similarities, slots)

    def _all_children(self, parents: Rows) -> Candidates:
        counts = self.starts[parents + 1] - self.starts[parents]
        slots = np.arange(len(parents)).repeat(counts)
        rows = np.arange(len(slots)) + (self.starts[parents + 1] - np.cumsum(counts))[slots]
        return Candidates(rows, np.zeros(len(rows), dtype=np.float32), slots)

    def _search_shards(self, query: NDArray[np.float32], parents: Rows) -> tuple[Rows, NDArray[np.float32]]:
        cuts = np.searchsorted(parents, self.first_parents)
        results = [
            _shifted(shard.similarities(query, parents[a:b] - self.first_parents[i]), self.first_rows[i])
            for i, (shard, a, b) in enumerate(zip(self.shards, cuts[:-1], cuts[1:], strict=True))
            if b > a
        ]
        if not results:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        return np.concatenate([rows for rows, _ in results]), np.concatenate(
            [similarities for _, similarities in results]
        )


class TileIndex:
    """All levels of an index directory, coarse to fine. Immutable and safe to search from many threads."""

    def __init__(self, directory: Path, manifest: Manifest, levels: tuple[Level, ...]) -> None:
        self.directory = directory
        self.manifest = manifest
        self.levels = levels

    @classmethod
    def open(cls, directory: Path, *, mmap: bool | None = None, memory_bytes: int = MEMORY_BYTES) -> "TileIndex":
        """Open a directory after checking version, file sizes and the contents of small files.

        `mmap`: map the files, or read them into memory; None reads an index of at most `memory_bytes`. Where a mapped
        file is cut off, the next access ends the process (SIGBUS). In memory that cannot happen, and codes and lists
        are checked when it is opened. Raises IndexMissingError, IndexVersionError or IndexDamagedError.
        """
        manifest = Manifest.read(directory)
        with damage_as(IndexDamagedError, directory, "copy the index again or build it again"):
            manifest.check_files(directory)
            if mmap is None:
                mmap = manifest.shard_bytes > memory_bytes
            levels: list[Level] = []
            for entry in manifest.zooms:
                levels.append(_open_level(directory, manifest, entry, levels[-1] if levels else None, mmap))
            return cls(directory, manifest, tuple(levels))

    @property
    def zooms(self) -> list[int]:
        """The zooms, ascending."""
        return [level.zoom for level in self.levels]

    @property
    def dim(self) -> int:
        """The dimension of its vectors."""
        return self.manifest.dim


def _shifted(result: tuple[Rows, NDArray[np.float32]], first_row: np.int64) -> tuple[Rows, NDArray[np.float32]]:
    rows, similarities = result
    return rows + first_row, similarities


def _open_level(directory: Path, manifest: Manifest, entry: ZoomEntry, above: Level | None, mmap: bool) -> Level:
    codes = _joined([_load(directory, s.tiles, "<u8", s.rows, mmap) for s in entry.shards], np.uint64)
    if not mmap:
        for problem in wrong_codes(entry.zoom, codes, *((None, None) if above is None else (above.zoom, above.codes))):
            raise IndexDamagedError(f"{directory}: {problem}")
    starts = _child_starts(codes, above, entry.zoom)
    holes = [_holes(directory, s) for s in entry.shards]
    vector_starts = _vector_starts(entry, holes, starts)
    shards = tuple(
        _open_shard(
            directory, manifest, s, np.diff(vector_starts[s.first_parent : s.first_parent + s.parents + 1]), h, mmap
        )
        for s, h in zip(entry.shards, holes, strict=True)
    )
    return Level(
        zoom=entry.zoom,
        codes=codes,
        starts=starts,
        vector_starts=vector_starts,
        shards=shards,
        first_rows=np.array([s.first_row for s in entry.shards], dtype=np.int64),
        first_parents=np.array([s.first_parent for s in entry.shards] + [len(starts) - 1], dtype=np.int64),
    )


def _open_shard(
    directory: Path, manifest: Manifest, shard: ShardEntry, sizes: Rows, holes: Rows, mmap: bool
) -> ShardLists:
    """`sizes`: children with a vector of each parent, (parents,); `holes`: local rows without a vector."""
    if shard.file is None:
        return NoLists(directory / shard.tiles, manifest.dim, shard.parents)
    shape = Shape(manifest.dim, shard.parents, shard.vectors, manifest.dim * CODECS[manifest.codec].itemsize)
    rows = None if mmap else np.delete(np.arange(shard.rows), holes)
    return ShardLists.open(directory / shard.file, mmap=mmap, inside=directory, shape=shape, sizes=sizes, rows=rows)


def _child_starts(codes: Codes, above: Level | None, zoom: int) -> Rows:
    """The first row of each parent's children, and at the end the number of rows: (parents + 1,) int64."""
    if above is None:
        return np.array([0, len(codes)], dtype=np.int64)
    shift = np.uint64(2 * (zoom - above.zoom))
    starts = np.searchsorted(codes, above.codes << shift)
    return np.append(starts, len(codes)).astype(np.int64)


def _vector_starts(entry: ZoomEntry, holes: list[Rows], starts: Rows) -> Rows:
    if all(shard.vectors == shard.rows for shard in entry.shards):
        return starts
    if entry.vectors == 0:
        return np.zeros_like(starts)
    missing = _joined([h + s.first_row for h, s in zip(holes, entry.shards, strict=True) if len(h)], np.int64)
    return starts - np.searchsorted(missing, starts)


def _holes(directory: Path, shard: ShardEntry) -> Rows:
    """The local rows of a shard that have no vector."""
    if shard.holes is None:
        return np.arange(0 if shard.vectors else shard.rows)
    holes = _load(directory, shard.holes, "<i8", shard.rows - shard.vectors, False)
    if len(holes) and (holes[0] < 0 or holes[-1] >= shard.rows or (holes[1:] <= holes[:-1]).any()):
        raise IndexDamagedError(
            f"{directory / shard.holes} does not list rows in ascending order: build the index again"
        )
    return holes


def _load(directory: Path, name: str, dtype: str, rows: int, mmap: bool) -> NDArray[Any]:
    path = directory / name
    try:
        array = read_npy(path, np.dtype(dtype), mapped=mmap, inside=directory)
    except (OSError, ValueError) as exc:
        raise IndexDamagedError(f"{path} is not an array file ({exc}): copy the index again or build it again") from exc
    if array.shape != (rows,):
        raise IndexDamagedError(f"{path} has shape {array.shape}, expected ({rows},): build the index again")
    return array


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    if len(parts) == 1:
        return parts[0]  # not copied, so that it stays memory-mapped
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)
