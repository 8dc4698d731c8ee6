"""Is this really a whole image? Bytes that came from outside are judged here, before anything keeps them.

`sniff` and `check_whole` look at magic bytes and at each format's own end mark, which costs nothing and catches cut
bodies and HTML; `check_decodes` lets pillow decode every pixel. Knows nothing of HTTP status, stores or sources.
"""

import io
import warnings
import zlib
from typing import Literal

from PIL import Image

__all__ = ["BadImageError", "ImageFormat", "check_decodes", "check_whole", "image_size", "sniff"]

ImageFormat = Literal["png", "jpg", "webp"]

MAX_SIDE = 4096
"""Pixels; tiles are 256 or 512 wide, so more than this is something else, perhaps a decompression bomb."""


class BadImageError(ValueError):
    """Bytes that are no whole image; the message is a short reason that can be counted.

    `cut`: it began as an image, so asking again may bring the rest.
    """

    def __init__(self, reason: str, *, cut: bool = False) -> None:
        super().__init__(reason)
        self.cut = cut


def sniff(data: bytes) -> ImageFormat | None:
    """The image format that the first bytes promise; None for anything that is no tile format."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


def check_whole(data: bytes) -> ImageFormat:
    """The format of an image that has its end mark too; raises BadImageError for all else."""
    if not data:
        raise BadImageError("empty body")
    kind = sniff(data)
    if kind is None:
        raise BadImageError("HTML instead of an image" if _looks_like_html(data) else "no PNG, JPEG or WebP image")
    if not _ENDS[kind](data):
        raise BadImageError(f"image cut off or damaged ({kind})", cut=True)
    return kind


def check_decodes(data: bytes) -> ImageFormat:
    """As `check_whole`, and every pixel decodes; takes about a millisecond a tile, so call it off the event loop."""
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
    """(width, height) in pixels from the header alone; raises BadImageError where there is none."""
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
    # Pillow draws PNGs whose checksums are wrong, so every chunk is checked here.
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
    # Some servers pad behind the end mark; zero bytes there do no harm.
    return data.rstrip(b"\0").endswith(b"\xff\xd9")


def _webp_ends(data: bytes) -> bool:
    return len(data) >= 8 + int.from_bytes(data[4:8], "little")


_ENDS = {"png": _png_ends, "jpg": _jpg_ends, "webp": _webp_ends}
