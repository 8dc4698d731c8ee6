"""The full depth of a 16-bit PNG, of which Pillow keeps the high bytes only where there is colour or alpha.

Where the high bytes say that samples use the top bit, they are enough. Else the file is decoded once more for
the low bytes: big-endian samples read as little-endian ones.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin

from retrieval.pictures.stretch import TOP_BIT_SHARE

__all__ = ["Box", "Samples", "cropped", "deep_samples"]

Box = tuple[int, int, int, int]
Samples = Callable[[Box], NDArray[np.uint16]]
"""Reads a part of a picture: (h, w, bands) uint16, alpha last."""

_TOP_BIT = 128
_GREY, _COLOUR, _GREY_ALPHA, _COLOUR_ALPHA = 0, 2, 4, 6
_LOW_BYTES = {_COLOUR: ("RGB", "RGB;16L"), _GREY_ALPHA: ("RGBA", "RGBA"), _COLOUR_ALPHA: ("RGBA", "RGBA;16L")}


def deep_samples(image: ImageFile.ImageFile, data: bytes) -> Samples | None:
    """The 16-bit samples of a loaded picture, where its pixels in 8 bits would not do; None for any other picture."""
    if image.mode.startswith("I;16"):
        return lambda box: np.asarray(cropped(image, box), dtype=np.uint16)[:, :, None]
    if not isinstance(image, PngImagePlugin.PngImageFile) or data[24] != 16 or data[25] not in _LOW_BYTES:
        return None
    if _uses_top_bit(image):
        return None
    colour = data[25]
    low = _decoded_again(data, *_LOW_BYTES[colour])
    if colour == _GREY_ALPHA:  # four bytes a pixel, as they lie in the file
        return lambda box: np.ascontiguousarray(np.asarray(cropped(low, box))).view(">u2").astype(np.uint16)
    return lambda box: (np.asarray(cropped(image, box)).astype(np.uint16) << 8) | np.asarray(cropped(low, box))


def cropped(image: Image.Image, box: Box) -> Image.Image:
    """A part of a picture; the picture itself where that is all of it."""
    return image if box == (0, 0, *image.size) else image.crop(box)


def _decoded_again(data: bytes, mode: str, raw: str) -> Image.Image:
    image = PngImagePlugin.PngImageFile(BytesIO(data))
    [tile] = image.tile
    args: Any = (raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw
    image._mode, image.tile = mode, [tile._replace(args=args)]
    image.load()
    return image


def _uses_top_bit(image: Image.Image) -> bool:
    """Whether the high bytes are surely enough: some samples have the top bit, some not, or they are spread widely."""
    counts = np.sum([image.getchannel(band).histogram() for band in "RGB"], axis=0)
    share = counts[_TOP_BIT:-1].sum() / counts.sum()  # the largest value may stand for pixels without data
    return bool(TOP_BIT_SHARE <= share <= 1 - TOP_BIT_SHARE)
