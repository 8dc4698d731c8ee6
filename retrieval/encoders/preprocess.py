"""Preprocessing of RGB pictures, as data that is stored with the encoder. Knows nothing of models.

Pictures are resized with Pillow's antialiasing filters, like open_clip's own transforms but without torchvision.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.errors import EncoderError

__all__ = ["MAX_SIZE", "Preprocess", "levelled"]

MAX_SIZE = 1024
"""Pixels along an edge of an encoder's input; the largest models of open_clip and timm take as many."""
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_SUPPORT = 2
"""Pixels to each side that the widest filter looks at, in the scaled picture."""


@dataclass(frozen=True)
class Preprocess:
    """How a picture becomes an encoder's input.

    `size`: pixels along an edge. `mean`, `std`: per channel, of values from 0 to 1. `resize`: `shortest` scales the
    shorter edge to `size` and crops the middle, `squash` scales both edges. `contrast_floor`: if not None, each picture
    is first divided by its own contrast (see `levelled`), which reduces the effect of haze, dusk and dark images.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize: Literal["shortest", "squash"] = "shortest"
    contrast_floor: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON values, which `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocess":
        """The inverse of `to_json`; raises EncoderError for values that this version does not know."""
        try:
            preprocess = cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
            known = preprocess._is_known()
        except (ArithmeticError, KeyError, TypeError, ValueError) as exc:
            raise EncoderError(f"unknown preprocessing {values!r:.300} ({exc}): use the version that wrote it") from exc
        if not known:
            raise EncoderError(
                f"unknown preprocessing {values!r:.300}: the size is 1 to {MAX_SIZE} pixels, the rest as this version "
                "writes it; use the version that wrote it"
            )
        return preprocess

    def _is_known(self) -> bool:
        return (
            type(self.size) is int
            and 1 <= self.size <= MAX_SIZE
            and len(self.mean) == len(self.std) == 3
            and all(math.isfinite(m) and s > 0 for m, s in zip(self.mean, self.std, strict=True))
            and self.interpolation in _FILTERS
            and self.resize in ("shortest", "squash")
            and (self.contrast_floor is None or self.contrast_floor > 0)
        )

    def picture(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB picture of any size to (3, size, size) float32."""
        return np.asarray(self.pixels(np.asarray(self.resized(image))[None])[0])

    def resized(self, image: Image.Image) -> Image.Image:
        """The picture scaled and cropped to the encoder's size, still 8-bit RGB."""
        # `convert` would copy a picture that is RGB already, which may have hundreds of megabytes.
        image = image if image.mode == "RGB" else image.convert("RGB")
        # Crop while scaling, so that a panorama of 20,000 x 10 pixels is not enlarged before it is cropped.
        return image.resize((self.size, self.size), _FILTERS[self.interpolation], box=self._box(image.size))

    def narrowed(self, strip: Image.Image, whole: tuple[int, int]) -> Image.Image:
        """Scale rows of an RGB picture of size `whole` to `size` columns: the first half of `resized`."""
        left, _, right, _ = self._box(whole)
        box = (left, 0, right, strip.height)
        return strip.resize((self.size, strip.height), _FILTERS[self.interpolation], box=box)

    def shortened(self, narrow: Image.Image, whole: tuple[int, int]) -> Image.Image:
        """Scale all narrowed rows of a picture of size `whole` to `size` rows: the same pixels as from `resized`."""
        _, top, _, bottom = self._box(whole)
        return narrow.resize((self.size, self.size), _FILTERS[self.interpolation], box=(0, top, self.size, bottom))

    def pixels_used(self, whole: tuple[int, int]) -> tuple[int, int]:
        """How many columns and rows of a picture of size `whole` are scaled, at most."""
        left, top, right, bottom = self._box(whole)
        # The filter looks beyond the part that is scaled.
        columns, rows = (math.ceil(used * (1 + 2 * _SUPPORT / self.size)) + 4 for used in (right - left, bottom - top))
        return min(whole[0], columns), min(whole[1], rows)

    def _box(self, whole: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part of a picture that is used: left, top, right, bottom."""
        if self.resize == "squash":
            return 0, 0, *whole
        (left, right), (top, bottom) = (_middle(length, min(whole), self.size) for length in whole)
        return left, top, right, bottom

    def pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures of the encoder's size, (n, size, size, 3) uint8, to (n, 3, size, size) float32."""
        values = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
        values *= np.float32(1 / 255)
        if self.contrast_floor is not None:
            values = levelled(values, self.contrast_floor)
        mean, std = (np.array(v, dtype=np.float32)[None, :, None, None] for v in (self.mean, self.std))
        return np.asarray((values - mean) / std, dtype=np.float32)


def _middle(length: int, shorter: int, size: int) -> tuple[float, float]:
    """Start and end of the part of an edge of `length` pixels that stays after scaling the shorter edge and cropping.

    Rounded like open_clip's transforms (torchvision's Resize and CenterCrop), so that the pixels are the same.
    """
    scaled = size * length // shorter
    first = round((scaled - size) / 2)
    return first * length / scaled, min(float(length), (first + size) * length / scaled)


def levelled(values: NDArray[np.float32], floor: float) -> NDArray[np.float32]:
    """Divide each picture's deviation from its mean colour by its contrast; `values`: (n, 3, h, w) float32, 0 to 1.

    With m the mean colour and s the root-mean-square deviation from it over all channels:
    0.5 + 0.25 (x - m) / (s + floor) + 0.5 (m - 0.5). The mean colour stays visible; `floor` limits amplified noise.
    """
    mean = values.mean(axis=(2, 3), keepdims=True)
    deviation = values - mean
    contrast = np.sqrt(np.mean(np.square(deviation), axis=(1, 2, 3), keepdims=True))
    return np.asarray(0.5 + 0.25 * deviation / (contrast + floor) + 0.5 * (mean - 0.5), dtype=np.float32)
