"""Views of the built-in Earth as pixels, and pictures made from them that an index of it cannot place.

Shuffled and mirrored views show no place at all; the open sea and the polar ice are places that no tile covers.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from indexer.builtin.pictures import sea_views, to_pixels
from indexer.builtin.views import Centres, Earth, Views, draw_views
from indexer.sample_data.writing import Pixels

FOOTPRINT_KM, TURN = (200.0, 1000.0), 15.0
ZOOM, LAND = 8, 0.01  # deepest zoom and least share of land of a tile in the built-in coverage
PRODUCTS = ("bmng", "shadedrelief", "etopo1")

_BATCH = 32


def limit_threads() -> None:
    """Draw with two threads, however many cores there are: the last bits of a picture may depend on their number."""
    torch.set_num_threads(2)


def land_views(count: int, rng: np.random.Generator) -> Views:
    """Random views of land and coasts, like those of photo sets."""
    return draw_views(_centres(), count, FOOTPRINT_KM, TURN, rng)


def drawn(product: str, views: Views, size: int) -> Pixels:
    """Views of one product, (n, size, size, 3) uint8."""
    earth = _earth(product)
    batches = [views.take(np.arange(i, min(i + _BATCH, len(views)))) for i in range(0, len(views), _BATCH)]
    return np.concatenate([to_pixels(earth.draw(b, np.zeros(len(b), dtype=np.int64), size)) for b in batches])


def drawn_any(views: Views, size: int, rng: np.random.Generator) -> Pixels:
    """Views, each of a random product, (n, size, size, 3) uint8."""
    choice = rng.integers(len(PRODUCTS), size=len(views))
    pictures = np.empty((len(views), size, size, 3), dtype=np.uint8)
    for number, product in enumerate(PRODUCTS):
        if len(which := np.flatnonzero(choice == number)):
            pictures[which] = drawn(product, views.take(which), size)
    return pictures


def land_of(views: Views, size: int) -> NDArray[np.float64]:
    """The share of land under each pixel, (n, size, size) from 0 to 1."""
    return np.asarray(_earth("etopo1").land(views, size)[:, 0].double().numpy())


def shuffled(rng: np.random.Generator, count: int, size: int) -> Pixels:
    """Patchworks of rotated squares, each from four views: (count, size, size, 3) uint8."""
    pictures = drawn_any(land_views(4 * count, rng), size, rng).reshape(count, 4, size, size, 3)
    return np.stack([_patchwork(four, int(rng.integers(2, 6)), rng) for four in pictures])


def mirrored(rng: np.random.Generator, count: int, size: int) -> Pixels:
    """Mirrored views, whose coasts exist nowhere."""
    return np.ascontiguousarray(drawn_any(land_views(count, rng), size, rng)[:, :, ::-1])


def open_sea(rng: np.random.Generator, count: int, size: int) -> Pixels:
    """Views of water from 60 S to 60 N with no land in sight, or nearly none."""
    seed = int(rng.integers(2**31))
    views = sea_views(8 * count, FOOTPRINT_KM, TURN, seed, 6)
    return drawn_any(views.take(np.flatnonzero(np.abs(views.lat) < 60)[:count]), size, rng)


def polar_ice(rng: np.random.Generator, count: int, size: int) -> Pixels:
    """Views of Antarctica and the Arctic Ocean, beyond the indexed latitudes."""
    south = rng.uniform(size=count) < 0.8
    low, high = np.where(south, -89, 84), np.where(south, -66, 89)
    lat = np.degrees(np.arcsin(rng.uniform(np.sin(np.radians(low)), np.sin(np.radians(high)))))
    edge = np.exp(rng.uniform(np.log(FOOTPRINT_KM[0]), np.log(FOOTPRINT_KM[1]), count))
    views = Views(rng.uniform(-180, 180, count), lat, edge, rng.uniform(-180, 180, count))
    return drawn_any(views, size, rng)


def _patchwork(pictures: Pixels, across: int, rng: np.random.Generator) -> Pixels:
    """One picture of `across` x `across` squares cut from four, (4, size, size, 3)."""
    size, edge = pictures.shape[1], -(-pictures.shape[1] // across)
    squares = []
    for _ in range(across * across):
        top, left = rng.integers(0, size - edge + 1, 2)
        square = pictures[rng.integers(4), top : top + edge, left : left + edge]
        squares.append(np.rot90(square, int(rng.integers(4))))
    rows = [np.concatenate(squares[i * across : (i + 1) * across], axis=1) for i in range(across)]
    return np.concatenate(rows)[:size, :size]


@lru_cache(maxsize=1)
def _centres() -> Centres:
    return Centres(-60, 78, ZOOM, LAND)


@lru_cache(maxsize=3)
def _earth(product: str) -> Earth:
    return Earth((product,))
