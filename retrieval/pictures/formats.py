"""Picture formats: detected by the first bytes, never by a name or content type, and what opens each.

Also the wording of errors about a file. Knows nothing of pixels.
"""

import ast
import importlib
import re
from collections.abc import Callable
from functools import cache
from typing import Any, BinaryIO

from PIL import BmpImagePlugin, GifImagePlugin, ImageFile, JpegImagePlugin, PngImagePlugin, WebPImagePlugin, features
from PIL import TiffImagePlugin as Tiff

from retrieval.errors import PhotoTooLargeError, UnreadablePhotoError, UnsupportedPhotoError

__all__ = [
    "HEAD_BYTES",
    "MAGIC",
    "accepted_formats",
    "damaged",
    "in_words",
    "open_as",
    "quoted",
    "sniff",
    "too_much",
    "unsupported",
]

HEAD_BYTES = 256
"""Bytes that `sniff` looks at: the brands of an ISO media file are a list."""

MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_REFUSED_MAGIC = (
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\x01\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"<svg", "SVG"),
)
_BYTES_LITERAL = re.compile(r"""\bb(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
"""Pillow's messages show bytes as Python does."""
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")

# Plugins are opened directly, because `Image.open` applies Pillow's process-wide pixel limit.
_Opener = Callable[[BinaryIO], ImageFile.ImageFile]
_OPENERS: dict[str, _Opener] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "TIFF": Tiff.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}


def accepted_formats() -> tuple[str, ...]:
    """The formats that can be decoded here, by the names that people use."""
    optional = (name for name, opener in (("AVIF", _avif_opener()), ("HEIC", _heif_opener())) if opener is not None)
    return (*_OPENERS, *optional)


def sniff(data: bytes) -> str:
    """The format's name by the first bytes; raises UnsupportedPhotoError or UnreadablePhotoError for other files."""
    for magic, name in MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return _sniff_isobmff(data)
    for magic, name in _REFUSED_MAGIC:
        if data.startswith(magic):
            raise unsupported(name)
    if not data:
        raise UnreadablePhotoError("the picture is empty (0 bytes); send the file's contents")
    raise UnreadablePhotoError(
        f"this file is not a picture (it begins with {quoted(data[:16])}); send {in_words(accepted_formats())}"
    )


def open_as(name: str, stream: BinaryIO) -> ImageFile.ImageFile:
    """Open a picture of this format with Pillow, which reads its header; raises whatever Pillow raises."""
    opener = _OPENERS[name] if name in _OPENERS else _avif_opener() if name == "AVIF" else _heif_opener()
    if opener is None:
        raise unsupported(name)
    return opener(stream)


def unsupported(what: str) -> UnsupportedPhotoError:
    """The error for a healthy file that is not accepted: what it is, and what is."""
    return UnsupportedPhotoError(f"{what} is not supported; send {in_words(accepted_formats())}")


def damaged(name: str, why: object) -> UnreadablePhotoError:
    """The error for a file that breaks its own format's rules."""
    reason = _BYTES_LITERAL.sub(lambda found: quoted(ast.literal_eval(found[0])), str(why))
    return UnreadablePhotoError(f"the {name} is damaged or cut off ({reason}); send the file again, whole")


def quoted(data: bytes) -> str:
    """Bytes for people: quoted if they are plain text, else as hexadecimal numbers."""
    text = data.decode("ascii", errors="replace")
    return f"'{text}'" if text.isascii() and text.isprintable() else f"the bytes {data.hex(' ')}"


def too_much(name: str, what: str, count: int, allowed: int) -> PhotoTooLargeError:
    """The error for a file of too many parts, each of which costs time or memory."""
    return PhotoTooLargeError(
        f"the {name} has {count:,} {what} and {allowed:,} are allowed; open it in an editor and save a plain copy"
    )


def in_words(names: tuple[str, ...]) -> str:
    """`JPEG, PNG or GIF`."""
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def _sniff_isobmff(data: bytes) -> str:
    brand = data[8:12]
    listed = data[16 : min(int.from_bytes(data[:4], "big"), HEAD_BYTES)]
    brands = {brand, *(listed[at : at + 4] for at in range(0, len(listed), 4))}
    # "mif1" alone does not say which codec; the list does.
    if brand in _AVIF_BRANDS or (brand in (b"mif1", b"msf1") and brands & set(_AVIF_BRANDS)):
        if _avif_opener() is not None:
            return "AVIF"
        raise unsupported("AVIF")
    if brand in _HEIC_BRANDS and _heif_opener() is not None:
        return "HEIC"
    if brand in _HEIC_BRANDS:
        raise UnsupportedPhotoError(
            f"HEIC cannot be decoded here; send {in_words(accepted_formats())}, or install pillow-heif on the server"
        )
    raise unsupported(f"a media file of the brand {quoted(brand)}")


@cache
def _avif_opener() -> _Opener | None:
    """Pillow's reader, or None where it was built without the codec."""
    if "avif" not in features.modules or not features.check("avif"):
        return None
    plugin: Any = importlib.import_module("PIL.AvifImagePlugin")
    opener: _Opener = plugin.AvifImageFile
    return opener


def _heif_opener() -> _Opener | None:
    """pillow-heif's reader, or None: it is no dependency, because its codec library is large and copyleft."""
    try:
        plugin: Any = importlib.import_module("pillow_heif")
    except ImportError:
        return None
    opener: _Opener = plugin.HeifImageFile
    return opener
