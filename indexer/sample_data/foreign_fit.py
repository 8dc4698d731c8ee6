"""Real places in renditions to fit on: political and two-tone maps from vectors, false colours, coarse facets.

Each function takes views, a size in pixels and a generator and gives (n, size, size, 3) uint8. None of them is used by
a family that tests are made of.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_dilation, label
from scipy.spatial import KDTree

from indexer.builtin.views import Views
from indexer.sample_data.from_earth import drawn, drawn_any
from indexer.sample_data.projection import View
from indexer.sample_data.vectors import land_mask, line_mask

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def political(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """Countries in flat colours, borders and coasts as lines, some with rivers."""
    return np.stack([_political(View.of(views, i), size, rng) for i in range(len(views))])


def two_tone(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """One colour for land, one for water, coasts as lines, rivers on most."""
    return np.stack([_two_tone(View.of(views, i), size, rng) for i in range(len(views))])


def false_colour(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """Blue Marble with channels swapped, mixed or inverted, or as heat and night cameras show it."""
    pictures = drawn("bmng", views, size) / 255
    return np.stack([_bytes(_recoloured(picture, rng) * 255) for picture in pictures])


def facets(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """A few hundred squares or polygons of one colour each."""
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
    return _bytes(means[which].reshape(size, size, 3))


def _sea(rng: np.random.Generator) -> NDArray[np.float64]:
    choices = np.array([[176, 210, 234], [255, 255, 255], [120, 170, 214], [225, 232, 238], [150, 200, 205]])
    return np.asarray(choices[rng.integers(len(choices))] + rng.normal(0, 6, 3))


def _pastels(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """n colours, none of them neighbours in a row of seven."""
    row = rng.uniform(110, 250, (7, 3))
    return np.asarray(row[(np.arange(n) * 3 + rng.integers(7)) % 7])


def _coast(land: Mask) -> Mask:
    """Pixels on the water side of a coast, one of the final picture wide."""
    return np.asarray(binary_dilation(land, iterations=2) & ~land)


def _stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.percentile(values, (1, 99))
    return np.asarray(np.clip((values - low) / max(high - low, 1e-3), 0, 1))


def _halved(picture: NDArray[np.float64]) -> Pixels:
    size = len(picture) // 2
    return np.asarray(Image.fromarray(_bytes(picture)).resize((size, size), Image.Resampling.BOX))


def _bytes(values: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))
