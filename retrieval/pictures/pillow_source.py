"""A picture that Pillow decoded as strips of 8-bit RGB: palettes, greys, CMYK, alpha, colour profiles, 16-bit PNG."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from retrieval.errors import UnreadablePhotoError, UnsupportedPhotoError
from retrieval.pictures.png_depth import Box, cropped, deep_samples
from retrieval.pictures.profile import Profile
from retrieval.pictures.stretch import Range, Scale, in_words
from retrieval.pictures.views import STRIP_PIXELS

__all__ = ["PillowSource", "plain"]

_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_GREYS = ("1", "L", "LA", "La")
_MODES = frozenset({*_ALPHA, *_GREYS, "P", "RGB", "RGBX", "CMYK", "YCbCr"})


class PillowSource:
    """A source of strips (see `retrieval.pictures.views`) over a loaded picture.

    `data`: the file, for a second look at a 16-bit PNG. `nodata`: the value of pixels without data, in all bands.
    Raises UnsupportedPhotoError for pixels that cannot be converted, UnreadablePhotoError where all are without data.
    """

    def __init__(self, image: ImageFile.ImageFile, data: bytes, turn: int, nodata: float | None = None) -> None:
        self.size, self.turn = image.size, turn
        self.notes: list[str] = []
        self._image = image
        self._deep = deep_samples(image, data)
        if self._deep is None and image.mode not in _MODES:
            raise UnsupportedPhotoError(f"pixels of the mode {image.mode} are not supported; save the picture as RGB")
        self._has_alpha = image.mode in _ALPHA or "transparency" in image.info
        if image.format == "BMP" and self._has_alpha and image.getchannel("A").getbbox() is None:
            self._has_alpha = False  # programs that know no alpha leave zeros in its place
            self.notes.append("alpha, which is 0 everywhere, left out")
        self._nodata = nodata if image.mode in ("L", "P", "RGB") else None
        self._profile = Profile()
        self._fills: tuple[float, ...] = ()
        self._scale = None if self._deep is None else self._measured()
        if self._scale is not None and self._scale.note is None and not image.mode.startswith("I;16"):
            self._deep = None  # the high bytes are the picture
        self._base_mode = self._mode_of_colours()
        self._profile = Profile.of(image.info.get("icc_profile"), self._base_mode, self.notes)
        if self._nodata is not None:
            self._count_nodata()

    def strips(self) -> Iterator[Image.Image]:
        """RGB, or RGBA where pixels are transparent, from top to bottom."""
        for box in self._boxes():
            strip, alpha = self._strip(box)
            rgb = self._profile.to_rgb(strip if strip.mode == self._base_mode else strip.convert(self._base_mode))
            if alpha is None:
                yield rgb
            else:
                rgba = rgb.convert("RGBA")
                rgba.putalpha(alpha)
                yield rgba

    def _mode_of_colours(self) -> str:
        """The mode without alpha and in 8 bits, which is what a profile is about."""
        if self._image.mode == "CMYK":
            return "CMYK"
        if self._deep is not None:
            return "L" if self._deep((0, 0, 1, 1)).shape[2] < 3 else "RGB"
        return "L" if self._image.mode in _GREYS else "RGB"

    def _boxes(self) -> Iterator[Box]:
        width, height = self.size
        as_it_is = self._image.mode == "RGB" and self._profile.changes_nothing and not self._has_alpha
        rows = height if as_it_is else max(1, STRIP_PIXELS // width)
        for top in range(0, height, rows):
            yield 0, top, width, min(height, top + rows)

    def _strip(self, box: Box) -> tuple[Image.Image, Image.Image | None]:
        """A part of the picture with 8 bits a band, and its alpha if it has any."""
        if self._deep is not None and self._scale is not None:
            return _stretched(self._deep(box), self._scale, self._no_colours)
        strip = cropped(self._image, box)
        if self._nodata is not None and (missing := self._missing(strip)).any():
            return strip, Image.fromarray(np.where(missing, np.uint8(0), np.uint8(255)))
        if not self._has_alpha:
            return strip, None
        # Premultiplied modes convert to their plain siblings only, and "La" and "PA" to RGBA only through those.
        rgba = strip.convert({"La": "LA", "RGBa": "RGBA"}.get(strip.mode, strip.mode)).convert("RGBA")
        return rgba, rgba.getchannel("A")

    @property
    def _no_colours(self) -> tuple[float, ...]:
        return self._fills if self._key is None else (*self._fills, self._key)

    @property
    def _key(self) -> int | None:
        """The 16-bit grey that is transparent."""
        key = self._image.info.get("transparency")
        return key if isinstance(key, int) and self._image.mode.startswith("I;16") else None

    def _measured(self) -> Scale:
        seen = Range(16, "u", self.size[0] * self.size[1])
        assert self._deep is not None
        for box in self._boxes():
            colours, _ = _parted(self._deep(box))
            seen.add(colours[colours != self._key] if self._key is not None else colours.reshape(-1))
        if seen.is_empty:
            raise _no_data()
        scale, self._fills = seen.scale(), seen.fills()
        self.notes += [scale.note] if scale.note else []
        if self._fills:
            self.notes.append(f"pixels of {in_words(self._fills)}, far from all others, shown as transparent")
        return scale

    def _missing(self, strip: Image.Image) -> NDArray[np.bool_]:
        equal = np.asarray(strip) == self._nodata
        return np.asarray(equal.all(axis=2) if equal.ndim == 3 else equal)

    def _count_nodata(self) -> None:
        count = sum(int(np.count_nonzero(self._missing(cropped(self._image, box)))) for box in self._boxes())
        if count == self.size[0] * self.size[1]:
            raise _no_data()
        if count:
            self.notes.append(f"{count:,} pixels without data (nodata is {self._nodata:g}) shown as transparent")


def plain(image: Image.Image) -> Image.Image:
    """A picture that Pillow opened as RGB, or RGBA where pixels may be transparent, from the nominal range of samples.

    For the tiles of a map: each is shown as its neighbours are, whatever range it uses.
    """
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        samples = np.asarray(image).clip(0, 65_535).astype(np.uint16)
        return Image.fromarray(Scale(0.0, 65_535.0, None).to_bytes(samples)).convert("RGB")
    return image.convert("RGBA" if image.mode in _ALPHA or "transparency" in image.info else "RGB")


def _stretched(
    values: NDArray[np.uint16], scale: Scale, no_colours: tuple[float, ...]
) -> tuple[Image.Image, Image.Image | None]:
    """Samples to 8 bits and their alpha; pixels with one of `no_colours` in all bands are transparent."""
    colours, alpha = _parted(values)
    if no_colours and (missing := np.isin(colours, no_colours).all(axis=2)).any():
        alpha = np.where(missing, np.uint16(0), np.uint16(65_535) if alpha is None else alpha)
    pixels = scale.to_bytes(colours)
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return image, None if alpha is None else Image.fromarray((alpha >> 8).astype(np.uint8))


def _parted(values: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], NDArray[np.uint16] | None]:
    """Colours, (h, w, 1 or 3), and alpha, (h, w), where there is a second or fourth band."""
    bands = values.shape[2]
    return (values, None) if bands in (1, 3) else (values[:, :, :-1], values[:, :, -1])


def _no_data() -> UnreadablePhotoError:
    return UnreadablePhotoError("the picture has no pixel with data; send another copy")
