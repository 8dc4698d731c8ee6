"""Rows of a build on disk: the codes of a zoom, and units, the vectors of a fixed run of its rows.

Rows are numbered in Morton order over the whole zoom. A unit file is whole or absent. It is a magic, the SHA-256 of
all that follows, the length of a JSON header, the header, and the body: one bit a row for "has imagery", then the
vectors of the rows that have it, as the index will store them. A file that is cut, padded or flipped anywhere is not
whole and is made again. The module knows nothing of encoders.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.build.coverage import Coverage
from indexer.build.decode import TileProblem
from indexer.build.workdir import Workdir
from indexer.errors import BuildError
from retrieval.files import write_atomically

__all__ = ["Unit", "ZoomRows", "cover", "hash_codes", "read_unit", "unit_path", "write_unit"]

Codes = NDArray[np.uint64]
Flags = NDArray[np.bool_]
Vectors = NDArray[np.floating[Any]]

_MAGIC = b"TILEBEAM-UNIT-1\n"
_HEAD = struct.Struct("<16s32sQ")  # magic, SHA-256 of what follows it, length of the header


@dataclass(frozen=True, eq=False)
class Unit:
    """Rows [first_row, first_row + len(has_imagery)) of a zoom.

    `has_imagery`: (n,) bool; `vectors`: (m, d) float16 or float32, those of the rows with imagery, in order;
    `encoded`: distinct pictures among them; `codes_hash`: SHA-256 of the rows' codes, by which a unit fits its rows;
    `repeats`: tiles with equal bytes, as (their SHA-256, how many, the first one's row), for two and more.
    """

    zoom: int
    first_row: int
    has_imagery: Flags
    vectors: Vectors
    encoded: int
    codes_hash: str
    problems: tuple[TileProblem, ...] = ()
    repeats: tuple[tuple[str, int, int], ...] = ()


class ZoomRows:
    """The rows of one zoom: `codes`, (n,) uint64 ascending, perhaps memory-mapped, and their vectors in unit files.

    A unit in the folder `filled` replaces the one in `units`: there, rows without imagery have their children's mean.
    """

    def __init__(self, zoom: int, codes: Codes, units: Path, filled: Path, unit_rows: int) -> None:
        self.zoom, self.codes, self.unit_rows = zoom, codes, unit_rows
        self.units, self.filled = units, filled
        # Parents and shards read neighbouring rows many times.
        self._cached = lru_cache(maxsize=8)(self.unit)

    @property
    def unit_count(self) -> int:
        """Units of this zoom."""
        return -(-len(self.codes) // self.unit_rows)

    def unit_codes(self, number: int) -> Codes:
        """The codes of a unit's rows, in memory."""
        return np.asarray(self.codes[number * self.unit_rows : (number + 1) * self.unit_rows])

    def embedded(self, number: int) -> Unit | None:
        """A unit as it was embedded, or None if it is missing, not whole, or made for other rows."""
        unit = read_unit(unit_path(self.units, self.zoom, number))
        return unit if unit is not None and unit.codes_hash == hash_codes(self.unit_codes(number)) else None

    def original(self, number: int) -> Unit:
        """A unit as it was embedded. Raises BuildError if it is not whole."""
        unit = self.embedded(number)
        if unit is None:
            path = unit_path(self.units, self.zoom, number)
            raise BuildError(f"{path} is damaged or missing: run the same command again to make it again")
        return unit

    def unit(self, number: int) -> Unit:
        """A unit with its means, if it has been filled. Raises BuildError if it is not whole."""
        return read_unit(unit_path(self.filled, self.zoom, number)) or self.original(number)

    def gather(self, start: int, stop: int) -> tuple[Flags, Vectors]:
        """Rows [start, stop): which have a vector, (n,) bool, and those vectors, (m, d)."""
        flags, vectors = [], []
        for number in range(start // self.unit_rows, -(-stop // self.unit_rows)):
            unit, first = self._cached(number), number * self.unit_rows
            low, high = max(start - first, 0), min(stop - first, len(unit.has_imagery))
            before = int(np.count_nonzero(unit.has_imagery[:low]))
            has_vector = unit.has_imagery[low:high]
            flags.append(has_vector)
            vectors.append(unit.vectors[before : before + int(np.count_nonzero(has_vector))])
        return np.concatenate(flags), np.concatenate(vectors)


def cover(work: Workdir, coverage: Coverage, counts: Mapping[int, int], unit_rows: int) -> list[ZoomRows]:
    """The rows of every zoom. Their codes are written to disk, so that no zoom needs to fit into memory.

    `counts`: tiles of each zoom, as `coverage.counts()` gives them.
    """
    work.rows.mkdir(exist_ok=True)
    levels = []
    for zoom in coverage.zooms:
        codes = _stored_codes(work.rows / f"z{zoom:02d}.npy", coverage, zoom, counts[zoom])
        levels.append(ZoomRows(zoom, codes, work.units, work.filled, unit_rows))
    return levels


def unit_path(directory: Path, zoom: int, number: int) -> Path:
    """The file of a unit; at most a thousand share a folder."""
    return directory / f"z{zoom:02d}" / f"{number // 1000:06d}" / f"{number:09d}.unit"


def hash_codes(codes: Codes) -> str:
    """SHA-256 of Morton codes, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(codes, dtype="<u8").tobytes()).hexdigest()


def write_unit(path: Path, unit: Unit) -> None:
    """Write a unit: flushed to disk, then renamed. The same unit gives the same bytes."""
    vectors = np.ascontiguousarray(unit.vectors, dtype=unit.vectors.dtype.newbyteorder("<"))
    header = json.dumps(
        {
            "zoom": unit.zoom,
            "first_row": unit.first_row,
            "rows": len(unit.has_imagery),
            "vectors": list(vectors.shape),
            "dtype": vectors.dtype.str,
            "encoded": unit.encoded,
            "codes": unit.codes_hash,
            "problems": unit.problems,
            "repeats": unit.repeats,
        }
    ).encode()
    rest = struct.pack("<Q", len(header)) + header + np.packbits(unit.has_imagery).tobytes() + vectors.tobytes()
    data = _MAGIC + hashlib.sha256(rest).digest() + rest
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: _write(temporary, data))


def read_unit(path: Path) -> Unit | None:
    """The unit in a file, or None if the file is missing or not whole."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(data) < _HEAD.size:
        return None
    magic, digest, length = _HEAD.unpack_from(data)
    if magic != _MAGIC or hashlib.sha256(memoryview(data)[48:]).digest() != digest:
        return None
    return _parsed(json.loads(data[_HEAD.size : _HEAD.size + length]), data, _HEAD.size + length)


def _parsed(header: dict[str, Any], data: bytes, start: int) -> Unit:
    rows, shape = header["rows"], tuple(header["vectors"])
    packed = (rows + 7) // 8
    flags = np.unpackbits(np.frombuffer(data, np.uint8, packed, start), count=rows).astype(np.bool_)
    vectors = np.frombuffer(data, np.dtype(header["dtype"]), offset=start + packed).reshape(shape)
    return Unit(
        zoom=header["zoom"],
        first_row=header["first_row"],
        has_imagery=flags,
        vectors=vectors,
        encoded=header["encoded"],
        codes_hash=header["codes"],
        problems=tuple(TileProblem(*p) for p in header["problems"]),
        repeats=tuple((str(sha256), int(count), int(row)) for sha256, count, row in header.get("repeats", ())),
    )


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _stored_codes(path: Path, coverage: Coverage, zoom: int, count: int) -> Codes:
    """The covered codes of a zoom, (count,) uint64, memory-mapped; the file is written unless it is whole."""
    codes = _load_codes(path, count)
    if codes is None:
        write_atomically(path, lambda temporary: _write_codes(temporary, coverage, zoom, count))
        codes = _load_codes(path, count)
    if codes is None:
        raise BuildError(f"{path} does not hold the {count:,} codes just written: is the disk failing?")
    return codes


def _load_codes(path: Path, count: int) -> Codes | None:
    try:
        codes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return codes if codes.dtype == np.uint64 and codes.shape == (count,) else None


def _write_codes(path: Path, coverage: Coverage, zoom: int, count: int) -> None:
    """An .npy file of known length, written as the codes stream by."""
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<u8", "fortran_order": False, "shape": (count,)})
        for codes in coverage.chunks(zoom):
            stream.write(codes.astype("<u8").tobytes())
