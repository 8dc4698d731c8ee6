"""Whether a picture that Pillow took for whole has all its rows: some files end early, and end well.

A PNG's compressed data may be complete and hold too few rows; a JPEG may have its end marker in the middle. Decoders
leave the rest black or mid-grey, which would be located as if it were the picture. What is left so is looked at
first, so that an ordinary picture costs a row or a pixel.
"""

import re
import zlib
from io import BytesIO
from random import Random

from PIL import Image, ImageChops, ImageFile, JpegImagePlugin, PngImagePlugin

from retrieval.pictures.formats import damaged
from retrieval.pictures.tiff_layout import Layout

__all__ = ["check_ends", "check_jpeg_blocks"]

_PIECE = 1 << 20
_BITS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel by a PNG's kind of colour."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced PNG: first column and row, steps between columns and rows."""
_SCAN = b"\xff\xda"
_SOS, _DRI = 0xDA, 0xDD
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD9)})
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_LEFT_GREY = range(126, 131)
_EXTRA_BYTES = 600
_MOST_BLOCKS = 250
"""Strips or tiles of a TIFF that end in grey and are looked at, 1 ms each."""


def check_ends(image: ImageFile.ImageFile, data: bytes) -> None:
    """Raise UnreadablePhotoError if the file of this loaded picture ends before its last row."""
    if isinstance(image, PngImagePlugin.PngImageFile):
        if _looks_empty(image, is_interlaced=bool(data[28])) and not _has_all_rows(data):
            raise damaged("PNG", "it has fewer rows than its header says")
    elif isinstance(image, JpegImagePlugin.JpegImageFile):
        # A decoder smooths what it has of a progressive picture, so that the rest is not quite grey.
        has_one_scan = bool(image.info.get("progressive")) and data.count(_SCAN) == 1
        if (has_one_scan or _is_grey(image, image.width - 1, image.height - 1)) and not _has_all_blocks(data):
            raise damaged("JPEG", "its pixels end before its last row")


def check_jpeg_blocks(image: Image.Image, data: bytes, layout: Layout) -> None:
    """The same for each strip or tile of a TIFF that holds JPEGs."""
    if layout.is_planar:
        return
    seen: set[int] = set()
    for number, (at, count) in enumerate(zip(layout.offsets, layout.counts, strict=False)):
        row, column = divmod(number, layout.blocks_across)
        right = min(image.width, (column + 1) * layout.block_width) - 1
        bottom = min(image.height, (row + 1) * layout.block_height) - 1
        if bottom >= image.height or row * layout.block_height >= image.height:
            return
        if int(at) not in seen and _is_grey(image, right, bottom):
            seen.add(int(at))
            if len(seen) > _MOST_BLOCKS:
                return
            block = data[int(at) : int(at + count)]
            if layout.jpeg_tables:
                block = layout.jpeg_tables.removesuffix(b"\xff\xd9") + block.removeprefix(b"\xff\xd8")
            if not _has_all_blocks(block):
                raise damaged("TIFF", "a strip or tile ends before its last row")


def _is_grey(image: Image.Image, x: int, y: int) -> bool:
    """Whether a decoder may have left this pixel as it began."""
    pixel = image.getpixel((x, y))
    return all(band in _LEFT_GREY for band in (pixel if isinstance(pixel, tuple) else (pixel,)))


def _looks_empty(image: Image.Image, is_interlaced: bool) -> bool:
    """Whether the row that is decoded last is all zeros."""
    row = image.height - 1
    if is_interlaced:  # the last pass holds each second row
        row -= 1 - row % 2
    return row < 0 or image.crop((0, row, image.width, row + 1)).getbbox(alpha_only=False) is None


def _has_all_rows(data: bytes) -> bool:
    wanted = _png_bytes(data)
    unpack, at = zlib.decompressobj(), 8
    while at + 8 <= len(data) and wanted > 0 and not unpack.eof:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        rest: bytes | memoryview = memoryview(data)[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        while rest and wanted > 0 and not unpack.eof:
            wanted -= len(unpack.decompress(rest, _PIECE))
            rest = unpack.unconsumed_tail
        at += 12 + length
    return wanted <= 0


def _png_bytes(data: bytes) -> int:
    """Bytes of all rows, each with the byte that names its filter."""
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits = data[24] * _BITS.get(data[25], 1)
    total = 0
    for left, top, across, down in _PASSES if data[28] else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        total += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    return total


def _has_all_blocks(data: bytes) -> bool:
    """Whether more bytes behind the first scan change nothing: a decoder that needs blocks would take them for some."""
    start, interval, blocks = _first_scan(data)
    found = _END_OF_SCAN.search(data, start)
    end = found.start() if found else len(data)
    if interval and len(_RESTART.findall(data, start, end)) + 1 < -(-blocks // interval):
        return False
    extra = bytes(Random(1).choices(range(1, 255), k=_EXTRA_BYTES))
    plain, longer = (_small(data[:end] + more + b"\xff\xd9") for more in (b"", extra))
    return ImageChops.difference(plain, longer).getbbox(alpha_only=False) is None


def _small(data: bytes) -> Image.Image:
    with JpegImagePlugin.JpegImageFile(BytesIO(data)) as image:
        image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        return image.copy()


def _first_scan(data: bytes) -> tuple[int, int, int]:
    """Where the first scan's coded bytes begin, blocks between restarts (0: none), and blocks of all components."""
    at, interval, blocks, components = 2, 0, 0, 0
    while at + 4 <= len(data):
        marker = data[at + 1]
        if data[at] != 0xFF or marker == 0xFF:  # padding
            at += 1
            continue
        if marker in _STANDALONE or not marker:
            at += 2
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        if marker in _FRAMES:
            blocks, components = _blocks(body), body[5]
        elif marker == _DRI:
            interval = int.from_bytes(body[:2], "big")
        elif marker == _SOS:
            return at, interval if body[:1] == bytes([components]) else 0, blocks
    return len(data), 0, 0


def _blocks(frame: bytes) -> int:
    height, width, count = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big"), frame[5]
    codes = frame[7 : 7 + 3 * count : 3]
    across, down = (8, 8) if count == 1 else (8 * max(c >> 4 for c in codes), 8 * max(c & 15 for c in codes))
    return -(-width // across) * -(-height // down)
