"""The first directory of a TIFF, or of an EXIF block, which has the same layout: its tags, read in bounded time.

Values stay bytes until they are asked for, so that a directory whose entries all point at the same megabytes costs
nothing. Knows nothing of pixels or of what tags mean.
"""

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import PhotoTooLargeError
from retrieval.pictures.formats import too_much

__all__ = ["Directory", "orientation_of_exif"]

ORIENTATION = 274
_MAX_TAGS = 1_000
"""GDAL writes about 20, a camera's raw file some hundred."""
_MAX_RATIONALS = 10_000
"""Pillow makes a Python object of each, 12 microseconds of processor time; a place takes 6."""
_EXIF_HEAD = b"Exif\0\0"
_DTYPES = {
    1: "u1",  # BYTE
    2: "S1",  # ASCII
    3: "u2",  # SHORT
    4: "u4",  # LONG
    5: "u4",  # RATIONAL: pairs
    6: "i1",
    7: "u1",  # UNDEFINED
    8: "i2",
    9: "i4",
    10: "i4",
    11: "f4",
    12: "f8",
    13: "u4",  # IFD
    16: "u8",  # LONG8
    17: "i8",
    18: "u8",
}
_PAIRS = (5, 10)


class _Entry(NamedTuple):
    kind: int
    length: int
    at: int  # where the values lie in the file


class Directory:
    """The tags of one directory. `first`: where it begins, None: as the head says.

    Raises ValueError for a broken one, PhotoTooLargeError for too many tags or numbers.
    """

    def __init__(self, data: bytes, first: int | None = None) -> None:
        self._data = data
        self.order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
        if not self.order or len(data) < 8:
            raise ValueError("no byte order")
        self.big = self._unpack("H", 2) == 43
        if first is None:
            first = self._unpack("Q", 8) if self.big else self._unpack("I", 4)
        count = self._unpack("Q" if self.big else "H", first)
        if count > _MAX_TAGS:
            raise too_much("TIFF", "tags", count, _MAX_TAGS)
        start, step = first + (8 if self.big else 2), 20 if self.big else 12
        if start + count * step > len(data):
            raise ValueError("its directory ends behind the end of the file")
        self._entries: dict[int, _Entry] = {}
        claimed = rationals = 0
        for at in range(start, start + count * step, step):
            tag, entry = self._entry(at)
            if entry.at + _size(entry) <= len(data):  # a tag that is cut off counts as missing
                self._entries[tag] = entry
                claimed += _size(entry)
                rationals += entry.length if entry.kind in _PAIRS else 0
        if rationals > _MAX_RATIONALS:
            raise too_much("TIFF", "rational numbers in its tags", rationals, _MAX_RATIONALS)
        # Values never overlap in a file that a program wrote; a reader that copies them all would fill the memory.
        if claimed > len(data):
            raise ValueError(f"its tags claim {claimed:,} bytes of {len(data):,}")

    def __contains__(self, tag: int) -> bool:
        return tag in self._entries

    def array(self, tag: int) -> NDArray[Any]:
        """All numbers of a tag, (count,) in their stored type; empty where there is no such tag."""
        entry = self._entries.get(tag)
        if entry is None or entry.kind not in _DTYPES:
            return np.empty(0, dtype=np.int64)
        dtype = np.dtype(_DTYPES[entry.kind]).newbyteorder(self.order)  # type: ignore[arg-type]
        count = entry.length * (2 if entry.kind in _PAIRS else 1)
        return np.frombuffer(self._data, dtype, count, entry.at) if count else np.empty(0, dtype=dtype)

    def numbers(self, tag: int, most: int = 1_000) -> tuple[int, ...]:
        """The first numbers of a tag of whole numbers."""
        return tuple(int(value) for value in self.array(tag)[:most])

    def number(self, tag: int, default: int) -> int:
        """The first number of a tag, or the default where it is missing."""
        return next(iter(self.numbers(tag, 1)), default)

    def raw(self, tag: int) -> bytes:
        """A tag's bytes; empty where there is no such tag."""
        entry = self._entries.get(tag)
        return b"" if entry is None else self._data[entry.at : entry.at + _size(entry)]

    def _entry(self, at: int) -> tuple[int, _Entry]:
        tag, kind = self._unpack("H", at), self._unpack("H", at + 2)
        count = self._unpack("Q" if self.big else "I", at + 4)
        value_at = at + (12 if self.big else 8)
        entry = _Entry(kind, count, value_at)
        if _size(entry) > (8 if self.big else 4):
            entry = _Entry(kind, count, self._unpack("Q" if self.big else "I", value_at))
        return tag, entry

    def _unpack(self, kind: str, at: int) -> int:
        try:
            return int(struct.unpack_from(self.order + kind, self._data, at)[0])
        except (OverflowError, struct.error) as exc:
            raise ValueError("its directory ends behind the end of the file") from exc


def orientation_of_exif(exif: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block with or without its head; 1 where it says nothing that can be read."""
    try:
        turn = Directory(exif.removeprefix(_EXIF_HEAD)).number(ORIENTATION, 1)
    except (ValueError, PhotoTooLargeError):
        return 1
    return turn if 1 <= turn <= 8 else 1


def _size(entry: _Entry) -> int:
    width = np.dtype(_DTYPES[entry.kind]).itemsize if entry.kind in _DTYPES else 0
    return entry.length * width * (2 if entry.kind in _PAIRS else 1)
