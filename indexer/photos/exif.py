"""Where a camera says that a picture was taken: EXIF's GPS block, found without decoding a pixel.

JPEG, PNG and WebP are walked by their own segments, so that a file of any size costs a few small reads; a TIFF is such
a block itself. Other formats are refused by what the decoder says of them, or have no GPS.
"""

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO

from indexer.photos.files import file_fault, os_fault, read_picture
from indexer.photos.photo_set import Fault, Place, Reason, check_place
from retrieval.encoders.photo import PhotoLimits

__all__ = ["place_of"]

_MOST_BYTES = 1 << 20
"""An EXIF block is at most 64 KiB in a JPEG; elsewhere a length is only what the file says."""

_MARK = b"Exif\0\0"
_GPS, _LATITUDE, _LONGITUDE = 0x8825, 2, 4
"""EXIF's tags: where the GPS directory lies; in it the two angles, each after the tag of its hemisphere."""

_NO_GPS = Fault(Reason.NO_GPS, "no GPS in its EXIF: give the places in a table")


def place_of(path: str, limits: PhotoLimits) -> Place | Fault:
    """The place in a picture's EXIF, or what is wrong; never raises for what lies at `path`."""
    fault = file_fault(path)
    if fault is not None:
        return fault
    try:
        with open(path, "rb") as stream:
            known, block = _exif_block(stream)
            if known:
                return _NO_GPS if block is None else _place_in(block)
    except (OSError, ValueError) as exc:
        return os_fault(path, exc)
    verdict = read_picture(path, limits)
    return verdict if isinstance(verdict, Fault) else _NO_GPS


def _exif_block(stream: BinaryIO) -> tuple[bool, BinaryIO | None]:
    """Whether the format is one that is walked here, and its EXIF as a TIFF structure if it has one."""
    head = stream.read(12)
    if head[:4] in (b"II*\0", b"MM\0*"):
        stream.seek(0)
        return True, stream
    blocks: Iterator[bytes]
    if head.startswith(b"\xff\xd8\xff"):
        stream.seek(2)
        blocks = (data for kind, data in _jpeg_segments(stream) if kind == 0xE1 and data.startswith(_MARK))
    elif head.startswith(b"\x89PNG\r\n\x1a\n"):
        stream.seek(8)
        blocks = _exif_chunks(stream, ">L4s", b"eXIf", checksum=4)
    elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
        blocks = _exif_chunks(stream, "<4sL", b"EXIF", checksum=0)
    else:
        return False, None
    block = next(blocks, None)
    return True, None if block is None else BytesIO(block.removeprefix(_MARK))


def _jpeg_segments(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(marker, contents) of every segment before the pixels."""
    while len(marker := stream.read(4)) == 4 and marker[0] == 0xFF and marker[1] != 0xDA:
        length = int.from_bytes(marker[2:], "big") - 2
        if marker[1] == 0xFF:  # padding before a marker
            stream.seek(-3, 1)
        elif length < 0:
            return
        else:
            yield marker[1], stream.read(length)


def _exif_chunks(stream: BinaryIO, head: str, wanted: bytes, checksum: int) -> Iterator[bytes]:
    """Contents of the wanted chunks of a PNG or a WebP, whose chunks have heads of this form; others are skipped."""
    while len(data := stream.read(8)) == 8:
        first, second = struct.unpack(head, data)
        kind, length = (second, first) if isinstance(first, int) else (first, second)
        if kind == wanted and length <= _MOST_BYTES:
            yield stream.read(length)
            return
        stream.seek(length + (checksum or length % 2), 1)


def _place_in(block: BinaryIO) -> Place | Fault:
    """The GPS directory of an EXIF structure as a place."""
    try:
        gps = _gps_directory(block)
        if not {_LATITUDE, _LONGITUDE} & gps.keys():
            return _NO_GPS
        lat = _degrees(gps, _LATITUDE, b"NS")
        lng = _degrees(gps, _LONGITUDE, b"EW")
    except (ArithmeticError, KeyError, ValueError, struct.error) as exc:
        return Fault(Reason.BROKEN_GPS, f"its EXIF GPS cannot be read ({type(exc).__name__}: {exc})")
    return check_place(lng, lat)


def _gps_directory(block: BinaryIO) -> dict[int, tuple[Any, ...]]:
    """Values by tag of the directory that tag 0x8825 of the first one points to; empty if none does."""
    head = block.read(8)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None:
        raise ValueError(f"it begins with {head[:4]!r}")
    first = _directory(block, order, struct.unpack(order + "4xL", head)[0])
    return _directory(block, order, first[_GPS][0]) if _GPS in first else {}


def _directory(block: BinaryIO, order: str, at: int) -> dict[int, tuple[Any, ...]]:
    """The values of those tags of a TIFF directory that say where it was taken; struct.error where it is cut off."""
    block.seek(at)
    (count,) = struct.unpack(order + "H", block.read(2))
    entries = [struct.unpack(order + "HHL4s", block.read(12)) for _ in range(count)]
    return {
        tag: _values(block, order, *entry)
        for tag, *entry in entries
        if tag in (_GPS, _LATITUDE - 1, _LATITUDE, _LONGITUDE - 1, _LONGITUDE)
    }


def _values(block: BinaryIO, order: str, kind: int, count: int, inline: bytes) -> tuple[Any, ...]:
    """An entry's values: text as one bytes, a long, or up to three rationals as (numerator, denominator, ...)."""
    form = {2: f"{min(count, 4)}s", 4: "L", 5: "2L" * min(count, 3)}.get(kind)
    if form is None or not count:
        raise ValueError(f"an entry of type {kind} with {count} values")
    if kind == 5:
        block.seek(struct.unpack(order + "L", inline)[0])
        inline = block.read(struct.calcsize("=" + form))
    return struct.unpack_from(order + form, inline)


def _degrees(gps: dict[int, tuple[Any, ...]], tag: int, signs: bytes) -> float:
    """Degrees, minutes and seconds with their hemisphere as signed degrees; raises for anything else."""
    side = gps[tag - 1][0].strip(b"\0 ").upper()
    if len(side) != 1 or side not in signs:
        raise ValueError(f"hemisphere {side!r} is neither of {signs!r}")
    parts = [top / bottom for top, bottom in zip(gps[tag][::2], gps[tag][1::2], strict=True)]
    degrees, minutes, seconds = (*parts, 0.0, 0.0)[:3]
    if minutes >= 60 or seconds > 60:
        raise ValueError(f"{degrees:g} degrees, {minutes:g} minutes, {seconds:g} seconds")
    total: float = degrees + minutes / 60 + seconds / 3600
    return -total if side == signs[1:] else total
