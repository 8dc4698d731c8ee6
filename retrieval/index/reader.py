"""An index directory: levels of tiles with vectors, written shard by shard and searched list by list.

Row r of a zoom owns list r of the next zoom; codes ascend over all shards of a zoom. Vectors are unit rows,
similarities are cosines. This module knows nothing of probabilities, photos or places.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexDamagedError, IndexFormatError
from retrieval.files import write_npy
from retrieval.index.manifest import Manifest, ShardEntry, ZoomEntry, all_files, file_entry
from retrieval.index.shards import NoLists, ShardLists, content_hash, write_lists

__all__ = ["Candidates", "Level", "TileIndex", "finish", "write_rows", "write_shard"]

Codes = NDArray[np.uint64]
Rows = NDArray[np.int64]


class Candidates(NamedTuple):
    """What a level returns: (c,) arrays in ascending row order."""

    rows: Rows
    similarities: NDArray[np.float32]
    slots: Rows  # which of the probed parents, by position, each row is a child of


def write_shard(
    directory: Path,
    zoom: int,
    number: int,
    codes: Codes,
    vectors: NDArray[np.floating[Any]],
    has_vector: NDArray[np.bool_],
    *,
    parents: Rows,
    first_row: int,
    first_parent: int,
    parent_count: int,
    codec: str = "fp16",
) -> ShardEntry:
    """Write one shard's files; the same input gives the same bytes. Returns its entry, hashes of its files included.

    `codes`: (n,) uint64 ascending; `vectors`: (n, d) unit rows (rows without vector are ignored), or (m, d), those that
    have one; `has_vector`: (n,) bool; `parents`: (n,) int64, the row of the zoom above that each tile lies in (global;
    zeros at the first zoom). The shard owns parents [first_parent, first_parent + parent_count), childless ones too.
    Raises IndexFormatError for input that breaks the order.
    """
    local = np.asarray(parents, dtype=np.int64) - first_parent
    _check_shard(zoom, number, codes, has_vector, local, parent_count)
    if len(vectors) == len(codes) and not has_vector.all():
        vectors = vectors[has_vector]
    rows = np.flatnonzero(has_vector).astype(np.int64)
    if len(vectors) != len(rows):
        raise IndexFormatError(f"zoom {zoom} shard {number}: {len(vectors)} vectors for {len(rows)} rows that have one")
    stem = f"z{zoom:02d}-{number:04d}"
    names = [f"{stem}.faiss", f"{stem}.tiles.npy"]
    write_lists(directory / names[0], vectors, rows, local[rows], parent_count, codec)
    write_npy(directory / names[1], np.asarray(codes, dtype=np.uint64))
    if len(rows) < len(codes):
        names.append(f"{stem}.holes.npy")
        write_npy(directory / names[2], np.flatnonzero(~has_vector).astype(np.int64))
    return ShardEntry(
        file=names[0],
        tiles=names[1],
        holes=names[2] if len(names) > 2 else None,
        first_row=int(first_row),
        rows=len(codes),
        first_parent=int(first_parent),
        parents=int(parent_count),
        vectors=len(rows),
        content=content_hash(codes, has_vector, vectors, codec),
        files=tuple(file_entry(directory, name) for name in names),
    )


def write_rows(
    directory: Path,
    zoom: int,
    number: int,
    codes: Codes,
    *,
    parents: Rows,
    first_row: int,
    first_parent: int,
    parent_count: int,
) -> ShardEntry:
    """Write a shard of tiles without any vector: their codes, no lists. Arguments and errors as of `write_shard`."""
    none = np.zeros(len(codes), dtype=np.bool_)
    _check_shard(zoom, number, codes, none, np.asarray(parents, dtype=np.int64) - first_parent, parent_count)
    name = f"z{zoom:02d}-{number:04d}.tiles.npy"
    write_npy(directory / name, np.asarray(codes, dtype=np.uint64))
    return ShardEntry(
        file=None,
        tiles=name,
        holes=None,
        first_row=int(first_row),
        rows=len(codes),
        first_parent=int(first_parent),
        parents=int(parent_count),
        vectors=0,
        content=content_hash(codes, none, np.empty((0, 0), dtype=np.float32), "fp16"),
        files=(file_entry(directory, name),),
    )


def finish(
    directory: Path,
    zooms: Sequence[ZoomEntry],
    *,
    dim: int,
    codec: str,
    photo_encoder: Mapping[str, Any],
    map_encoders: Mapping[str, Any],
    source: Mapping[str, Any],
    attribution: str,
    coverage: Mapping[str, Any],
) -> Manifest:
    """Declare a directory whole: hash what lies under `encoders/`, write the manifest, return it.

    The shards' entries must carry their `files` (as `write_shard` returns them).
    """
    encoders = [file_entry(directory, name) for name in _encoder_files(directory)]
    manifest = Manifest(
        zooms=tuple(zooms),
        dim=dim,
        codec=codec,
        photo_encoder=photo_encoder,
        map_encoders=map_encoders,
        source=source,
        attribution=attribution,
        coverage=coverage,
        files=all_files(zooms, encoders),
    )
    manifest.write(directory)
    return manifest


@dataclass(frozen=True)
class Level:
    """One zoom, open for searching. Parents are rows of the level above (one pseudo-parent at the first level)."""

    zoom: int
    codes: Codes  # (n,) ascending
    starts: Rows  # (parents + 1,): children of parent p are rows starts[p] to starts[p + 1]
    vector_starts: Rows  # (parents + 1,): the same, counting only rows with a vector
    shards: tuple[ShardLists, ...]
    first_rows: Rows  # (shards,)
    first_parents: Rows  # (shards + 1,)

    @property
    def has_vectors(self) -> bool:
        """Whether any of its tiles has one; tiles of a zoom without can only be told apart by a prior."""
        return any(shard.vectors for shard in self.shards)

    def search(self, query: NDArray[np.float32], parents: Rows) -> Candidates:
        """Similarities of all children with a vector of `parents`, (m,) int64 ascending, to `query`, (d,) float32.

        At a zoom of rows only: all children, their similarities 0.
        """
        if not self.has_vectors:
            return self._rows_alone(parents)
        counts = self.vector_starts[parents + 1] - self.vector_starts[parents]
        slots = np.arange(len(parents)).repeat(counts)
        if len(self.shards) == 1:
            rows, similarities = self.shards[0].similarities(query, parents)
        else:
            rows, similarities = self._search_shards(query, parents)
        return Candidates(rows, similarities, slots)

    def _rows_alone(self, parents: Rows) -> Candidates:
        counts = self.starts[parents + 1] - self.starts[parents]
        slots = np.arange(len(parents)).repeat(counts)
        rows = np.arange(len(slots)) + (self.starts[parents + 1] - np.cumsum(counts))[slots]
        return Candidates(rows, np.zeros(len(rows), dtype=np.float32), slots)

    def _search_shards(self, query: NDArray[np.float32], parents: Rows) -> tuple[Rows, NDArray[np.float32]]:
        cuts = np.searchsorted(parents, self.first_parents)
        found = [
            _shifted(shard.similarities(query, parents[a:b] - self.first_parents[i]), self.first_rows[i])
            for i, (shard, a, b) in enumerate(zip(self.shards, cuts[:-1], cuts[1:], strict=True))
            if b > a
        ]
        if not found:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])


class TileIndex:
    """All levels of an index directory, coarse to fine. Immutable and safe to search from many threads."""

    def __init__(self, directory: Path, manifest: Manifest, levels: tuple[Level, ...]) -> None:
        self.directory = directory
        self.manifest = manifest
        self.levels = levels

    @classmethod
    def open(cls, directory: Path, *, mmap: bool = True) -> "TileIndex":
        """Check a directory (version, sizes, contents of small files) and open it; raises IndexFormatError's kinds."""
        manifest = Manifest.read(directory)
        manifest.check_files(directory)
        levels: list[Level] = []
        for entry in manifest.zooms:
            levels.append(_open_level(directory, manifest, entry, levels[-1] if levels else None, mmap))
        return cls(directory, manifest, tuple(levels))

    @property
    def zooms(self) -> list[int]:
        """Its zooms, ascending."""
        return [level.zoom for level in self.levels]

    @property
    def dim(self) -> int:
        """Components of a vector."""
        return self.manifest.dim


def _check_shard(
    zoom: int, number: int, codes: Codes, has_vector: NDArray[np.bool_], local: Rows, parent_count: int
) -> None:
    name = f"zoom {zoom} shard {number}"
    if not len(codes) == len(has_vector) == len(local):
        raise IndexFormatError(f"{name}: {len(codes)} codes, {len(has_vector)} flags, {len(local)} parents")
    if (codes[1:] <= codes[:-1]).any():
        raise IndexFormatError(f"{name}: Morton codes must ascend")
    if len(local) and (local[0] < 0 or local[-1] >= parent_count or (local[1:] < local[:-1]).any()):
        raise IndexFormatError(f"{name}: parents must ascend within its {parent_count}")


def _encoder_files(directory: Path) -> Iterable[str]:
    found = (directory / "encoders").rglob("*")
    return sorted(path.relative_to(directory).as_posix() for path in found if path.is_file())


def _shifted(found: tuple[Rows, NDArray[np.float32]], first_row: np.int64) -> tuple[Rows, NDArray[np.float32]]:
    return found[0] + first_row, found[1]


def _open_level(directory: Path, manifest: Manifest, entry: ZoomEntry, above: Level | None, mmap: bool) -> Level:
    codes = _joined([_load(directory / s.tiles, np.uint64, s.rows, mmap) for s in entry.shards], np.uint64)
    starts = _child_starts(codes, above, entry.zoom)
    shards = tuple(_open_shard(directory, manifest, s, mmap) for s in entry.shards)
    return Level(
        zoom=entry.zoom,
        codes=codes,
        starts=starts,
        vector_starts=_vector_starts(directory, entry, starts),
        shards=shards,
        first_rows=np.array([s.first_row for s in entry.shards], dtype=np.int64),
        first_parents=np.array([s.first_parent for s in entry.shards] + [len(starts) - 1], dtype=np.int64),
    )


def _open_shard(directory: Path, manifest: Manifest, shard: ShardEntry, mmap: bool) -> ShardLists:
    if shard.file is None:
        return NoLists(directory / shard.tiles, manifest.dim, shard.parents)
    lists = ShardLists.open(directory / shard.file, mmap=mmap)
    found, expected = (lists.dim, lists.lists, lists.vectors), (manifest.dim, shard.parents, shard.vectors)
    if found != expected:
        raise IndexDamagedError(
            f"{directory / shard.file} has (dimension, lists, vectors) {found}, not {expected} as the manifest says: "
            "build the index again"
        )
    return lists


def _child_starts(codes: Codes, above: Level | None, zoom: int) -> Rows:
    """(parents + 1,) int64: where each parent's children begin; codes of `above` times 4 to the step bound them."""
    if above is None:
        return np.array([0, len(codes)], dtype=np.int64)
    shift = np.uint64(2 * (zoom - above.zoom))
    starts = np.searchsorted(codes, above.codes << shift)
    return np.append(starts, len(codes)).astype(np.int64)


def _vector_starts(directory: Path, entry: ZoomEntry, starts: Rows) -> Rows:
    if all(shard.vectors == shard.rows for shard in entry.shards):
        return starts
    if entry.vectors == 0:
        return np.zeros_like(starts)
    holes = _joined([_holes(directory, s) + s.first_row for s in entry.shards if s.vectors < s.rows], np.int64)
    return starts - np.searchsorted(holes, starts)


def _holes(directory: Path, shard: ShardEntry) -> Rows:
    """The local rows of a shard that have no vector."""
    if shard.holes is None:
        return np.arange(shard.rows)
    return _load(directory / shard.holes, np.int64, shard.rows - shard.vectors, False)


def _load(path: Path, dtype: type, rows: int, mmap: bool) -> NDArray[Any]:
    try:
        array = np.load(path, mmap_mode="r" if mmap and rows else None, allow_pickle=False)
    except (OSError, ValueError) as exc:
        raise IndexDamagedError(f"{path} is no array ({exc}): copy the index again or rebuild it") from exc
    if array.dtype != dtype or array.shape != (rows,):
        raise IndexDamagedError(
            f"{path} is {array.shape} {array.dtype}, expected ({rows},) {np.dtype(dtype)}: rebuild it"
        )
    return np.asarray(array)


def _joined(parts: list[NDArray[Any]], dtype: type) -> NDArray[Any]:
    if len(parts) == 1:
        return parts[0]  # as it is mapped, not copied
    return np.concatenate(parts) if parts else np.empty(0, dtype=dtype)
