"""Pictures of a few kilobytes or megabytes that cost a decoder gigabytes or minutes, or make it print.

    for name, data in bombs(): ...

Each is built in a second or less, by hand, and says what is costly in its name. None is random: the same bytes each
time. What a service may answer: 200, 400, 413, 415, or 503, within its limits of memory and time, and alive afterwards.
"""

import io
import random
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module

from PIL import Image

from benchmarks.support.mutations import Hostile, encoded
from benchmarks.support.picture_parts import png_of_nothing, resized

__all__ = [
    "bombs",
    "fax",
    "floats",
    "padded_jpeg",
    "png_of_zeros",
    "progressive",
    "rationals",
    "tiff",
    "webp_of_one_colour",
]

_EDGE = 10_000
_PADDING = 6_000_000
_DEFLATE, _FLOAT, _SIGNED, _RATIONAL = 8, 3, 2, 5


def bombs() -> list[Hostile]:
    """All of them; some 100 MB together."""
    return [*_of_memory(), *_of_time(), *_of_padding(), *_of_lines()]


def _of_memory() -> Iterator[Hostile]:
    yield Hostile("TIFF of 100 megapixels in floats", floats(_EDGE))
    yield Hostile("TIFF of 25 megapixels in floats", floats(_EDGE // 2))
    yield Hostile("TIFF of 25 megapixels in 32 bits", shared_strips(_EDGE // 2, 32, _SIGNED))
    yield Hostile("TIFF of 100 megapixels in 64 bits", shared_strips(_EDGE, 64, _FLOAT))
    yield Hostile("TIFF of 25 megapixels, one strip", shared_strips(_EDGE // 2, 32, _FLOAT, rows=_EDGE // 2))
    yield Hostile("WebP of 100 megapixels in 46 bytes", webp_of_one_colour(_EDGE, _EDGE))
    yield Hostile("WebP of 25 megapixels in 46 bytes", webp_of_one_colour(_EDGE // 2, _EDGE // 2))
    yield Hostile("PNG of 100 megapixels with alpha", png_of_zeros(_EDGE, _EDGE, 8, 6))
    yield Hostile("PNG of 81 megapixels with alpha", png_of_zeros(9_000, 9_000, 8, 6))
    yield Hostile("PNG of 40 megapixels in 16 bits with alpha", png_of_zeros(8_000, 5_000, 16, 6))
    yield Hostile("PNG of 100 megapixels of grey with alpha", png_of_zeros(_EDGE, _EDGE, 8, 4))
    yield Hostile("PNG of 100 megapixels of one bit", png_of_nothing(_EDGE, _EDGE))
    yield Hostile("GIF of 100 megapixels", resized(encoded(Image.new("P", (64, 64)), "GIF"), _EDGE, _EDGE))
    yield Hostile("BMP of 100 megapixels in run lengths", bmp_of_runs(_EDGE, _EDGE))
    yield Hostile("AVIF of 25 megapixels", encoded(Image.new("RGB", (5_000, 5_000)), "AVIF", speed=10))
    yield Hostile("AVIF that claims 100 megapixels", resized(encoded(Image.new("RGB", (64, 64)), "AVIF"), _EDGE, _EDGE))
    with suppress(ImportError):
        out = io.BytesIO()
        import_module("pillow_heif").from_pillow(Image.new("RGB", (5_000, 5_000))).save(out)
        yield Hostile("HEIC of 25 megapixels", out.getvalue())


def _of_time() -> Iterator[Hostile]:
    yield Hostile("JPEG of 100 megapixels, 1,500 scans", progressive(_EDGE, 1_500))
    yield Hostile("JPEG of 100 megapixels, 90 scans", progressive(_EDGE, 90))
    yield Hostile("JPEG of 1 megapixel, 50,000 scans", progressive(1_000, 50_000))


def _of_padding() -> Iterator[Hostile]:
    jpeg = encoded(Image.new("RGB", (64, 64)), "JPEG")
    yield Hostile("JPEG with 6 MB of 0xFF", padded_jpeg(b"\xff", _PADDING))
    yield Hostile("JPEG with 6 MB of zeros", padded_jpeg(b"\0", _PADDING))
    yield Hostile("JPEG with 6 MB of empty comments", padded_jpeg(b"\xff\xfe\0\2", _PADDING // 4))
    yield Hostile("JPEG with 6 MB of empty APP5", padded_jpeg(b"\xff\xe5\0\2", _PADDING // 4))
    yield Hostile("JPEG with 6 MB of empty EXIF", padded_jpeg(b"\xff\xe1\0\x08Exif\0\0", _PADDING // 10))
    yield Hostile("JPEG with 6 MB of restarts", padded_jpeg(b"\xff\xd0", _PADDING // 2))
    yield Hostile("JPEG with 6 MB of 0xFF between scans", jpeg[:-2] + b"\xff" * _PADDING + jpeg[-2:])
    png = png_of_nothing(8, 8)
    chunk = _chunk(b"prVt", b"")
    yield Hostile("PNG with 6 MB of private chunks", png[:33] + chunk * (_PADDING // len(chunk)) + png[33:])
    text = _chunk(b"tEXt", b"a\0b")
    yield Hostile("PNG with 6 MB of texts", png[:33] + text * (_PADDING // len(text)) + png[33:])
    yield Hostile("PNG with 6 MB behind its pixels", png[:-12] + chunk * (_PADDING // len(chunk)) + png[-12:])
    exif = rationals(274, 745_000)
    yield Hostile("PNG turned by 745,000 rationals", png[:33] + _chunk(b"eXIf", exif) + png[33:])
    yield Hostile("WebP turned by 745,000 rationals", _webp_with(b"EXIF", exif))
    yield Hostile("WebP with 6 MB of empty chunks", _webp_with(*[b"xyzw", b""] * (_PADDING // 8)))
    yield Hostile("TIFF turned by 745,000 rationals", rationals(274, 745_000, pixels=True))
    gif = encoded(Image.new("P", (8, 8)), "GIF")
    head = 13 + (3 << (gif[10] & 7) + 1)
    yield Hostile("GIF with 6 MB of comments", gif[:head] + b"!\xfe\1a\0" * (_PADDING // 5) + gif[head:])


def _of_lines() -> Iterator[Hostile]:
    for compression in (2, 3, 4):
        yield Hostile(f"TIFF of 2,000,000 bad lines, compression {compression}", fax(2_000_000, compression))
    for compression, name in ((5, "LZW"), (7, "JPEG"), (32773, "PackBits"), (50000, "Zstandard"), (50001, "WebP")):
        noise = random.Random(1).randbytes(20_000)
        yield Hostile(f"TIFF of noise in {name}", tiff(500, 500, 8, compression, noise))


def tiff(width: int, height: int, bits: int, compression: int, strip: bytes, *, rows: int = 0, form: int = 1) -> bytes:
    """A grey TIFF whose strips of `rows` rows (0: all) are the same bytes. `form`: 1 unsigned, 2 signed, 3 floats."""
    rows = rows or height
    count = -(-height // rows)
    at = 8 + 2 + 12 * 10 + 4
    offsets, lengths = (struct.pack(f"<{count}I", *[value] * count) for value in (at + 8 * count, len(strip)))
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, compression), (262, 3, 1, 1),
        (273, 4, count, at if count > 1 else at + 8), (277, 3, 1, 1), (278, 4, 1, rows),
        (279, 4, count, at + 4 * count if count > 1 else len(strip)), (339, 3, 1, form),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return b"II*\0\x08\0\0\0" + directory + offsets + lengths + strip


def shared_strips(edge: int, bits: int, form: int, rows: int = 100) -> bytes:
    """A square TIFF of zeros; all its strips are the same few bytes."""
    return tiff(edge, edge, bits, _DEFLATE, _zeros(edge * rows * bits // 8), rows=rows, form=form)


def floats(edge: int) -> bytes:
    """A square TIFF of zeros in 32-bit floats: 4,842 bytes for 100 megapixels."""
    return shared_strips(edge, 32, _FLOAT)


def fax(rows: int, compression: int) -> bytes:
    """A TIFF 8 pixels wide whose rows are noise, about each of which libtiff prints a line."""
    return tiff(8, rows, 1, compression, random.Random(1).randbytes(rows))


def rationals(tag: int, count: int, pixels: bool = False) -> bytes:
    """EXIF, or with `pixels` a TIFF of 8 x 8, with one tag that has this many rationals."""
    entries = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (273, 4, 1, 200), (279, 4, 1, 64)]
    entries = sorted([*(entries if pixels else []), (tag, _RATIONAL, count, 300)])
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    return (b"II*\0\x08\0\0\0" + directory).ljust(300, b"\0") + struct.pack("<II", 6, 1) * count


def webp_of_one_colour(width: int, height: int) -> bytes:
    """A lossless WebP whose every code has one symbol, so that no pixel takes a bit."""
    size = struct.pack("<I", width - 1 | height - 1 << 14 | 1 << 28)
    body = b"\x2f" + size + bytes.fromhex("075081540820000a1a02495bbced8f8f88e87f00")
    return b"RIFF" + struct.pack("<I", 13 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body + b"\0"


def _webp_with(*chunks: bytes) -> bytes:
    """An 8 x 8 WebP of the extended form with these chunks: names and contents in turn."""
    pixels = encoded(Image.new("RGB", (8, 8)), "WEBP")[12:]
    extended = b"VP8X" + struct.pack("<IB", 10, 8) + bytes(3) + bytes([7, 0, 0, 7, 0, 0])
    names, contents = chunks[::2], chunks[1::2]
    more = b"".join(
        name + struct.pack("<I", len(content)) + content + bytes(len(content) & 1)
        for name, content in zip(names, contents, strict=True)
    )
    body = b"WEBP" + extended + pixels + more
    return b"RIFF" + struct.pack("<I", len(body)) + body


def png_of_zeros(width: int, height: int, bits: int, colour: int) -> bytes:
    """A PNG whose every byte is zero. `colour`: 0 grey, 2 colour, 4 and 6 with alpha."""
    row = 1 + -(-width * bits * {0: 1, 2: 3, 4: 2, 6: 4}[colour] // 8)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = _chunk(b"IHDR", header) + _chunk(b"IDAT", _zeros(row * height)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def bmp_of_runs(width: int, height: int) -> bytes:
    """A BMP in run lengths that ends at once."""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 2, 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + 2, 0, 0, 54 + 1024) + header + bytes(1024) + b"\0\1"


def padded_jpeg(filling: bytes, count: int) -> bytes:
    """A small JPEG with so many of these bytes before its frame."""
    jpeg = encoded(Image.new("RGB", (64, 64)), "JPEG")
    return jpeg[:2] + filling * count + jpeg[2:]


def progressive(edge: int, scans: int) -> bytes:
    """A grey progressive JPEG, square, most of whose scans say that a coefficient is zero everywhere."""
    # One code, of one bit, for DC: no difference; for AC: the longest run of empty blocks, whose length follows.
    dc = b"\xff\xc4" + _sized(bytes([0x00, 1, *[0] * 15, 0]))
    ac = b"\xff\xc4" + _sized(bytes([0x10, 1, *[0] * 15, 0xE0]))
    quantisation = b"\xff\xdb" + _sized(b"\0" + bytes([1] * 64))
    frame = b"\xff\xc2" + _sized(struct.pack(">BHHB3B", 8, edge, edge, 1, 1, 0x11, 0))
    blocks = (-(-edge // 8)) ** 2
    first = _scan(0, 0) + _stuffed([(0, 1)] * blocks)
    run = [(0, 1), ((1 << 14) - 1, 14)]  # of 2^15 - 1 blocks
    empty = _scan(1, 1) + _stuffed(run * -(-blocks // 32_767))
    return b"\xff\xd8" + quantisation + frame + dc + ac + first + empty * (scans - 1) + b"\xff\xd9"


def _scan(first: int, last: int) -> bytes:
    return b"\xff\xda" + _sized(bytes([1, 1, 0, first, last, 0]))


def _sized(content: bytes) -> bytes:
    return (len(content) + 2).to_bytes(2, "big") + content


def _stuffed(codes: list[tuple[int, int]]) -> bytes:
    """(value, bits) one behind the other, padded with ones, 0xFF followed by zero."""
    bits = "".join(f"{value:0{count}b}" for value, count in codes)
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def _zeros(count: int) -> bytes:
    """`count` zeros in zlib's format, in milliseconds: the same block again and again."""
    block = 1 << 20
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    once = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    tail = zlib.compressobj(9, wbits=-15)
    rest = tail.compress(bytes(count % block)) + tail.flush()
    return head + once * (count // block) + rest + struct.pack(">I", (count % 65_521) << 16 | 1)


def _chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
