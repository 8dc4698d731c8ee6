"""The complete check of an index directory, `tilebeam inspect --verify`: every byte, and every list against the tiles.

Opening an index makes only the fast checks. This one changes nothing and reports every problem.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CalibrationError, IndexDamagedError
from retrieval.files import read_npy
from retrieval.index.calibration import Calibration
from retrieval.index.file_entries import check_file
from retrieval.index.manifest import Manifest, ShardEntry
from retrieval.index.reader import Level, TileIndex
from retrieval.index.shards import ShardLists, content_hash
from retrieval.index.structure import wrong_codes


def verify(directory: Path, on_file: Callable[[str, int], None] | None = None) -> list[str]:
    """Check an index; returns one sentence per problem.

    `on_file` is called with each file's name and size after it was read. Raises IndexMissingError, IndexVersionError or
    IndexDamagedError if there is no readable manifest to check against.
    """
    manifest = Manifest.read(directory)
    problems = list(_wrong_files(directory, manifest, on_file))
    if not problems:  # the lists of damaged files are not worth checking
        problems = list(_wrong_structure(directory))
    for prior in (None, *manifest.priors):
        try:
            Calibration.read(directory, prior)
        except CalibrationError as exc:
            problems.append(str(exc))
    return problems


def _wrong_files(directory: Path, manifest: Manifest, on_file: Callable[[str, int], None] | None) -> Iterator[str]:
    for entry in manifest.files:
        try:
            check_file(directory, entry, contents=True)
        except IndexDamagedError as exc:
            yield str(exc)
        if on_file is not None:
            on_file(entry.name, entry.bytes)


def _wrong_structure(directory: Path) -> Iterator[str]:
    try:
        index = TileIndex.open(directory)
    except IndexDamagedError as exc:
        yield str(exc)
        return
    for i, level in enumerate(index.levels):
        above = index.levels[i - 1] if i else None
        yield from wrong_codes(level.zoom, level.codes, *((None, None) if above is None else (above.zoom, above.codes)))
        for shard, lists in zip(index.manifest.zooms[i].shards, level.shards, strict=True):
            yield from _wrong_lists(directory, level, shard, lists)


def _wrong_lists(directory: Path, level: Level, shard: ShardEntry, lists: ShardLists) -> Iterator[str]:
    name, has_vector = directory / (shard.file or shard.tiles), _has_vector(directory, shard)
    codes = level.codes[shard.first_row : shard.first_row + shard.rows]
    starts = level.starts[shard.first_parent : shard.first_parent + shard.parents + 1] - shard.first_row
    for number in range(shard.parents):
        first, last = int(starts[number]), int(starts[number + 1])
        if not np.array_equal(lists.rows_of(number), first + np.flatnonzero(has_vector[first:last])):
            yield f"{name}: list {number} does not hold exactly the children of its parent: build the index again"
            return
    if content_hash(codes, has_vector, map(lists.stored, range(shard.parents))) != shard.content:
        yield f"{name}: its vectors do not have the content hash in the manifest: build the index again"


def _has_vector(directory: Path, shard: ShardEntry) -> NDArray[np.bool_]:
    """Whether each row of a shard has a vector, (rows,) bool."""
    flags = np.full(shard.rows, shard.file is not None)
    if shard.holes is not None:
        flags[read_npy(directory / shard.holes, np.dtype("<i8"), inside=directory)] = False
    return flags
