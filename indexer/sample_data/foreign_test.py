"""Real places in renditions to test on: sketches, tinted heights, cartoons with a graticule, engravings.

Each function takes views, a size in pixels and a generator and gives (n, size, size, 3) uint8. Nothing here is shared
with the renditions that are fitted on but the views themselves.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import gaussian_filter, sobel

from indexer.builtin.views import Views
from indexer.sample_data.from_earth import drawn, land_of
from indexer.sample_data.projection import View

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]

_LANDS = np.array(
    [
        [[122, 172, 112], [214, 212, 140], [206, 160, 98], [160, 110, 76], [246, 244, 240]],  # a school atlas
        [[70, 130, 90], [150, 180, 110], [230, 220, 180], [180, 140, 110], [255, 255, 255]],
        [[235, 232, 220], [212, 200, 176], [180, 160, 132], [140, 118, 96], [96, 80, 66]],  # sepia
        [[40, 60, 130], [40, 150, 160], [120, 200, 110], [240, 220, 90], [220, 70, 50]],  # a rainbow
    ],
    dtype=np.float64,
)
_SEAS = np.array(
    [[[216, 238, 250], [120, 180, 225]], [[240, 240, 236], [200, 206, 210]], [[30, 60, 120], [10, 20, 60]]]
)
_WORDS = ["Ovar", "Telmi", "Qarras", "Innu Bay", "Sorve", "Port Lael", "Dun", "Mirabol", "K. Ester", "Vey", "Hamsel"]


def sketch(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """Pencil lines where shaded relief changes, on paper."""
    return np.stack([_sketch(picture, rng) for picture in drawn("shadedrelief", views, size)])


def tinted_heights(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """The light and dark of ETOPO1 in the tints of an atlas, land and sea apart, in steps or smooth."""
    pictures, land = drawn("etopo1", views, size), land_of(views, size)
    return np.stack([_tinted(p, m, rng) for p, m in zip(pictures, land, strict=True)])


def cartoon(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """Blue Marble in a few flat colours, with meridians, parallels and names of nowhere."""
    pictures = drawn("bmng", views, size)
    return np.stack([_cartoon(p, View.of(views, i), size, rng) for i, p in enumerate(pictures)])


def engraving(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """Blue Marble in hatching or in dots, as old prints and newspapers show pictures."""
    return np.stack([_engraved(picture, rng) for picture in drawn("bmng", views, 2 * size)])


def _sketch(picture: Pixels, rng: np.random.Generator) -> Pixels:
    grey = gaussian_filter(picture.mean(-1) / 255, rng.uniform(0.6, 2.0))
    edge = np.hypot(sobel(grey, 0), sobel(grey, 1))
    stroke = np.clip(edge / max(1e-3, np.percentile(edge, rng.uniform(90, 98))), 0, 1) ** rng.uniform(0.8, 2.0)
    grain = rng.normal(0, 0.05, grey.shape)
    paper, pencil = np.array([248, 244, 234]) + rng.normal(0, 8, 3), rng.uniform(20, 110, 3)
    if rng.uniform() < 0.25:
        paper, pencil = np.array([24, 40, 70]) + rng.normal(0, 10, 3), np.array([235, 240, 245])  # a blueprint
    return _bytes(paper + (pencil - paper) * np.clip(stroke + grain, 0, 1)[..., None])


def _tinted(picture: Pixels, land: Floats, rng: np.random.Generator) -> Pixels:
    grey = gaussian_filter(picture.mean(-1), rng.uniform(0.3, 1.2))
    tints, waters = _LANDS[rng.integers(len(_LANDS))], _SEAS[rng.integers(len(_SEAS))]
    upper, lower = _ranked(grey, land > 0.5), _ranked(-grey, land <= 0.5)
    if rng.uniform() < 0.6:
        steps = int(rng.integers(4, 9))
        upper, lower = np.floor(upper * steps) / steps, np.floor(lower * steps) / steps
    return _bytes(np.where((land > 0.5)[..., None], _passage(upper, tints), _passage(lower, waters)))


def _cartoon(picture: Pixels, view: View, size: int, rng: np.random.Generator) -> Pixels:
    flat = Image.fromarray(picture).filter(ImageFilter.MedianFilter(5))
    lively = _bytes(128 + (np.asarray(flat, dtype=np.float64) - 100) * rng.uniform(1.4, 2.2))
    flat = Image.fromarray(lively).quantize(int(rng.integers(4, 9))).convert("RGB").filter(ImageFilter.ModeFilter(5))
    flat = flat.resize((2 * size, 2 * size), Image.Resampling.NEAREST)
    draw, ink = ImageDraw.Draw(flat), tuple(rng.integers(0, 256, 3).tolist())
    step = 1.0 if view.footprint_km < 350 else 2.0 if view.footprint_km < 700 else 5.0
    for line in _graticule(view, step):
        draw.line([tuple(p) for p in view.pixels(line[:, 0], line[:, 1], 2 * size).tolist()], fill=ink, width=2)
    for word in rng.choice(_WORDS, rng.integers(2, 7), replace=False):
        at = tuple(rng.uniform(0, 1.7 * size, 2))
        draw.ellipse([at[0] - 9, at[1] + 5, at[0] - 3, at[1] + 11], fill="black")
        draw.text(at, str(word), fill="black", font=ImageFont.load_default(int(rng.integers(16, 30))), stroke_width=0)
    return np.asarray(flat.resize((size, size), Image.Resampling.LANCZOS))


def _graticule(view: View, step: float) -> list[Floats]:
    """Meridians and parallels around the view, (n, 2) longitudes and latitudes each."""
    span = view.footprint_km / 111
    wide = min(180.0, span / max(0.1, np.cos(np.radians(view.lat))))
    lats = np.clip(np.linspace(view.lat - span, view.lat + span, 60), -89, 89)
    lngs = np.linspace(view.lng - wide, view.lng + wide, 60)
    meridians = np.arange(np.ceil(lngs[0] / step), np.floor(lngs[-1] / step) + 1) * step
    parallels = np.arange(np.ceil(lats[0] / step), np.floor(lats[-1] / step) + 1) * step
    return [np.stack([np.full(60, m), lats], 1) for m in meridians] + [
        np.stack([lngs, np.full(60, p)], 1) for p in parallels
    ]


def _engraved(picture: Pixels, rng: np.random.Generator) -> Pixels:
    size, grey = len(picture), picture.mean(-1)
    light = _ranked(gaussian_filter(grey, 1.5), np.ones_like(grey, dtype=bool)) * 0.8 + 0.1
    y, x = np.mgrid[:size, :size] / size
    angle, waves = rng.uniform(0, np.pi), rng.uniform(28, 60)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if rng.uniform() < 0.5:
        screen = 0.5 + 0.5 * np.sin(2 * np.pi * waves * (u + 0.006 * np.sin(12 * v)))
    else:
        screen = 0.5 + 0.25 * (np.sin(2 * np.pi * waves * u) + np.sin(2 * np.pi * waves * v))
    paper, ink = np.array([244, 238, 222]) + rng.normal(0, 8, 3), rng.uniform(0, 90, 3)
    drawn_ = np.where((screen < light)[..., None], paper, ink)
    return np.asarray(Image.fromarray(_bytes(drawn_)).resize((size // 2, size // 2), Image.Resampling.LANCZOS))


def _ranked(values: Floats, where: NDArray[np.bool_]) -> Floats:
    """Values stretched to 0 to 1 over a mask, 0 elsewhere."""
    if not where.any():
        return np.zeros_like(values)
    low, high = np.percentile(values[where], (2, 98))
    return np.where(where, np.clip((values - low) / max(high - low, 1.0), 0, 1), 0.0)


def _passage(t: Floats, colours: Floats) -> Floats:
    return np.stack([np.interp(t, np.linspace(0, 1, len(colours)), colours[:, c]) for c in range(3)], axis=-1)


def _bytes(values: Floats) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
