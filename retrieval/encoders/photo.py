"""Decode untrusted bytes to an upright RGB picture, or raise a PhotoError: unreadable, too large or unsupported.

The format is detected from the first bytes; file name and content type are ignored. The size is read from the header
and checked against the limit before any pixel is decoded. Of EXIF only the orientation is used: a camera's GPS position
never reaches an answer. This module knows nothing of encoders or HTTP.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin
from PIL import TiffImagePlugin as Tiff
from PIL import WebPImagePlugin as WebP

from retrieval.errors import PhotoError, PhotoTooLargeError, UnreadablePhotoError, UnsupportedPhotoError

__all__ = [
    "BACKGROUND",
    "PhotoError",
    "PhotoLimits",
    "PhotoTooLargeError",
    "UnreadablePhotoError",
    "UnsupportedPhotoError",
    "accepted_formats",
    "decode_photo",
    "open_photo",
]

BACKGROUND = (128, 128, 128)
"""The colour behind transparent pixels: mid-grey, close to the mean that encoders subtract."""
_HEAD_BYTES = 32  # enough to tell the format, and the canvas of a GIF or WebP
_LONG_EDGE = 1000
"""Edge length from which rounding by a pixel does not matter."""


@dataclass(frozen=True)
class PhotoLimits:
    """Limits of a picture: bytes of the file, pixels (width times height), and formats (empty: all supported)."""

    max_bytes: int = 20_000_000
    max_pixels: int = 100_000_000
    formats: tuple[str, ...] = ()


def decode_photo(data: bytes, limits: PhotoLimits = PhotoLimits(), min_edge: int | None = None) -> Image.Image:
    """Decode a JPEG, PNG, WebP, TIFF or GIF (or HEIC, if pillow-heif is installed) to an upright RGB picture.

    Of an animation the first frame is used. Transparent pixels are blended with BACKGROUND; 16-bit greys are scaled to
    8 bits. `min_edge`: a large JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which is faster, if both edges keep
    at least this many pixels; the limits apply to its full size. Raises UnreadablePhotoError, PhotoTooLargeError or
    UnsupportedPhotoError, and no other error for any bytes.
    """
    _check_bytes(data, limits)
    name = _sniff(data)
    if limits.formats and name not in limits.formats:
        raise UnsupportedPhotoError(f"{name} is not accepted here; send {_listed(limits.formats)}")
    try:
        with open_photo(BytesIO(data), limits) as image:
            if min_edge is not None:
                _shrink(image, min_edge)
            image.load()
            return _upright(image, _to_rgb(image))
    except PhotoError:
        raise
    except Image.DecompressionBombError as exc:
        raise PhotoTooLargeError(f"the {name} declares more pixels than can be decoded; send a smaller copy") from exc
    except Exception as exc:
        # Pillow's decoders raise almost anything on hostile bytes (struct.error, SyntaxError, MemoryError ...).
        raise UnreadablePhotoError(f"the {name} is damaged or cut off ({exc}); send the file again, whole") from exc


def open_photo(stream: BinaryIO, limits: PhotoLimits = PhotoLimits()) -> ImageFile.ImageFile:
    """Open a picture and check its size in pixels, from its header alone; no pixels are decoded.

    Raises UnreadablePhotoError, PhotoTooLargeError or UnsupportedPhotoError, and whatever Pillow raises for a damaged
    header.
    """
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    name = _sniff(head)
    _check_pixels(_header_size(name, head), limits)
    image = _open(name, stream)
    _check_pixels(image.size, limits)  # a frame may be larger than its header says
    return image


def _shrink(image: ImageFile.ImageFile, min_edge: int) -> None:
    """Let the JPEG decoder scale while it decodes; other formats ignore this.

    The scale must divide both edges, because a rounded edge changes the aspect ratio and so the later crop, or leave
    edges so long that rounding does not matter: a file of 2 kB may declare 100 megapixels.
    """
    width, height = image.size
    for scale in (8, 4, 2):
        room = min(image.size) // scale
        if room >= min_edge and (width % scale == height % scale == 0 or room >= _LONG_EDGE):
            image.draft(None, (width // scale, height // scale))
            return


def accepted_formats() -> tuple[str, ...]:
    """The names of the formats that this installation can decode."""
    heif = () if _heif_opener() is None else ("HEIC",)
    return (*_OPENERS, *heif)


def _check_bytes(data: bytes, limits: PhotoLimits) -> None:
    if not data:
        raise UnreadablePhotoError("the picture is empty (0 bytes); send the file's contents")
    if len(data) > limits.max_bytes:
        raise PhotoTooLargeError(
            f"the picture has {len(data):,} bytes and {limits.max_bytes:,} are allowed; send a smaller copy"
        )


def _check_pixels(size: tuple[int, int] | None, limits: PhotoLimits) -> None:
    if size is None:
        return
    width, height = size
    if width < 1 or height < 1:
        raise UnreadablePhotoError(f"the picture has {width} x {height} pixels; send one that is not empty")
    if width * height > limits.max_pixels:
        raise PhotoTooLargeError(
            f"the picture has {width} x {height} pixels and {limits.max_pixels:,} are allowed; send a smaller copy"
        )


# Plugins are opened directly, because `Image.open` applies Pillow's process-wide pixel limit.
_OPENERS: dict[str, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebP.WebPImageFile,
    "TIFF": Tiff.TiffImageFile,
    "GIF": GifImagePlugin.GifImageFile,
}

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
)
_REFUSED_MAGIC = (
    (b"BM", "BMP"),
    (b"%PDF", "PDF"),
    (b"8BPS", "Photoshop"),
    (b"\0\0\x01\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"<svg", "SVG"),
)
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def _sniff(data: bytes) -> str:
    """The format's name by its first bytes; raises UnsupportedPhotoError or UnreadablePhotoError."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return _sniff_isobmff(data[8:12])
    for magic, name in _REFUSED_MAGIC:
        if data.startswith(magic):
            raise _unsupported(name)
    raise UnreadablePhotoError(
        f"these bytes are not a picture (they begin with {data[:16]!r}); send {_listed(accepted_formats())}"
    )


def _sniff_isobmff(brand: bytes) -> str:
    if brand in _HEIC_BRANDS and _heif_opener() is not None:
        return "HEIC"
    if brand in _HEIC_BRANDS:
        raise UnsupportedPhotoError(
            f"HEIC cannot be decoded here; send {_listed(accepted_formats())}, or install pillow-heif on the server"
        )
    raise _unsupported("AVIF" if brand in (b"avif", b"avis") else f"a media file of brand {brand!r}")


def _unsupported(name: str) -> UnsupportedPhotoError:
    return UnsupportedPhotoError(f"{name} is not supported; send {_listed(accepted_formats())}")


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _heif_opener() -> Callable[[BinaryIO], ImageFile.ImageFile] | None:
    """pillow-heif's reader, or None. It is not a dependency, because its codec library is large and copyleft."""
    try:
        plugin: Any = importlib.import_module("pillow_heif")
    except ImportError:
        return None
    opener: Callable[[BinaryIO], ImageFile.ImageFile] = plugin.HeifImageFile
    return opener


def _open(name: str, stream: BinaryIO) -> ImageFile.ImageFile:
    opener = _heif_opener() if name == "HEIC" else _OPENERS[name]
    if opener is None:
        raise _unsupported(name)
    return opener(stream)


def _header_size(name: str, data: bytes) -> tuple[int, int] | None:
    """(width, height) of formats that allocate the canvas on opening; None for the others."""
    if name == "GIF":
        return int.from_bytes(data[6:8], "little"), int.from_bytes(data[8:10], "little")
    if name == "WebP":
        return _webp_size(data)
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """The canvas size in the first chunk (extended, lossless or lossy); None lets the decoder decide."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(data) >= 30:
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    return None


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert any mode to RGB; raises UnsupportedPhotoError if there is no correct conversion."""
    if image.mode.startswith("I;16"):
        # A table of all values avoids a float copy of a large picture.
        top = 2 ** _grey_bits(image) - 1
        return _grey(_scaled(np.arange(65_536), 0.0, float(top))[np.asarray(image, dtype=np.uint16)])
    if image.mode in ("I", "F"):
        return _stretched(np.asarray(image, dtype=np.float64))
    if image.mode == "LAB":
        raise UnsupportedPhotoError("pixels in Lab colour are not supported; save the picture as RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_background(image)
    return image.convert("RGB")


def _grey_bits(image: Image.Image) -> int:
    """The bits that a sample uses: 12-bit TIFFs come in 16-bit containers."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(Tiff.BITSPERSAMPLE, (16,))
    return int(bits[0]) if bits[0] in range(9, 17) else 16


def _stretched(values: np.ndarray[Any, np.dtype[np.float64]]) -> Image.Image:
    """Scale 32-bit and float greys, which have no nominal range, so that the minimum is black and the maximum white."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise UnreadablePhotoError("the picture has no finite pixel value; send another copy")
    low, high = float(finite.min()), float(finite.max())
    return _grey(_scaled(np.nan_to_num(values, nan=low, posinf=high, neginf=low), low, high))


def _scaled(values: np.ndarray[Any, Any], low: float, high: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Map [low, high] to [0, 255], rounded; a flat picture becomes black."""
    span = high - low
    factor = 255.0 / span if span > 0 and np.isfinite(span) else 0.0
    return np.asarray(np.clip(np.rint((values.astype(np.float64) - low) * factor), 0, 255).astype(np.uint8))


def _grey(values: np.ndarray[Any, np.dtype[np.uint8]]) -> Image.Image:
    return Image.fromarray(values).convert("RGB")


def _on_background(image: Image.Image) -> Image.Image:
    # Premultiplied modes convert only to their plain counterparts, and "La" and "PA" to RGBA only through those.
    plain = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
    rgba = image.convert(plain).convert("RGBA")
    canvas = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
    return Image.alpha_composite(canvas, rgba).convert("RGB")


_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(source: Image.Image, pixels: Image.Image) -> Image.Image:
    """Rotate `pixels` by the source's EXIF orientation; broken EXIF is ignored."""
    try:
        orientation = source.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # see decode_photo: Pillow's parsers raise almost anything
        orientation = 1
    turn = _TRANSPOSES.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else pixels.transpose(turn)
