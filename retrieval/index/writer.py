"""Write an index directory: its shards, then the manifest, which declares the directory complete.

Builds, fakes and benchmarks all write through this module. It knows the format; it knows nothing of tiles' pictures,
encoders or resuming.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import IndexFormatError
from retrieval.files import write_npy
from retrieval.index.file_entries import file_entry
from retrieval.index.manifest import Manifest, ShardEntry, ZoomEntry
from retrieval.index.shards import content_hash, stored_blocks, write_lists

__all__ = ["ENCODERS", "write_manifest", "write_shard"]

ENCODERS = "encoders"
"""The folder of an index that holds the photo encoder, if the encoder came from local files."""

Codes = NDArray[np.uint64]
Rows = NDArray[np.int64]


def write_shard(
    directory: Path,
    zoom: int,
    number: int,
    codes: Codes,
    vectors: NDArray[np.floating[Any]] | None = None,
    has_vector: NDArray[np.bool_] | None = None,
    *,
    parents: Rows,
    first_row: int,
    first_parent: int,
    parent_count: int,
    codec: str = "fp16",
) -> ShardEntry:
    """Write one shard's files; the same input gives the same bytes. Returns its entry, with its files' hashes.

    `codes`: (n,) uint64, ascending. `has_vector`: (n,) bool; None: all rows. `vectors`: unit rows, (n, d), ignored
    where `has_vector` is false, or (m, d), only where it is true; None: the shard has no vectors and no lists file.
    `parents`: (n,) int64, the row of the zoom above that each tile lies in, counted over the whole zoom; zeros at the
    first zoom. The shard owns the parents [first_parent, first_parent + parent_count), childless ones too. Raises
    IndexFormatError if the input is out of order.
    """
    local = np.asarray(parents, dtype=np.int64) - first_parent
    if has_vector is None or vectors is None:
        has_vector = np.full(len(codes), vectors is not None)
    _check_order(zoom, number, codes, has_vector, local, parent_count)
    stem = f"z{zoom:02d}-{number:04d}"
    tiles, lists, holes = f"{stem}.tiles.npy", None, None
    rows = np.flatnonzero(has_vector).astype(np.int64)
    stored = np.empty((0, 0), dtype=np.float32) if vectors is None else vectors
    if len(stored) == len(codes) and not has_vector.all():
        stored = stored[has_vector]
    if len(stored) != len(rows):
        raise IndexFormatError(f"zoom {zoom} shard {number}: {len(stored)} vectors for {len(rows)} rows with one")
    write_npy(directory / tiles, np.asarray(codes, dtype=np.uint64))
    if vectors is not None:
        lists = f"{stem}.faiss"
        write_lists(directory / lists, stored, rows, local[rows], parent_count, codec)
        if len(rows) < len(codes):
            holes = f"{stem}.holes.npy"
            write_npy(directory / holes, np.flatnonzero(~has_vector).astype(np.int64))
    return ShardEntry(
        file=lists,
        tiles=tiles,
        holes=holes,
        first_row=int(first_row),
        rows=len(codes),
        first_parent=int(first_parent),
        parents=int(parent_count),
        vectors=len(rows),
        content=content_hash(codes, has_vector, stored_blocks(stored, codec)),
        files=tuple(file_entry(directory, name) for name in (lists, tiles, holes) if name is not None),
    )


def write_manifest(
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
    other_files: Iterable[str] = (),
    pictures: str | None = None,
) -> Manifest:
    """Declare a directory complete: write and return the manifest. For the arguments see `Manifest`.

    It lists the files of the shards (their entries must carry them, as those of `write_shard` do), the files under
    `encoders/`, and those of `other_files` that exist.
    """
    encoders = [p.relative_to(directory).as_posix() for p in (directory / ENCODERS).rglob("*") if p.is_file()]
    names = encoders + [name for name in other_files if (directory / name).exists()]
    files = [entry for zoom in zooms for shard in zoom.shards for entry in shard.files]
    files += [file_entry(directory, name) for name in names]
    manifest = Manifest(
        zooms=tuple(zooms),
        dim=dim,
        codec=codec,
        photo_encoder=photo_encoder,
        map_encoders=map_encoders,
        source=source,
        attribution=attribution,
        coverage=coverage,
        pictures=pictures,
        files=tuple(sorted(files, key=lambda entry: entry.name)),
    )
    manifest.write(directory)
    return manifest


def _check_order(
    zoom: int, number: int, codes: Codes, has_vector: NDArray[np.bool_], local: Rows, parent_count: int
) -> None:
    name = f"zoom {zoom} shard {number}"
    if not len(codes) == len(has_vector) == len(local):
        raise IndexFormatError(f"{name}: {len(codes)} codes, {len(has_vector)} flags and {len(local)} parents differ")
    if (codes[1:] <= codes[:-1]).any():
        raise IndexFormatError(f"{name}: Morton codes must ascend")
    if len(local) and (local[0] < 0 or local[-1] >= parent_count or (local[1:] < local[:-1]).any()):
        raise IndexFormatError(f"{name}: parents must ascend and lie in the shard's {parent_count} parents")
