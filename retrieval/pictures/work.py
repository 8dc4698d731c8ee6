"""What decoding a picture will take, known from its structure before a decoder sees it."""

from collections.abc import Sequence
from dataclasses import dataclass

from retrieval.errors import PhotoTooLargeError, UnreadablePhotoError, UnsupportedPhotoError
from retrieval.pictures.formats import damaged, in_words, sniff
from retrieval.pictures.limits import Header, PhotoLimits, View
from retrieval.pictures.scan import scan_of
from retrieval.pictures.views import FILTER_BYTES, STRIP_PIXELS, is_scaled_in_strips, scaling_bytes

__all__ = ["ORDINARY_MEMORY", "Work", "check_pixels", "inspect", "scale_of"]

ORDINARY_MEMORY = 64_000_000
"""Bytes. Of what takes no more, several may be decoded at a time; 16 megapixels in colour."""
_FIXED_BYTES = 8_000_000
_STRIP_BYTES = 24
"""A pixel, while a strip is converted."""
_ROW_BYTES = 36
"""A row: Pillow keeps a pointer to each and fills it up to 4 bytes; of the picture, its RGB and a third form of it."""
_RGB_BYTES = 4
"""A pixel of Pillow's RGB."""
_MAX_EDGE = 30_000_000
"""Pixels; Pillow counts the bits of a row in 31 bits, and says that memory is out where these do not do."""
_LONG_EDGE = 1000
"""On an edge of this many pixels, rounding to whole pixels does not matter."""


@dataclass(frozen=True)
class Work:
    """What a picture is and what decoding it takes. `memory`: bytes at the peak, beside the file itself."""

    header: Header
    memory: int

    @property
    def is_ordinary(self) -> bool:
        """Whether a thread may decode it beside others: its time is bounded to seconds, its memory is small."""
        return self.memory <= ORDINARY_MEMORY and not self.header.isolated


def inspect(data: bytes, limits: PhotoLimits, views: Sequence[View]) -> Work:
    """Judge a picture by its structure; takes well under a millisecond and decodes nothing.

    Raises UnreadablePhotoError, PhotoTooLargeError or UnsupportedPhotoError.
    """
    if not data:
        raise UnreadablePhotoError("the picture is empty (0 bytes); send the file's contents")
    if len(data) > limits.max_bytes:
        raise PhotoTooLargeError(
            f"the picture has {len(data):,} bytes and {limits.max_bytes:,} are allowed; send a smaller copy"
        )
    name = sniff(data)
    if limits.formats and name not in limits.formats:
        raise UnsupportedPhotoError(f"{name} is not accepted here; send {in_words(limits.formats)}")
    try:
        header = scan_of(name, data)
    except (ArithmeticError, LookupError, ValueError) as exc:  # of a structure that no program writes
        raise damaged(name, exc) from exc
    check_pixels((header.width, header.height), limits)
    memory = _memory(header, views)
    if memory > limits.max_memory:
        raise PhotoTooLargeError(
            f"decoding this {name} of {header.width} x {header.height} pixels takes {memory:,} bytes of memory and "
            f"{limits.max_memory:,} are allowed; send a smaller copy, or save it as an ordinary JPEG"
        )
    return Work(header, memory)


def check_pixels(size: tuple[int, int], limits: PhotoLimits) -> None:
    """Raise if a picture of this width and height has no pixels, or too many."""
    width, height = size
    if width < 1 or height < 1:
        raise UnreadablePhotoError(f"the picture has {width} x {height} pixels; send one that is not empty")
    if max(size) > _MAX_EDGE:
        raise PhotoTooLargeError(
            f"the picture has {width} x {height} pixels and edges of {_MAX_EDGE:,} are allowed; send a smaller copy"
        )
    if width * height > limits.max_pixels:
        raise PhotoTooLargeError(
            f"the picture has {width} x {height} pixels and {limits.max_pixels:,} are allowed; send a smaller copy"
        )


def scale_of(size: tuple[int, int], views: Sequence[View]) -> int:
    """8, 4, 2 or 1: to which fraction of its edges a JPEG is decoded.

    Only if that divides both edges, because a rounded edge changes the aspect ratio and so the crop; or if the edges
    stay so long that rounding does not matter: a file of 2 kB may claim 100 megapixels.
    """
    edges = [view.min_edge for view in views]
    if None in edges:
        return 1
    min_edge = max(edge or 0 for edge in edges)
    width, height = size
    for scale in (8, 4, 2):
        shortest = min(size) // scale
        if shortest >= min_edge and (width % scale == height % scale == 0 or shortest >= _LONG_EDGE):
            return scale
    return 1


def _memory(header: Header, views: Sequence[View]) -> int:
    """Bytes at the peak. Turning is looked up only where it matters, as most pictures are small."""
    size = header.width, header.height
    scale = scale_of(size, views) if header.shrinks else 1
    width, height = (-(-edge // scale) for edge in size)
    pixels = width * height
    decoding = int(pixels * header.decoding) + header.fixed + _ROW_BYTES * height
    converting = 0 if header.is_rgb else _STRIP_BYTES * min(pixels, max(width, STRIP_PIXELS))
    as_rgb = header.decoded + (0 if header.is_rgb else _RGB_BYTES)
    # At most; what it is exactly takes longer to compute.
    edge, columns = max(width, height), sum(view.preprocess.size for view in views if view.preprocess)
    rows, as_rgb_turned = _ROW_BYTES * edge, int(pixels * (as_rgb + _RGB_BYTES))
    scaling = rows + 2 * FILTER_BYTES * edge + _RGB_BYTES * columns * edge
    if_turned = _FIXED_BYTES + max(decoding, as_rgb_turned + converting + scaling)
    if if_turned <= ORDINARY_MEMORY:
        return if_turned
    if header.is_turned:
        scaling = rows + max(scaling_bytes(edges, True, views) for edges in ((width, height), (height, width)))
        return _FIXED_BYTES + max(decoding, as_rgb_turned + max(converting, scaling))
    scaling = _ROW_BYTES * height + scaling_bytes((width, height), False, views)
    kept = header.decoded if is_scaled_in_strips((width, height), False, views) else as_rgb
    return _FIXED_BYTES + max(decoding, int(pixels * kept) + converting + scaling)
