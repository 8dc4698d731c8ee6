"""From RGB pictures to what an encoder takes in; data that travels with the encoder. Knows nothing of models.

Resizing is Pillow's antialiased filter, as in open_clip's own transforms, so no torchvision is needed to answer.
"""

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from indexer.retrieval.errors import EncoderError

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclass(frozen=True)
class Preprocess:
    """How pictures become input.

    `size`: pixels along an edge. `mean`, `std`: per channel, of values from 0 to 1. `resize`: `shortest` scales the
    shorter edge and crops the middle, `squash` scales both edges. `contrast_floor`: null for the above only; else every
    picture is divided by its own contrast first (see `levelled`): haze, dusk and dark products look alike then.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    resize: Literal["shortest", "squash"] = "shortest"
    contrast_floor: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Preprocess":
        """From `to_json`'s values; EncoderError names what is wrong."""
        try:
            made = cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
        except (KeyError, TypeError) as exc:
            raise EncoderError(f"no preprocessing that this version knows: {values!r} ({exc})") from exc
        if made.interpolation not in _FILTERS or made.resize not in ("shortest", "squash") or made.size < 1:
            raise EncoderError(f"no preprocessing that this version knows: {values!r}")
        return made

    def picture(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB picture of any size to (3, size, size) float32."""
        return np.asarray(self.pixels(np.asarray(self.resized(image))[None])[0])

    def resized(self, image: Image.Image) -> Image.Image:
        """The picture at the encoder's size, scaled and cropped, still 8-bit RGB."""
        image, size, filter_ = image.convert("RGB"), self.size, _FILTERS[self.interpolation]
        if self.resize == "squash":
            return image.resize((size, size), filter_)
        width, height = image.size
        edge = min(width, height)
        # The crop is taken before scaling: a panorama of 20,000 x 10 pixels must not be blown up to be cut again.
        left, top = (width - edge) / 2, (height - edge) / 2
        return image.resize((size, size), filter_, box=(left, top, left + edge, top + edge))

    def pixels(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures of the encoder's size, (n, size, size, 3) uint8, to (n, 3, size, size) float32."""
        values = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), dtype=np.float32)
        values *= np.float32(1 / 255)
        if self.contrast_floor is not None:
            values = levelled(values, self.contrast_floor)
        mean, std = (np.array(v, dtype=np.float32)[None, :, None, None] for v in (self.mean, self.std))
        return np.asarray((values - mean) / std, dtype=np.float32)


def levelled(values: NDArray[np.float32], floor: float) -> NDArray[np.float32]:
    """Divide each picture's deviation from its mean colour by its contrast; (n, 3, h, w) float32, 0 to 1 going in.

    With m the mean colour and s the root-mean-square deviation from it over all channels:
    0.5 + 0.25 (x - m) / (s + floor) + 0.5 (m - 0.5). The mean colour stays visible; `floor` bounds how noise grows.
    """
    mean = values.mean(axis=(2, 3), keepdims=True)
    apart = values - mean
    contrast = np.sqrt(np.mean(np.square(apart), axis=(1, 2, 3), keepdims=True))
    return np.asarray(0.5 + 0.25 * apart / (contrast + floor) + 0.5 * (mean - 0.5), dtype=np.float32)
