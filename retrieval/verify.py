"""The slow, thorough check of an index directory: every byte of every file, and every list against the tiles.

Opening an index checks what is quick; this is `tilebeam inspect --verify`. It changes nothing and reports all it finds.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import CalibrationError, IndexDamagedError
from retrieval.index.calibration import Calibration
from retrieval.index.manifest import Manifest, ShardEntry, check_file
from retrieval.index.reader import Level, TileIndex
from retrieval.index.shards import ShardLists


def verify(directory: Path, on_file: Callable[[str, int], None] | None = None) -> list[str]:
    """Check an index; returns what is wrong with it, one sentence each, nothing if it is sound.

    `on_file` is called with each file's name and size once it is read. Raises IndexMissingError, IndexVersionError or
    IndexDamagedError where there is no readable manifest to check against.
    """
    manifest = Manifest.read(directory)
    problems = list(_wrong_files(directory, manifest, on_file))
    if not problems:  # what is in a damaged file says nothing about the lists
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
        yield from _wrong_codes(level, index.levels[i - 1] if i else None)
        for shard, lists in zip(index.manifest.zooms[i].shards, level.shards, strict=True):
            yield from _wrong_lists(directory, level, shard, lists)


def _wrong_codes(level: Level, above: Level | None) -> Iterator[str]:
    codes = level.codes
    if (codes[1:] <= codes[:-1]).any():
        yield f"zoom {level.zoom}: Morton codes do not ascend: build the index again"
    if len(codes) and int(codes[-1]) >= 4**level.zoom:
        yield f"zoom {level.zoom}: Morton code {codes[-1]} lies outside the zoom: build the index again"
    if above is None:
        return
    parents = codes >> np.uint64(2 * (level.zoom - above.zoom))
    places = np.minimum(np.searchsorted(above.codes, parents), max(len(above.codes) - 1, 0))
    orphans = len(codes) if not len(above.codes) else int(np.count_nonzero(above.codes[places] != parents))
    if orphans:
        yield f"zoom {level.zoom}: {orphans} tiles have no parent at zoom {above.zoom}: build the index again"


def _wrong_lists(directory: Path, level: Level, shard: ShardEntry, lists: ShardLists) -> Iterator[str]:
    name, flags = directory / (shard.file or shard.tiles), _flags(directory, shard)
    codes = level.codes[shard.first_row : shard.first_row + shard.rows]
    starts = level.starts[shard.first_parent : shard.first_parent + shard.parents + 1] - shard.first_row
    digest = hashlib.sha256(np.ascontiguousarray(codes, dtype="<u8").tobytes())
    digest.update(np.packbits(flags).tobytes())
    for number in range(shard.parents):
        first, last = int(starts[number]), int(starts[number + 1])
        expected = first + np.flatnonzero(flags[first:last])
        if not np.array_equal(lists.rows_of(number), expected):
            yield f"{name}: list {number} does not hold exactly its parent's children: rebuild it"
            return
        digest.update(lists.stored(number).tobytes())
    if digest.hexdigest() != shard.content:
        yield f"{name}: its vectors are not those that the manifest's content hash names: rebuild it"


def _flags(directory: Path, shard: ShardEntry) -> NDArray[np.bool_]:
    """Which rows of a shard have a vector, (rows,) bool."""
    flags = np.full(shard.rows, shard.file is not None)
    if shard.holes is not None:
        flags[np.load(directory / shard.holes, allow_pickle=False)] = False
    return flags
