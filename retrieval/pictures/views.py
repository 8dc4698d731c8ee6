"""From strips of pixels to the forms that callers want: the whole picture, or scaled and cropped for an encoder.

A strip is a few rows over the whole width. Scaling strip by strip gives the same pixels, to the bit, as scaling the
whole picture, because the filter runs first along rows and then along columns; so a large picture need not exist in
RGB.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

from PIL import Image

from retrieval.encoders.preprocess import Preprocess
from retrieval.pictures.limits import View

__all__ = [
    "FILTER_BYTES",
    "LARGE_PIXELS",
    "STRIP_PIXELS",
    "Source",
    "flat",
    "is_scaled_in_strips",
    "scaling_bytes",
    "turned",
    "views_of",
]

STRIP_PIXELS = 500_000
"""A strip that has to be converted has about so many."""
LARGE_PIXELS = 4_000_000
"""A picture of more is scaled strip by strip."""
FILTER_BYTES = 32
"""A pixel of an edge that is scaled: the widest filter has four weights for each, of 8 bytes."""
_RGB_BYTES = 4
"""A pixel of Pillow's RGB."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Source(Protocol):
    """A picture whose strips can be read, more than once.

    `turn`: EXIF's orientation, 1 to 8. `notes`: what was done to the samples that is not plain decoding.
    """

    size: tuple[int, int]
    turn: int
    notes: list[str]

    def strips(self) -> Iterator[Image.Image]:
        """RGB or RGBA, from top to bottom."""
        ...


def views_of(source: Source, views: Sequence[View], background: tuple[int, int, int]) -> list[Image.Image]:
    """Each view as an upright RGB picture; transparent pixels show `background`."""
    if is_scaled_in_strips(source.size, source.turn in _TURNS, views):
        return _scaled(source, [view.preprocess for view in views if view.preprocess], background)
    whole = turned(_whole(source, background), source.turn)
    return [view.preprocess.resized(whole) if view.preprocess else whole for view in views]


def is_scaled_in_strips(size: tuple[int, int], is_turned: bool, views: Sequence[View]) -> bool:
    """Whether a picture never exists in RGB as a whole. One that is narrower than a view would only grow."""
    if is_turned or size[0] * size[1] <= LARGE_PIXELS:
        return False
    return all(view.preprocess is not None and view.preprocess.size <= size[0] for view in views)


def flat(strip: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """An RGBA picture laid on a colour; RGB comes back as it is."""
    if strip.mode != "RGBA":
        return strip
    canvas = Image.new("RGBA", strip.size, (*background, 255))
    return Image.alpha_composite(canvas, strip).convert("RGB")


def turned(image: Image.Image, turn: int) -> Image.Image:
    """The picture turned as EXIF's orientation says."""
    return image.transpose(_TURNS[turn]) if turn in _TURNS else image


def scaling_bytes(size: tuple[int, int], is_turned: bool, views: Sequence[View]) -> int:
    """What scaling takes beside the picture: the filter, and rows at the width of a view, before columns are scaled."""
    sizes = [view.preprocess for view in views if view.preprocess]
    if not sizes:
        return 0
    across, down = (max(each.pixels_used(size)[axis] for each in sizes) for axis in (0, 1))
    if is_scaled_in_strips(size, is_turned, views):
        narrow = sum(_RGB_BYTES * each.size * size[1] for each in sizes)
    else:
        narrow = max(_RGB_BYTES * each.size * each.pixels_used(size)[1] for each in sizes)
    return narrow + FILTER_BYTES * (across + down)


def _visible(source: Source) -> Iterator[Image.Image]:
    """The strips; where all of them are transparent, a note says so."""
    rows, is_visible = 0, False
    for strip in source.strips():
        rows += strip.height
        is_visible = is_visible or strip.mode != "RGBA" or strip.getchannel("A").getbbox() is not None
        if rows >= source.size[1] and not is_visible:
            source.notes.append("the picture is transparent everywhere: nothing of it can be seen")
        yield strip


def _whole(source: Source, background: tuple[int, int, int]) -> Image.Image:
    strips = _visible(source)
    first = flat(next(strips), background)
    if first.size == source.size:
        return first
    whole = Image.new("RGB", source.size)
    whole.paste(first, (0, 0))
    top = first.height
    for strip in strips:
        whole.paste(flat(strip, background), (0, top))
        top += strip.height
    return whole


def _scaled(source: Source, sizes: Sequence[Preprocess], background: tuple[int, int, int]) -> list[Image.Image]:
    narrow = [Image.new("RGB", (size.size, source.size[1])) for size in sizes]
    top = 0
    for strip in _visible(source):
        rgb = flat(strip, background)
        for size, image in zip(sizes, narrow, strict=True):
            image.paste(size.narrowed(rgb, source.size), (0, top))
        top += strip.height
    return [size.shortened(image, source.size) for size, image in zip(sizes, narrow, strict=True)]
