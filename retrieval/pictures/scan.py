"""What a file's own structure says about the work ahead: one bounded walk over its parts, before a decoder sees it.

Decoders do work for each part that a file has, and some of it in Python: a few megabytes of empty parts would keep
one busy for minutes. So parts are counted, and more than programs write are refused. The bytes a pixel are measured
with Pillow 13; a test measures them again. Knows nothing of colour.

Raises UnreadablePhotoError for a broken structure, PhotoTooLargeError for too many parts, UnsupportedPhotoError for a
kind that no decoder here reads.
"""

import re
from collections.abc import Callable

from retrieval.pictures.formats import damaged, too_much
from retrieval.pictures.limits import Header
from retrieval.pictures.scan_jpeg import scan_jpeg
from retrieval.pictures.tiff_layout import scan_tiff

__all__ = ["scan_of"]

_MAX_CHUNKS = 10_000
_CHUNK_BYTES = 2_048
"""A PNG may have more chunks than `_MAX_CHUNKS` if they are of this size on average."""
_MAX_TEXT = 64 << 20
"""Pillow unpacks no more than this of a PNG's texts."""
_MAX_BLOCKS = 2_000
_MAX_PADDING = 4_096
_MAX_RLE = 2_000_000
"""Bytes; Pillow unpacks run lengths in Python, half a second a megabyte."""
_HEAD = 1 << 20
"""Bytes in which an ISO media file says how large its pictures are."""


def scan_of(name: str, data: bytes) -> Header:
    """Walk over a file of this format; the module's docstring has the errors."""
    return _SCANS[name](data)


def _png(data: bytes) -> Header:
    most, at, count, texts, changed, exif = max(_MAX_CHUNKS, len(data) // _CHUNK_BYTES), 8, 0, 0, False, b""
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        count += 1
        if count > most:
            raise too_much("PNG", "chunks", max(count, len(data) // 12), most)
        if kind in (b"zTXt", b"iTXt"):
            texts += min(length * 1032, 1 << 20)
        changed |= kind in (b"tRNS", b"iCCP")
        exif = data[at + 8 : at + 8 + length] if kind == b"eXIf" else exif
        at += 12 + length
        if kind == b"IEND":
            break
    if data[12:16] != b"IHDR" or len(data) < 29:
        raise damaged("PNG", "it does not begin with its header")
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits, colour = data[24], data[25]
    pixel = 1.0 if colour in (0, 3) else 4.0
    if bits == 16:  # the low bytes are decoded apart from the high ones
        pixel = 2.0 if colour == 0 else 9.0
    plain = bits == 8 and colour == 2 and not changed
    fixed = min(texts, _MAX_TEXT)
    return Header("PNG", width, height, decoding=pixel, decoded=pixel, fixed=fixed, is_rgb=plain, exif=exif)


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    changed, exif = True, b""
    if kind == b"VP8X" and len(data) >= 30:
        changed = bool(data[20] & 0x30)  # a profile, or alpha
        width, height = int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
        exif = _webp_exif(data)
    elif kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 " and len(data) >= 30:
        changed = False
        width = int.from_bytes(data[26:28], "little") & 0x3FFF
        height = int.from_bytes(data[28:30], "little") & 0x3FFF
    else:
        raise damaged("WebP", "its first chunk is none that says a size")
    # Two canvases of the animation that each WebP counts as, the frame, and Pillow's copy of it.
    return Header("WebP", width, height, decoding=16.5, decoded=12.5, is_rgb=not changed, exif=exif)


def _webp_exif(data: bytes) -> bytes:
    at, exif = 12, b""
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return exif
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        exif = data[at + 8 : at + 8 + length] if data[at : at + 4] == b"EXIF" else exif
        at += 8 + length + (length & 1)
    raise too_much("WebP", "chunks", _MAX_CHUNKS + 1, _MAX_CHUNKS)


def _gif(data: bytes) -> Header:
    if len(data) < 13:
        raise damaged("GIF", "its header is cut off")
    width, height = int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    at, blocks, padding = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0), 0, 0
    while data[at : at + 1] != b",":
        if data[at : at + 1] == b"!":
            at += 2
            while at < len(data) and data[at]:
                at, blocks = at + 1 + data[at], blocks + 1
                if blocks > _MAX_BLOCKS:
                    raise too_much("GIF", "blocks before its first frame", blocks, _MAX_BLOCKS)
        elif at >= len(data) or data[at : at + 1] == b";":
            break  # no frame: the size is judged first, then the decoder says so
        else:
            padding += 1
        blocks, at = blocks + 1, at + 1
        if padding > _MAX_PADDING or blocks > _MAX_BLOCKS + _MAX_PADDING:
            raise too_much("GIF", "bytes between its blocks", blocks, _MAX_PADDING)
    # A frame may be larger than the header says.
    left, top, across, down = (int.from_bytes(data[at + i : at + i + 2], "little") for i in (1, 3, 5, 7))
    size = max(width, left + across), max(height, top + down)
    return Header("GIF", *size, decoding=2.0, decoded=2.0, is_rgb=False)


def _bmp(data: bytes) -> Header:
    if len(data) < 34:
        raise damaged("BMP", "its header is cut off")
    if int.from_bytes(data[14:18], "little") == 12:  # the oldest header has shorter numbers
        width, height = int.from_bytes(data[18:20], "little"), int.from_bytes(data[20:22], "little")
        bits, packing = int.from_bytes(data[24:26], "little"), 0
    else:
        width = int.from_bytes(data[18:22], "little", signed=True)
        height = abs(int.from_bytes(data[22:26], "little", signed=True))
        bits, packing = int.from_bytes(data[28:30], "little"), int.from_bytes(data[30:34], "little")
    packed = packing in (1, 2)
    if packed and len(data) > _MAX_RLE:
        raise too_much("BMP", "bytes of run lengths", len(data), _MAX_RLE)
    pixel = 1.0 if bits <= 8 else 4.0
    decoding = pixel + (2.0 if packed else 0.0)
    return Header("BMP", width, height, decoding=decoding, decoded=pixel, is_rgb=bits == 24, isolated=packed)


_EXTENT = re.compile(rb"ispe\0\0\0\0(.{4})(.{4})", re.DOTALL)


def _iso_media(name: str, decoding: float) -> Callable[[bytes], Header]:
    """AVIF or HEIC: a picture may be a grid of smaller ones, and all of them say their size."""

    def scan(data: bytes) -> Header:
        sizes = [tuple(int.from_bytes(n, "big") for n in found) for found in _EXTENT.findall(data[:_HEAD])]
        if not sizes:
            raise damaged(name, "it does not say how large it is")
        width, height = max(sizes, key=lambda size: size[0] * size[1])
        return Header(name, width, height, decoding, decoded=8.0, is_rgb=False, isolated=True, orientation=0)

    return scan


_SCANS: dict[str, Callable[[bytes], Header]] = {
    "JPEG": scan_jpeg,
    "PNG": _png,
    "WebP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": scan_tiff,
    "AVIF": _iso_media("AVIF", 16.0),
    "HEIC": _iso_media("HEIC", 12.0),
}
