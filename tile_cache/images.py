"""Checks that bytes from a server or a file are a whole image, before they are stored.

`sniff` and `check_whole` look at the first bytes and at each format's end mark; this is cheap, and detects truncated
bodies and HTML. `check_decodes` makes Pillow decode every pixel. Knows nothing of HTTP status, stores or sources.
"""

import io
import warnings
import zlib
from typing import Literal

from PIL import Image

__all__ = ["BadImageError", "ImageFormat", "check_decodes", "check_whole", "image_size", "sniff"]

ImageFormat = Literal["png", "jpg", "webp"]

MAX_SIDE = 4096
"""Pixels. Tiles are 256 or 512 wide; a larger image is not a tile and may be a decompression bomb."""


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
