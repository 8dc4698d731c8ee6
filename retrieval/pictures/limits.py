"""What a picture is and may be before it is decoded, as plain numbers, and what a caller wants of it."""

from dataclasses import dataclass
from typing import NamedTuple

from retrieval.encoders.preprocess import Preprocess
from retrieval.pictures.tiff_tags import orientation_of_exif

__all__ = ["DECODE_TIMEOUT_S", "DEFAULT_LIMITS", "MAX_MEMORY", "Header", "PhotoLimits", "View"]

MAX_MEMORY = 430_000_000
"""Bytes. Enough for 100 megapixels in colour and alpha where no other copy of them is needed."""

DECODE_TIMEOUT_S = 30.0
"""Seconds for a picture that is decoded in a process of its own; the slowest within the limits take a third of it."""


@dataclass(frozen=True)
class PhotoLimits:
    """Limits of a picture.

    `max_bytes`: of the file. `max_pixels`: width times height. `formats`: names; empty for all that can be decoded.
    `max_memory`: bytes that decoding may take at its peak, as computed from the header.
    """

    max_bytes: int = 20_000_000
    max_pixels: int = 100_000_000
    formats: tuple[str, ...] = ()
    max_memory: int = MAX_MEMORY


DEFAULT_LIMITS = PhotoLimits()


class View(NamedTuple):
    """A form of the picture that a caller wants.

    `min_edge`: a JPEG may be decoded at a fraction of its size if both edges keep this many pixels; None: never.
    `preprocess`: scale and crop it as this says; None: the whole picture.
    """

    min_edge: int | None = None
    preprocess: Preprocess | None = None


@dataclass(frozen=True)
class Header:
    """Size and memory of a picture that is not decoded yet.

    `decoding`, `decoded`: bytes a pixel at the decoder's peak, and after it. `fixed`: bytes beside those while it
    decodes, whatever size it is asked for. `is_rgb`: pixels come as 8-bit RGB and need no copy. `shrinks`: the decoder
    can scale. `isolated`: decode it in a process of its own in any case, because its decoder is slow, or writes to
    stderr, or was tried less than the others.
    """

    name: str
    width: int
    height: int
    decoding: float = 4.0
    decoded: float = 4.0
    fixed: int = 0
    is_rgb: bool = True
    shrinks: bool = False
    isolated: bool = False
    exif: bytes = b""
    orientation: int | None = None  # None: as `exif` says

    @property
    def is_turned(self) -> bool:
        """Whether the pixels have to be turned, which takes a second copy of them."""
        return (orientation_of_exif(self.exif) if self.orientation is None else self.orientation) != 1
