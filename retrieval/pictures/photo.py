"""Untrusted bytes to an upright RGB picture, or one of three errors; never anything else.

The format is detected by the first bytes, never by a name or content type. What decoding will take is known from the
file's structure (`retrieval.pictures.work`) and compared with the limits before any pixel is decoded. EXIF is read for
the orientation alone: where a camera says it was never reaches an answer. Knows nothing of encoders or HTTP.

The three are the PhotoErrors of `retrieval.errors`: unreadable, too large, unsupported. DecodeMemoryError is not about
the picture: this machine has no memory left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

from PIL import ExifTags, Image, ImageFile, ImagePalette

from retrieval.errors import DecodeMemoryError, PhotoError, PhotoTooLargeError, UnsupportedPhotoError
from retrieval.pictures.ends import check_ends, check_jpeg_blocks
from retrieval.pictures.formats import HEAD_BYTES, damaged, open_as, sniff
from retrieval.pictures.limits import DEFAULT_LIMITS, PhotoLimits, View
from retrieval.pictures.pillow_source import PillowSource
from retrieval.pictures.scan import scan_of
from retrieval.pictures.tiff_layout import Layout
from retrieval.pictures.tiff_source import TiffSource
from retrieval.pictures.tiff_tags import orientation_of_exif
from retrieval.pictures.views import Source, views_of
from retrieval.pictures.work import Work, check_pixels, inspect, scale_of

__all__ = ["BACKGROUND", "WHOLE", "Photo", "decode", "decode_photo", "open_photo", "read_photo"]

BACKGROUND = (128, 128, 128)
"""What shows through transparent pixels: mid-grey, close to the mean that encoders subtract, so that it says little."""
WHOLE = (View(),)
"""The one view that is the picture itself."""
_MAX_EXIF = 131_072
"""Bytes that Pillow may read as EXIF; it does so in Python, 0.7 seconds a megabyte."""


@dataclass(frozen=True)
class Photo:
    """A decoded picture: an RGB image for each view, and what was done to its samples that is not plain decoding.

    `size`: width and height of the file's pixels as they are stored, before the turn. `turn`: EXIF's orientation, 1 to
    8, by which the images were turned upright.
    """

    images: tuple[Image.Image, ...]
    notes: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)
    turn: int = 1


def decode_photo(data: bytes, limits: PhotoLimits = DEFAULT_LIMITS, min_edge: int | None = None) -> Image.Image:
    """Decode a picture of any accepted format to upright RGB; see `read_photo`.

    With `min_edge`, in pixels, a large JPEG comes out at 1/2, 1/4 or 1/8 of its size where both edges divide by that
    or stay long, in a fraction of the time, with no edge below that many; the limits are those of its full size.
    """
    return read_photo(data, limits, (View(min_edge),)).images[0]


def read_photo(data: bytes, limits: PhotoLimits = DEFAULT_LIMITS, views: Sequence[View] = WHOLE) -> Photo:
    """Decode a picture to each of these views of it, upright and RGB.

    An animation gives its first frame; transparency and pixels without data are laid over BACKGROUND; samples of more
    than 8 bits are scaled from their nominal range, or stretched where they use less of it; colours with a profile are
    converted to sRGB. Raises UnreadablePhotoError, PhotoTooLargeError, UnsupportedPhotoError or DecodeMemoryError, and
    nothing else for any bytes.
    """
    return decode(data, inspect(data, limits, views), views)


def decode(data: bytes, work: Work, views: Sequence[View]) -> Photo:
    """The second half of `read_photo`, for bytes that `inspect` has judged with the same views."""
    name = work.header.name
    try:
        return _decoded(data, work, views)
    except (PhotoError, DecodeMemoryError):
        raise
    except Image.DecompressionBombError as exc:
        raise PhotoTooLargeError(f"the {name} declares more pixels than can be decoded; send a smaller copy") from exc
    except Exception as exc:
        # Pillow's decoders raise almost anything on hostile bytes (struct.error, SyntaxError, ZeroDivisionError ...).
        if isinstance(exc, MemoryError) or "out of memory" in str(exc):
            raise DecodeMemoryError(f"there is not enough memory free to decode the {name}; try again later") from exc
        if name == "TIFF" and "unknown pixel mode" in str(exc):  # a healthy file of a kind that Pillow does not know
            raise UnsupportedPhotoError(
                f"a TIFF of this kind ({Layout.of(data)}) is not supported; save the picture as 8-bit RGB or grey"
            ) from exc
        raise damaged(name, exc) from exc


def open_photo(stream: BinaryIO, limits: PhotoLimits = DEFAULT_LIMITS) -> ImageFile.ImageFile:
    """Open a picture and check its size in pixels, from its header alone; no pixels are decoded.

    Raises UnreadablePhotoError, PhotoTooLargeError or UnsupportedPhotoError, and whatever Pillow raises for a damaged
    header.
    """
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    name = sniff(head)
    if name == "WebP":  # opening one reserves memory for its canvas
        header = scan_of(name, head)
        check_pixels((header.width, header.height), limits)
    elif name == "GIF":
        check_pixels((int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")), limits)
    image = open_as(name, stream)
    check_pixels(image.size, limits)  # a frame may be larger than its header says
    return image


def _decoded(data: bytes, work: Work, views: Sequence[View]) -> Photo:
    header = work.header
    nodata = palette = layout = None
    if header.name == "TIFF":
        layout = Layout.of(data)
        if not layout.is_pillows:
            return _photo(TiffSource(data, layout), views, (layout.width, layout.height))
        nodata, palette = layout.nodata, layout.short_palette
    with open_as(header.name, BytesIO(data)) as image:
        if image.width * image.height > header.width * header.height:
            raise damaged(header.name, "its parts name different sizes")
        stored = image.size
        scale = scale_of(stored, views) if header.shrinks else 1
        if scale > 1:
            image.draft(None, (image.width // scale, image.height // scale))
        if palette is not None:
            image.palette = ImagePalette.raw("RGB;L", palette)
        image.load()
        check_ends(image, data)
        if layout is not None and layout.holds_jpegs:
            check_jpeg_blocks(image, data, layout)
        return _photo(PillowSource(image, data, _orientation(image), nodata), views, stored)


def _photo(source: Source, views: Sequence[View], stored: tuple[int, int]) -> Photo:
    images = views_of(source, views, BACKGROUND)
    turn = source.turn if 1 <= source.turn <= 8 else 1
    return Photo(tuple(images), tuple(source.notes), stored, turn)


def _orientation(image: Image.Image) -> int:
    """1 to 8, by EXIF or XMP. Broken EXIF turns nothing: the picture is still a picture."""
    exif = image.info.get("exif") or b""
    if len(exif) > _MAX_EXIF:
        return orientation_of_exif(exif)
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # see `decode`: Pillow's parsers raise almost anything
        return 1
    return turn if isinstance(turn, int) else 1
