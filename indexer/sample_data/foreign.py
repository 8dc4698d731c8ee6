"""Real places in renditions that no encoder learnt: some to fit on, and others to test on.

Each public function takes views, a size in pixels and a generator and returns (n, size, size, 3) uint8. The renditions
to fit on and those to test on share nothing but the views.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import binary_dilation, gaussian_filter, label, sobel
from scipy.spatial import KDTree

from indexer.builtin.views import Views
from indexer.sample_data.from_earth import drawn, drawn_any, land_of
from indexer.sample_data.patterns import colours_along
from indexer.sample_data.vectors import View, land_mask, line_mask
from indexer.sample_data.writing import Pixels, as_pixels

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

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


# Renditions to fit on


def political(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """A political map: countries in flat colours, borders and coasts as lines, sometimes rivers."""
    return np.stack([_political(View.of(views, i), size, rng) for i in range(len(views))])


def two_tone(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """One colour for land and one for water, often with coasts as lines and rivers."""
    return np.stack([_two_tone(View.of(views, i), size, rng) for i in range(len(views))])


def false_colour(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """Blue Marble with its channels swapped, mixed or inverted, or in the colours of heat and night cameras."""
    pictures = drawn("bmng", views, size) / 255
    return np.stack([as_pixels(_recoloured(picture, rng) * 255) for picture in pictures])


def facets(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """The picture as a few hundred squares or polygons of one colour each."""
    return np.stack([_facets(picture, rng) for picture in drawn_any(views, size, rng)])


def _political(view: View, size: int, rng: np.random.Generator) -> Pixels:
    fine = 2 * size
    land, borders = land_mask(view, fine), line_mask("countries", view, fine, 3)
    parts, n = label(land & ~borders)
    colours = np.vstack([_sea(rng), _pastels(n, rng)])
    picture = colours[parts]
    picture[borders & land] = rng.uniform(40, 130)
    if rng.uniform() < 0.5:
        picture[line_mask("rivers", view, fine, 2) & land] = colours[0]
    picture[_coast(land)] = rng.uniform(40, 140)
    return _halved(picture)


def _two_tone(view: View, size: int, rng: np.random.Generator) -> Pixels:
    fine = 2 * size
    land, tones = land_mask(view, fine), rng.uniform(0, 255, (2, 3))
    while np.abs(tones[0] - tones[1]).sum() < 90:
        tones = rng.uniform(0, 255, (2, 3))
    picture = np.where(land[..., None], tones[0], tones[1])
    if rng.uniform() < 0.75:
        picture[line_mask("rivers", view, fine, int(rng.integers(1, 4))) & land] = tones[1]
    if rng.uniform() < 0.75:
        picture[_coast(land)] = rng.uniform(0, 90)
    return _halved(picture)


def _recoloured(picture: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    kind = rng.integers(4)
    if kind == 0:  # heat: dark violet over red to pale yellow
        grey = _stretched(picture.mean(-1))
        stops = np.array([[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]]) / 255
        return np.stack([np.interp(grey, np.linspace(0, 1, 5), stops[:, c]) for c in range(3)], axis=-1)
    if kind == 1:  # a negative
        return 1 - picture[..., rng.permutation(3)]
    if kind == 2:  # a night camera
        grey = _stretched(picture[..., rng.integers(3)]) ** rng.uniform(0.7, 1.6)
        return np.asarray(
            grey[..., None] * np.array([[0.25, 1.0, 0.35], [0.4, 0.75, 1.0], [1.0, 0.75, 0.3]])[rng.integers(3)]
        )
    mixed = picture @ rng.normal(0, 1, (3, 3))  # the bands of another instrument
    low, high = np.percentile(mixed, (1, 99), axis=(0, 1))
    return np.asarray((mixed - low) / np.maximum(high - low, 1e-3))


def _facets(picture: Pixels, rng: np.random.Generator) -> Pixels:
    size = len(picture)
    if rng.uniform() < 0.5:
        cells = int(rng.integers(8, 24))
        small = Image.fromarray(picture).resize((cells, cells), Image.Resampling.BOX)
        return np.asarray(small.resize((size, size), Image.Resampling.NEAREST))
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    places = rng.uniform(0, 1, (int(rng.integers(60, 500)), 2))
    which = KDTree(places).query(np.stack([x.ravel(), y.ravel()], axis=1))[1]
    count = np.maximum(np.bincount(which, minlength=len(places)), 1)
    means = np.stack([np.bincount(which, picture[..., c].ravel(), len(places)) / count for c in range(3)], axis=1)
    return as_pixels(means[which].reshape(size, size, 3))


def _sea(rng: np.random.Generator) -> NDArray[np.float64]:
    choices = np.array([[176, 210, 234], [255, 255, 255], [120, 170, 214], [225, 232, 238], [150, 200, 205]])
    return np.asarray(choices[rng.integers(len(choices))] + rng.normal(0, 6, 3))


def _pastels(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """n pale colours, (n, 3), chosen so that consecutive ones differ."""
    row = rng.uniform(110, 250, (7, 3))
    return np.asarray(row[(np.arange(n) * 3 + rng.integers(7)) % 7])


def _coast(land: Mask) -> Mask:
    """The pixels on the water side of a coast, one pixel wide in the final picture."""
    return np.asarray(binary_dilation(land, iterations=2) & ~land)


def _stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.percentile(values, (1, 99))
    return np.asarray(np.clip((values - low) / max(high - low, 1e-3), 0, 1))


def _halved(picture: NDArray[np.float64]) -> Pixels:
    size = len(picture) // 2
    return np.asarray(Image.fromarray(as_pixels(picture)).resize((size, size), Image.Resampling.BOX))


# Renditions to test on


def sketch(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """Pencil lines on paper, where the shaded relief changes."""
    return np.stack([_sketch(picture, rng) for picture in drawn("shadedrelief", views, size)])


def tinted_heights(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """The brightness of ETOPO1 in the colours of an atlas, for land and sea apart, in steps or smooth."""
    pictures, land = drawn("etopo1", views, size), land_of(views, size)
    return np.stack([_tinted(p, m, rng) for p, m in zip(pictures, land, strict=True)])


def cartoon(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """Blue Marble in a few flat colours, with meridians, parallels and invented names."""
    pictures = drawn("bmng", views, size)
    return np.stack([_cartoon(p, View.of(views, i), size, rng) for i, p in enumerate(pictures)])


def engraving(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """Blue Marble as hatching or dots, like an old print or a newspaper."""
    return np.stack([_engraved(picture, rng) for picture in drawn("bmng", views, 2 * size)])


def _sketch(picture: Pixels, rng: np.random.Generator) -> Pixels:
    grey = gaussian_filter(picture.mean(-1) / 255, rng.uniform(0.6, 2.0))
    edge = np.hypot(sobel(grey, 0), sobel(grey, 1))
    stroke = np.clip(edge / max(1e-3, np.percentile(edge, rng.uniform(90, 98))), 0, 1) ** rng.uniform(0.8, 2.0)
    grain = rng.normal(0, 0.05, grey.shape)
    paper, pencil = np.array([248, 244, 234]) + rng.normal(0, 8, 3), rng.uniform(20, 110, 3)
    if rng.uniform() < 0.25:
        paper, pencil = np.array([24, 40, 70]) + rng.normal(0, 10, 3), np.array([235, 240, 245])  # a blueprint
    return as_pixels(paper + (pencil - paper) * np.clip(stroke + grain, 0, 1)[..., None])


def _tinted(picture: Pixels, land: Floats, rng: np.random.Generator) -> Pixels:
    grey = gaussian_filter(picture.mean(-1), rng.uniform(0.3, 1.2))
    tints, waters = _LANDS[rng.integers(len(_LANDS))], _SEAS[rng.integers(len(_SEAS))]
    upper, lower = _ranked(grey, land > 0.5), _ranked(-grey, land <= 0.5)
    if rng.uniform() < 0.6:
        steps = int(rng.integers(4, 9))
        upper, lower = np.floor(upper * steps) / steps, np.floor(lower * steps) / steps
    return as_pixels(np.where((land > 0.5)[..., None], colours_along(upper, tints), colours_along(lower, waters)))


def _cartoon(picture: Pixels, view: View, size: int, rng: np.random.Generator) -> Pixels:
    flat = Image.fromarray(picture).filter(ImageFilter.MedianFilter(5))
    lively = as_pixels(128 + (np.asarray(flat, dtype=np.float64) - 100) * rng.uniform(1.4, 2.2))
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
    print_ = np.where((screen < light)[..., None], paper, ink)
    return np.asarray(Image.fromarray(as_pixels(print_)).resize((size // 2, size // 2), Image.Resampling.LANCZOS))


def _ranked(values: Floats, where: NDArray[np.bool_]) -> Floats:
    """Values scaled to 0 to 1 within a mask, and 0 outside it."""
    if not where.any():
        return np.zeros_like(values)
    low, high = np.percentile(values[where], (2, 98))
    return np.where(where, np.clip((values - low) / max(high - low, 1.0), 0, 1), 0.0)
