"""Where a camera says that a picture was taken: EXIF's GPS block, found without decoding a pixel.

JPEG, PNG and WebP are walked by their own segments, so that a file of any size costs a few small reads; a TIFF is such
a block itself. Other formats are refused by what the decoder says of them, or have no GPS.
"""

import math
from collections.abc import Iterator
from typing import Any, BinaryIO

from PIL import ExifTags, Image

from indexer.photos.photo_set import Fault, Reason
from indexer.photos.pictures import file_fault, os_fault, read_picture
from indexer.photos.places import Place, check_place
from indexer.retrieval.photo import PhotoLimits

__all__ = ["place_of"]

_MOST_BYTES = 1 << 20
"""An EXIF block is at most 64 KiB in a JPEG; elsewhere a length is only what the file says."""

_NO_GPS = Fault(Reason.NO_GPS, "no GPS in its EXIF: give the places in a table")


def place_of(path: str, limits: PhotoLimits) -> Place | Fault:
    """The place in a picture's EXIF, or what is wrong; never raises for what lies at `path`."""
    fault = file_fault(path)
    if fault is not None:
        return fault
    try:
        with open(path, "rb") as stream:
            known, block = _exif_block(stream, limits)
    except (OSError, ValueError) as exc:
        return os_fault(path, exc)
    if known:
        return _NO_GPS if block is None else _place_in(block)
    verdict = read_picture(path, limits)
    return verdict if isinstance(verdict, Fault) else _NO_GPS


def _exif_block(stream: BinaryIO, limits: PhotoLimits) -> tuple[bool, bytes | None]:
    """Whether the format is one that is walked here, and its EXIF as a TIFF structure if it has one."""
    head = stream.read(12)
    blocks: Iterator[bytes]
    if head.startswith(b"\xff\xd8\xff"):
        stream.seek(2)
        blocks = (data[6:] for kind, data in _jpeg_segments(stream) if kind == 0xE1 and data.startswith(b"Exif\0\0"))
    elif head.startswith(b"\x89PNG\r\n\x1a\n"):
        stream.seek(8)
        blocks = (data for kind, data in _chunks(stream, "big", trailer=4) if kind == b"eXIf")
    elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
        blocks = (data.removeprefix(b"Exif\0\0") for kind, data in _chunks(stream, "little", 0) if kind == b"EXIF")
    elif head[:4] in (b"II*\0", b"MM\0*"):
        blocks = iter((head + stream.read(limits.max_bytes),))
    else:
        return False, None
    return True, next(blocks, None)


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


def _chunks(stream: BinaryIO, order: Any, trailer: int) -> Iterator[tuple[bytes, bytes]]:
    """(type, contents) of the chunks of a PNG (length first, checksum after) or WebP; only EXIF's are read."""
    while len(head := stream.read(8)) == 8:
        kind, size = (head[4:], head[:4]) if trailer else (head[:4], head[4:])
        length = int.from_bytes(size, order)
        padding = trailer or length % 2
        if kind.lower() == b"exif" and length <= _MOST_BYTES:
            yield kind, stream.read(length)
            length = 0
        stream.seek(length + padding, 1)


def _place_in(block: bytes) -> Place | Fault:
    """The GPS block of an EXIF structure as a place."""
    try:
        exif = Image.Exif()
        exif.load(block)
        gps: dict[int, Any] = exif.get_ifd(ExifTags.IFD.GPSInfo)
        if not {ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLongitude} & gps.keys():
            return _NO_GPS
        lat = _degrees(gps, ExifTags.GPS.GPSLatitude, ExifTags.GPS.GPSLatitudeRef, "NS")
        lng = _degrees(gps, ExifTags.GPS.GPSLongitude, ExifTags.GPS.GPSLongitudeRef, "EW")
    except Exception as exc:  # Pillow's parser raises almost anything on a damaged structure
        return Fault(Reason.BROKEN_GPS, f"its EXIF GPS cannot be read ({type(exc).__name__}: {exc})")
    return check_place(lng, lat)


def _degrees(gps: dict[int, Any], value: int, reference: int, signs: str) -> float:
    """Degrees, minutes and seconds with their hemisphere as signed degrees; raises for anything else."""
    side = gps[reference]
    side = (side.decode("ascii") if isinstance(side, bytes) else str(side)).strip("\0 ").upper()
    if len(side) != 1 or side not in signs:
        raise ValueError(f"hemisphere {side!r} is none of {', '.join(signs)}")
    degrees, minutes, seconds = (*(float(part) for part in gps[value]), 0.0, 0.0)[:3]
    if not (0 <= minutes < 60 and 0 <= seconds <= 60) or degrees < 0 or not math.isfinite(degrees):
        raise ValueError(f"{degrees} degrees, {minutes} minutes, {seconds} seconds")
    total = degrees + minutes / 60 + seconds / 3600
    return -total if side == signs[1] else total
