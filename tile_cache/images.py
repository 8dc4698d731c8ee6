"""Checks that bytes from a server or a file are a whole image, before they are stored.

`sniff` and `check_whole` look at the first bytes and at each format's end mark; this is cheap, and detects truncated
bodies and HTML. `check_decodes` makes Pillow decode every pixel. Knows nothing of HTTP status, stores or sources.
"""

import io
import warnings
import zlib
from typing import Literal

from PIL import Image

__all__ = [
    "MAX_TILE_BYTES",
    "BadImageError",
    "ImageFormat",
    "check_decodes",
    "check_whole",
    "image_size",
    "is_uniform",
    "kind_in_words",
    "sniff",
]

ImageFormat = Literal["png", "jpg", "webp"]

MAX_SIDE = 4096
"""Pixels. Tiles are 256 or 512 wide; a larger image is not a tile and may be a decompression bomb."""

MAX_TILE_BYTES = 32 << 20
"""Bytes. A tile of 4,096 pixels whose PNG does not compress has 50 MB; whatever is as large is not a tile."""

_UNIFORM_LEVELS = 8
"""Levels of 256 between the darkest and the lightest pixel of a plain picture, which JPEG may blur a little."""

_OTHER_KINDS = (
    (b"\x1f\x8b", "gzip data, as vector tiles are"),
    (b"\x78\x01", "zlib data, as vector tiles are"),
    (b"\x78\x9c", "zlib data, as vector tiles are"),
    (b"\x78\xda", "zlib data, as vector tiles are"),
    (b"\x28\xb5\x2f\xfd", "Zstandard data, as vector tiles are"),
    (b"\x1a", "protobuf, as vector tiles are"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"BM", "BMP"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"{", "JSON"),
)
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC"}


class BadImageError(ValueError):
    """Bytes that are not a whole image. The message is a short reason, so that reports can count equal ones.

    `cut`: the bytes begin as an image, so another request may return the rest.
    """

    def __init__(self, reason: str, *, cut: bool = False) -> None:
        super().__init__(reason)
        self.cut = cut


def sniff(data: bytes) -> ImageFormat | None:
    """The image format by the first bytes; None for anything but PNG, JPEG and WebP."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def check_whole(data: bytes) -> ImageFormat:
    """The format of an image that has its end mark too. Raises BadImageError for anything else."""
    if not data:
        raise BadImageError("empty body")
    if len(data) > MAX_TILE_BYTES:
        raise BadImageError(f"over {MAX_TILE_BYTES:,} bytes")
    kind = sniff(data)
    if kind is None:
        raise BadImageError("HTML instead of an image" if _looks_like_html(data) else "not a PNG, JPEG or WebP image")
    if not _ENDS[kind](data):
        raise BadImageError(f"image truncated or damaged ({kind})", cut=True)
    return kind


def check_decodes(data: bytes) -> ImageFormat:
    """Check as `check_whole` does, and decode every pixel. Takes about a millisecond: call it off the event loop."""
    kind = check_whole(data)
    width, height = image_size(data)
    if max(width, height) > MAX_SIDE:
        raise BadImageError(f"image over {MAX_SIDE} pixels wide")
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, EOFError) as exc:
        raise BadImageError(f"image does not decode ({kind})", cut=True) from exc
    return kind


def image_size(data: bytes) -> tuple[int, int]:
    """(width, height) in pixels from the header alone. Raises BadImageError for a header that cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
                return image.size
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as exc:
        raise BadImageError("image header unreadable") from exc


def is_uniform(data: bytes) -> bool:
    """Whether an image has one colour all over, as open sea or an empty tile has; False if it does not decode."""
    try:
        check_decodes(data)
        with Image.open(io.BytesIO(data)) as image:
            plain = image.convert("RGBA")
    except (BadImageError, OSError, ValueError):
        return False
    extremes = [plain.getchannel(band).getextrema() for band in "RGBA"]
    if extremes[3] == (0, 0):
        return True
    return all(high - low <= _UNIFORM_LEVELS for low, high in extremes)  # type: ignore[operator]


def kind_in_words(data: bytes) -> str:
    """What bytes are by their beginning, in words: "PNG", "HTML", "text", "gzip data, as vector tiles are", ..."""
    if not data:
        return "empty"
    kind = sniff(data)
    if kind is not None:
        return {"png": "PNG", "jpg": "JPEG", "webp": "WebP"}[kind]
    if _looks_like_html(data):
        return "HTML"
    for start, words in _OTHER_KINDS:
        if data.startswith(start):
            return words
    if data[4:8] == b"ftyp" and data[8:12] in _BRANDS:
        return _BRANDS[data[8:12]]
    return "text" if data[:64].isascii() and b"\0" not in data[:64] else f"unknown (it begins with {data[:4].hex()})"


def _looks_like_html(data: bytes) -> bool:
    start = data[:256].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body"))


def _png_ends(data: bytes) -> bool:
    # Pillow decodes PNGs whose checksums are wrong, so every chunk is checked here.
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


def _jpg_ends(data: bytes) -> bool:
    # Some servers pad the body with zero bytes behind the end mark.
    return data.rstrip(b"\0").endswith(b"\xff\xd9")


def _webp_ends(data: bytes) -> bool:
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


_ENDS = {"png": _png_ends, "jpg": _jpg_ends, "webp": _webp_ends}
