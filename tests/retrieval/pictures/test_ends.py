"""A file that ends early and well is damage; a picture that is really black or grey at its end is a picture."""

import re
import struct
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval.errors import UnreadablePhotoError
from retrieval.pictures.photo import read_photo

WIDTH, HEIGHT = 96, 80
END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def scene(end: int | None = None) -> Image.Image:
    """Noise; with `end` its lower half is of that grey."""
    pixels = np.random.default_rng(3).integers(140, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    if end is not None:
        pixels[HEIGHT // 2 :] = end
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def jpeg_cut(data: bytes, share: float) -> bytes:
    """The JPEG with this share of its first scan, and an end marker."""
    start = data.find(b"\xff\xda") + 14
    found = END_OF_SCAN.search(data, start)
    assert found is not None
    return data[: start + int((found.start() - start) * share)] + b"\xff\xd9"


def png(pixels: np.ndarray[Any, Any], rows: bytes, interlaced: bool = False) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, 8 * pixels.dtype.itemsize, 2, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rows_of(pixels: np.ndarray[Any, Any]) -> bytes:
    big = pixels.astype(pixels.dtype.newbyteorder(">"))
    return b"".join(b"\0" + row.tobytes() for row in big)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"subsampling": 0},
    {"progressive": True},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 2, "subsampling": 0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_whose_end_marker_comes_early_is_damaged(mode: str, options: dict[str, Any]) -> None:
    whole = encoded(scene().convert(mode), "JPEG", **options)
    assert read_photo(whole).notes == ()
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(UnreadablePhotoError, match="before its last row"):
            read_photo(jpeg_cut(whole, share))


def test_a_jpeg_that_ends_at_a_restart_or_claims_more_rows_is_damaged() -> None:
    whole = encoded(scene(), "JPEG", restart_marker_rows=1)
    restarts = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", whole)]
    with pytest.raises(UnreadablePhotoError, match="before its last row"):
        read_photo(whole[: restarts[1]] + b"\xff\xd9")
    taller = bytearray(encoded(scene(), "JPEG"))
    at = taller.find(b"\xff\xc0") + 5
    taller[at : at + 2] = struct.pack(">H", 2 * HEIGHT)
    with pytest.raises(UnreadablePhotoError, match="before its last row"):
        read_photo(bytes(taller))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_is_grey_at_its_end_is_whole(mode: str, options: dict[str, Any]) -> None:
    for end in (127, 128, 129):
        read_photo(encoded(scene(end).convert(mode), "JPEG", **options))
    read_photo(encoded(Image.new(mode, (WIDTH, HEIGHT), {"L": 128}.get(mode, (128,) * len(mode))), "JPEG", **options))


def test_a_strip_of_jpeg_that_ends_early_is_damaged() -> None:
    strip = encoded(scene(), "JPEG", subsampling=0)
    for content, is_whole in ((strip, True), (jpeg_cut(strip, 0.4), False)):
        tags = {256: WIDTH, 257: HEIGHT, 259: 7, 262: 6, 273: 8, 277: 3, 278: HEIGHT, 279: len(content)}
        bits_at = 8 + len(content) + len(content) % 2
        entries = {tag: struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()}
        entries[258] = struct.pack("<HHII", 258, 3, 3, bits_at)
        entries[530] = struct.pack("<HHIHH", 530, 3, 2, 1, 1)
        head = b"II*\0" + struct.pack("<I", bits_at + 6) + content + bytes(len(content) % 2)
        directory = struct.pack("<H", len(entries)) + b"".join(entries[tag] for tag in sorted(entries)) + bytes(4)
        data = head + struct.pack("<HHH", 8, 8, 8) + directory
        if is_whole:
            assert read_photo(data).notes == ()
        else:
            with pytest.raises(UnreadablePhotoError, match="a strip or tile ends"):
                read_photo(data)


@pytest.mark.parametrize("dtype", ["u1", "u2"])
@pytest.mark.parametrize("end", [None, 0])
def test_a_png_with_too_few_rows_is_damaged(dtype: str, end: int | None) -> None:
    pixels = np.asarray(scene(end)).astype(dtype) * (257 if dtype == "u2" else 1)
    rows = rows_of(pixels)
    assert np.array_equal(np.asarray(read_photo(png(pixels, rows)).images[0]), np.asarray(scene(end)))
    for share in (0.2, 0.6, 0.99):
        with pytest.raises(UnreadablePhotoError, match="PNG is damaged"):
            read_photo(png(pixels, rows[: int(len(rows) * share)]))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
@pytest.mark.parametrize("size", [(1, 1), (7, 1), (1, 9), (33, 21)])
def test_a_black_png_is_whole(mode: str, size: tuple[int, int]) -> None:
    read_photo(encoded(Image.new("RGB", size).convert(mode), "PNG"))


@pytest.mark.parametrize("height", [1, 2, 5, HEIGHT])
def test_an_interlaced_png(height: int) -> None:
    pixels = np.asarray(scene(0))[-height:]
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b"".join(rows_of(pixels[top::down, left::across]) for left, top, across, down in steps)
    assert np.array_equal(np.asarray(read_photo(png(pixels, rows, interlaced=True)).images[0]), pixels)
    with pytest.raises(UnreadablePhotoError):
        read_photo(png(pixels, rows[: len(rows) // 2], interlaced=True))
