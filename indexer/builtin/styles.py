"""Random styles of pictures: colours, haze, cloud, sea, snow, blur, noise, compression.

Every query is drawn in a random style, so that the model learns geography and not one product's pixels. A `Style` holds
chances and strengths; test sets fix theirs in a committed file. All operations work on batches (n, 3, s, s) float32
from 0 to 1.
"""

import io
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from indexer.builtin.views import Earth, Views

__all__ = ["Style", "Stylist"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Style:
    """Chances are from 0 to 1; a strength is the largest value drawn, uniformly from 0. The default changes nothing."""

    mix: float = 0.0  # chance that a second product is blended in, at a weight up to a half
    sea: float = 0.0  # chance that water is recoloured
    snow: float = 0.0  # chance that land is whitened in patches
    remap: float = 0.0  # chance of a random smooth map from colour to colour
    remap_strength: float = 1.0
    grey: float = 0.0  # chance of losing colour
    colour: float = 0.0  # strength of a random 3x3 matrix and offsets
    contrast: float = 0.0  # strength, of a factor around 1
    gamma: float = 0.0  # strength, of an exponent around 1
    haze: float = 0.0  # chance of haze
    haze_strength: float = 0.0  # largest share of light from haze
    cloud: float = 0.0  # chance of cloud
    cloud_cover: float = 0.0  # largest share of the picture under cloud
    blur: float = 0.0  # chance of blur
    blur_pixels: float = 0.0  # largest sigma, in pixels of a 72-pixel picture
    noise: float = 0.0  # chance of noise
    noise_strength: float = 0.0  # largest sigma
    jpeg: float = 0.0  # chance of JPEG
    jpeg_quality: int = 30  # lowest quality

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Style":
        """From a JSON object. Raises ValueError for an unknown name."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"style has no {sorted(unknown)}; it has {[f.name for f in fields(cls)]}")
        return cls(**values)

    def scaled(self, share: float) -> "Style":
        """This style with every chance and colour strength times `share`: training starts with easy pictures."""
        grown = ("mix", "sea", "snow", "remap", "grey", "colour", "contrast", "gamma", "haze", "cloud", "blur", "noise")
        return replace(self, jpeg=self.jpeg * share, **{name: getattr(self, name) * share for name in grown})


class Stylist:
    """Draws views in random styles. The same generator state gives the same pictures."""

    def __init__(self, earth: Earth, style: Style) -> None:
        self._earth, self._style = earth, style

    def draw(self, views: Views, size: int, rng: np.random.Generator, share: float = 1.0) -> Tensor:
        """Pictures of the views, each of a random product, (n, 3, size, size) float32; `share` as in `Style.scaled`."""
        style, n = self._style.scaled(share), len(views)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        count = len(self._earth.products)
        chosen = rng.integers(count, size=n)
        x = self._earth.draw(views, chosen, size)
        x = self._mix(x, views, chosen, style.mix, rng)
        x = self._sea_and_snow(x, views, style, rng, generator)
        x = _remap(x, _pick(style.remap, n, rng), style.remap_strength, generator)
        x = _colours(x, style, rng, generator)
        x = _haze(x, _pick(style.haze, n, rng), style.haze_strength, generator)
        x = _cloud(x, _pick(style.cloud, n, rng), style.cloud_cover, generator)
        x = _blur(x, _pick(style.blur, n, rng), style.blur_pixels * size / 72, rng)
        x = _noise(x, _pick(style.noise, n, rng), style.noise_strength, generator)
        return _jpeg(x.clamp(0, 1), _pick(style.jpeg, n, rng), style.jpeg_quality, rng)

    def _mix(self, x: Tensor, views: Views, chosen: Ints, chance: float, rng: np.random.Generator) -> Tensor:
        count = len(self._earth.products)
        picked = _pick(chance if count > 1 else 0, len(views), rng)
        if not len(picked):
            return x
        other = (chosen[picked] + rng.integers(1, max(count, 2), size=len(picked))) % count
        weight = torch.from_numpy(rng.uniform(0, 0.5, len(picked))).float()[:, None, None, None]
        x[picked] = torch.lerp(x[picked], self._earth.draw(views.take(picked), other, x.shape[-1]), weight)
        return x

    def _sea_and_snow(
        self, x: Tensor, views: Views, style: Style, rng: np.random.Generator, generator: torch.Generator
    ) -> Tensor:
        picked = _pick(style.sea, len(views), rng)
        if len(picked):
            water = 1 - self._earth.land(views.take(picked), x.shape[-1])
            colour = _uniform((len(picked), 3, 1, 1), generator) * torch.tensor([0.7, 0.9, 1.0])[None, :, None, None]
            relief = x[picked].mean(1, keepdim=True) - x[picked].mean((1, 2, 3), keepdim=True)
            sea = colour + relief * _uniform((len(picked), 1, 1, 1), generator)
            x[picked] = torch.lerp(x[picked], sea, water * _uniform((len(picked), 1, 1, 1), generator).sqrt())
        picked = _pick(style.snow, len(views), rng)
        if len(picked):
            land = self._earth.land(views.take(picked), x.shape[-1])
            bright = x[picked].mean(1, keepdim=True)
            patches = _clouds(len(picked), x.shape[-1], generator) + bright - bright.mean((1, 2, 3), keepdim=True)
            cover = torch.sigmoid((patches - 1 + 1.4 * _uniform((len(picked), 1, 1, 1), generator)) * 8) * land
            x[picked] = torch.lerp(x[picked], 0.75 + 0.25 * bright.expand(-1, 3, -1, -1), cover * 0.9)
        return x


def _pick(chance: float, n: int, rng: np.random.Generator) -> Ints:
    """The pictures that are chosen with this chance, (m,) int64; always draws n random numbers."""
    return np.flatnonzero(rng.uniform(size=n) < chance)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


def _around(shape: tuple[int, ...], strength: float, generator: torch.Generator) -> Tensor:
    """Uniform from -strength to strength."""
    return (torch.rand(shape, generator=generator) * 2 - 1) * strength


def _remap(x: Tensor, picked: Ints, strength: float, generator: torch.Generator) -> Tensor:
    """Map colours by a random two-layer function, as another map's palette would."""
    if not len(picked):
        return x
    m, hidden = len(picked), 8
    first = torch.randn((m, hidden, 3), generator=generator) * 2.5
    bias = torch.randn((m, hidden, 1), generator=generator)
    last = torch.randn((m, 3, hidden), generator=generator) / hidden**0.5
    flat = x[picked].flatten(2) - 0.4
    drawn = torch.bmm(last, torch.tanh(torch.bmm(first, flat) + bias)).view(m, 3, *x.shape[2:])
    low, high = drawn.amin((2, 3), keepdim=True), drawn.amax((2, 3), keepdim=True)
    span = 0.3 + 0.7 * _uniform((m, 3, 1, 1), generator)
    drawn = (drawn - low) / (high - low).clamp_min(0.2) * span + (1 - span) * _uniform((m, 3, 1, 1), generator)
    weight = (0.3 + 0.7 * _uniform((m, 1, 1, 1), generator)) * strength
    x[picked] = torch.lerp(x[picked], drawn, weight.clamp(0, 1))
    return x


def _colours(x: Tensor, style: Style, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Grey, a 3x3 matrix with offsets, gamma and contrast."""
    n = len(x)
    grey = torch.zeros(n, 1, 1, 1)
    grey[_pick(style.grey, n, rng)] = 1.0
    partial_grey = _uniform((n, 1, 1, 1), generator) * min(1.0, 2 * style.colour)
    x = torch.lerp(x, x.mean(1, keepdim=True).expand_as(x), torch.maximum(grey, partial_grey * 0.6))
    matrix = torch.eye(3)[None] + _around((n, 3, 3), style.colour * 0.5, generator)
    x = torch.bmm(matrix, x.flatten(2)).view_as(x) + _around((n, 3, 1, 1), style.colour * 0.4, generator)
    x = x.clamp(1e-4, 1) ** torch.exp(_around((n, 1, 1, 1), style.gamma, generator))
    middle = x.mean((1, 2, 3), keepdim=True)
    factor = torch.exp(_around((n, 1, 1, 1), style.contrast, generator))
    return (x - middle) * factor + middle + _around((n, 1, 1, 1), style.contrast * 0.2, generator)


def _haze(x: Tensor, picked: Ints, strength: float, generator: torch.Generator) -> Tensor:
    if not len(picked):
        return x
    m, size = len(picked), x.shape[-1]
    light = 0.6 + 0.4 * _uniform((m, 3, 1, 1), generator)
    slope = torch.linspace(0, 1, size)[None, None, :, None]
    tilt = _around((m, 1, 1, 1), 0.5, generator)
    share = _uniform((m, 1, 1, 1), generator) * strength * (1 + tilt * (slope - 0.5) * 2)
    x[picked] = torch.lerp(x[picked], light.expand(-1, -1, size, size), share.clamp(0, 1))
    return x


def _clouds(n: int, size: int, generator: torch.Generator) -> Tensor:
    """Smooth noise of several octaves, (n, 1, size, size), scaled to 0 to 1 within each picture."""
    total = torch.zeros(n, 1, size, size)
    for octave, weight in ((3, 1.0), (6, 0.6), (12, 0.35), (24, 0.2)):
        grid = torch.rand((n, 1, octave, octave), generator=generator)
        total += weight * functional.interpolate(grid, size=(size, size), mode="bilinear", align_corners=True)
    low, high = total.amin((2, 3), keepdim=True), total.amax((2, 3), keepdim=True)
    return (total - low) / (high - low)


def _cloud(x: Tensor, picked: Ints, cover: float, generator: torch.Generator) -> Tensor:
    if not len(picked):
        return x
    noise = _clouds(len(picked), x.shape[-1], generator)
    share = _uniform((len(picked),), generator) * cover
    ranked = noise.flatten(1).sort(1).values
    rank = ((1 - share) * (ranked.shape[1] - 1)).round().long()
    edge = ranked.gather(1, rank[:, None])[:, :, None, None]
    opacity = torch.sigmoid((noise - edge) * 25) * (0.5 + 0.5 * _uniform((len(picked), 1, 1, 1), generator))
    white = 0.8 + 0.2 * noise
    x[picked] = torch.lerp(x[picked], white.expand(-1, 3, -1, -1), opacity)
    return x


def _blur(x: Tensor, picked: Ints, sigma: float, rng: np.random.Generator) -> Tensor:
    """Gaussian blur with one kernel per picture, as a grouped convolution along rows and columns."""
    if not len(picked) or sigma <= 0:
        return x
    m, size, reach = len(picked), x.shape[-1], max(1, int(np.ceil(2.5 * sigma)))
    sigmas = torch.from_numpy(rng.uniform(0.3 * sigma, sigma, m)).float()[:, None]
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1)[None] / sigmas) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)
    padded = functional.pad(x[picked], (reach,) * 4, mode="replicate").view(1, 3 * m, size + 2 * reach, -1)
    along = functional.conv2d(padded, kernel[:, None, None, :], groups=3 * m)
    x[picked] = functional.conv2d(along, kernel[:, None, :, None], groups=3 * m).view(m, 3, size, size)
    return x


def _noise(x: Tensor, picked: Ints, strength: float, generator: torch.Generator) -> Tensor:
    if len(picked):
        sigma = _uniform((len(picked), 1, 1, 1), generator) * strength
        x[picked] += sigma * torch.randn(x[picked].shape, generator=generator)
    return x


def _jpeg(x: Tensor, picked: Ints, lowest: int, rng: np.random.Generator) -> Tensor:
    for i in picked:
        pixels = (x[i] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        coded = io.BytesIO()
        Image.fromarray(pixels).save(coded, "JPEG", quality=int(rng.integers(lowest, 96)))
        coded.seek(0)
        decoded = np.asarray(Image.open(coded))
        x[i] = torch.from_numpy(decoded.copy()).permute(2, 0, 1).float() / 255
    return x
