"""What a file's structure says about the work ahead, as plain numbers."""

from dataclasses import dataclass

from retrieval.pictures.tiff_tags import orientation_of_exif

__all__ = ["Header"]


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
