"""Units of work on disk: the vectors of a fixed run of rows, whole or absent.

A unit file is a magic, the SHA-256 of all that follows, the length of a JSON header, the header, and the body: one bit
a row for "has imagery", then the vectors of the rows that do, as the index will store them. A file that is cut, padded
or flipped anywhere is not whole and is made again. It knows nothing of encoders and of how rows are chosen.
"""

import hashlib
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.build.decode import TileProblem
from retrieval.files import write_atomically

__all__ = ["Unit", "read_unit", "unit_path", "write_unit"]

_MAGIC = b"TILEBEAM-UNIT-1\n"
_HEAD = struct.Struct("<16s32sQ")  # magic, SHA-256 of what follows it, length of the header


@dataclass(frozen=True, eq=False)
class Unit:
    """Rows [first_row, first_row + len(has_imagery)) of a zoom.

    `has_imagery`: (n,) bool; `vectors`: (m, d) float16 or float32, those of the rows that have imagery, in order;
    `encoded`: distinct pictures among them; `codes_hash`: SHA-256 of the rows' codes, so that a unit fits its rows.
    """

    zoom: int
    first_row: int
    has_imagery: NDArray[np.bool_]
    vectors: NDArray[np.floating[Any]]
    encoded: int
    codes_hash: str
    problems: tuple[TileProblem, ...] = ()


def unit_path(directory: Path, zoom: int, number: int) -> Path:
    """Where a unit lies; at most a thousand share a folder."""
    return directory / f"z{zoom:02d}" / f"{number // 1000:06d}" / f"{number:09d}.unit"


def hash_codes(codes: NDArray[np.uint64]) -> str:
    """SHA-256 of Morton codes, little-endian."""
    return hashlib.sha256(np.ascontiguousarray(codes, dtype="<u8").tobytes()).hexdigest()


def write_unit(path: Path, unit: Unit) -> None:
    """Commit a unit: flushed to disk, then renamed. The same unit gives the same bytes."""
    kept = np.ascontiguousarray(unit.vectors, dtype=unit.vectors.dtype.newbyteorder("<"))
    header = json.dumps(
        {
            "zoom": unit.zoom,
            "first_row": unit.first_row,
            "rows": len(unit.has_imagery),
            "vectors": list(kept.shape),
            "dtype": kept.dtype.str,
            "encoded": unit.encoded,
            "codes": unit.codes_hash,
            "problems": unit.problems,
        }
    ).encode()
    rest = struct.pack("<Q", len(header)) + header + np.packbits(unit.has_imagery).tobytes() + kept.tobytes()
    digest = hashlib.sha256(rest).digest()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: _write(temporary, _MAGIC + digest + rest))


def read_unit(path: Path) -> Unit | None:
    """The unit in a file, or None where there is none or it is not whole."""
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
    )


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
