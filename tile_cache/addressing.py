"""Slippy-map tile addresses: single tiles through mercantile, millions of them as Morton codes in NumPy.

All coordinates are degrees (`lng`, `lat`), never metres. A Morton code interleaves the bits of x (even bits) and y (odd
bits). It is the base-4 number whose digits are the tile's quadkey, so the four children of a tile have consecutive
codes, and a square region is one run of codes. A code is only meaningful together with its zoom. Every Web-Mercator
formula of the program lives here; this module knows nothing of imagery.
"""

import math
from typing import NamedTuple

import mercantile
import numpy as np
from mercantile import Tile
from numpy.typing import NDArray

from tile_cache.errors import TileAddressError

__all__ = [
    "MAX_LATITUDE",
    "MAX_ZOOM",
    "Bounds",
    "LngLat",
    "Tile",
    "area_shares",
    "bounds",
    "bounds_of_codes",
    "centre",
    "centres_of_codes",
    "check_tile",
    "check_zoom",
    "children_of_codes",
    "code_of_tile",
    "codes_at",
    "latitudes",
    "longitudes",
    "mercator_y",
    "morton_decode",
    "morton_encode",
    "parents_of_codes",
    "quadkey",
    "sines",
    "tile_at",
    "tile_of_code",
]

MAX_ZOOM = 24
MAX_LATITUDE = 85.0511287798066
"""The latitude, in degrees, at which the Web-Mercator square ends: 2 atan(exp(pi)) - pi / 2."""

Codes = NDArray[np.uint64]
Degrees = NDArray[np.float64]
Numbers = NDArray[np.float64] | float
Zooms = NDArray[np.integer] | int


class LngLat(NamedTuple):
    """A point, in degrees."""

    lng: float
    lat: float


class Bounds(NamedTuple):
    """A tile's edges, in degrees. West is always less than east, because no tile crosses the date line."""

    west: float
    south: float
    east: float
    north: float


def check_zoom(z: int) -> int:
    """Return `z`, or raise TileAddressError unless it is a zoom from 0 to MAX_ZOOM."""
    if isinstance(z, bool) or not isinstance(z, int | np.integer) or not 0 <= z <= MAX_ZOOM:
        raise TileAddressError(f"zoom {z!r} is not a whole number from 0 to {MAX_ZOOM}")
    return int(z)


def check_tile(tile: Tile) -> Tile:
    """Return `tile`, or raise TileAddressError if its x or y lies outside its zoom (mercantile only warns)."""
    size = 1 << check_zoom(tile.z)
    for name, value in (("x", tile.x), ("y", tile.y)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < size:
            where = f"tile {tile.z}/{tile.x}/{tile.y}"
            raise TileAddressError(f"{where}: {name} must be from 0 to {size - 1} at zoom {tile.z}")
    return tile


def tile_at(lng: float, lat: float, z: int) -> Tile:
    """The tile of zoom `z` that contains a point; latitudes beyond the Mercator square go to its first or last row.

    >>> tile_at(lng=13.4, lat=52.5, z=4)
    Tile(x=8, y=5, z=4)
    """
    code = codes_at(np.array([lng]), np.array([lat]), z)[0]
    return tile_of_code(int(code), z)


def centre(tile: Tile) -> LngLat:
    """The tile's centre in Mercator space, which is the position that a tile stands for in an answer."""
    check_tile(tile)
    return LngLat(float(longitudes(tile.x + 0.5, tile.z)), float(latitudes(tile.y + 0.5, tile.z)))


def bounds(tile: Tile) -> Bounds:
    """The tile's edges in degrees."""
    b = mercantile.bounds(check_tile(tile))
    return Bounds(b.west, b.south, b.east, b.north)


def quadkey(tile: Tile) -> str:
    """The tile's quadkey: one base-4 digit per zoom, empty at zoom 0.

    >>> quadkey(Tile(x=8, y=5, z=4))
    '1202'
    """
    return str(mercantile.quadkey(check_tile(tile)))


def code_of_tile(tile: Tile) -> int:
    """The tile's Morton code."""
    check_tile(tile)
    return int(morton_encode(np.array([tile.x], dtype=np.uint32), np.array([tile.y], dtype=np.uint32))[0])


def tile_of_code(code: int, z: int) -> Tile:
    """The tile of zoom `z` with this Morton code."""
    if not 0 <= code < 4 ** check_zoom(z):
        raise TileAddressError(f"Morton code {code} lies outside zoom {z}: codes run from 0 to {4**z - 1}")
    x, y = morton_decode(np.array([code], dtype=np.uint64))
    return Tile(int(x[0]), int(y[0]), z)


def morton_encode(x: NDArray[np.uint32], y: NDArray[np.uint32]) -> Codes:
    """Columns and rows, (n,) each, to Morton codes, (n,) uint64."""
    return _spread(x.astype(np.uint64)) | (_spread(y.astype(np.uint64)) << np.uint64(1))


def morton_decode(codes: Codes) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Morton codes, (n,) uint64, to columns and rows, (n,) uint32 each."""
    codes = np.asarray(codes, dtype=np.uint64)
    return _gather(codes).astype(np.uint32), _gather(codes >> np.uint64(1)).astype(np.uint32)


def parents_of_codes(codes: Codes, step: int) -> Codes:
    """The codes of the ancestors `step` zooms up, (n,) uint64; duplicates are kept."""
    return np.asarray(codes, dtype=np.uint64) >> np.uint64(2 * step)


def children_of_codes(codes: Codes, step: int) -> Codes:
    """The codes of all descendants `step` zooms down, (n * 4**step,) uint64, in Morton order if `codes` is."""
    first = np.asarray(codes, dtype=np.uint64) << np.uint64(2 * step)
    return (first[:, None] + np.arange(4**step, dtype=np.uint64)[None, :]).reshape(-1)


def codes_at(lng: Degrees, lat: Degrees, z: int) -> Codes:
    """The codes of the tiles of zoom `z` that contain points, (n,) degrees each, to (n,) uint64.

    Longitudes wrap; latitudes beyond the Mercator square go to its first or last row. Raises TileAddressError for a
    latitude beyond the poles, NaN and infinity.
    """
    lng, lat = np.asarray(lng, dtype=np.float64), np.asarray(lat, dtype=np.float64)
    if not (np.isfinite(lng).all() and np.isfinite(lat).all() and (np.abs(lat) <= 90).all()):
        bad = int(np.flatnonzero(~(np.isfinite(lng) & np.isfinite(lat) & (np.abs(lat) <= 90)))[0])
        raise TileAddressError(f"point lng={lng[bad]}, lat={lat[bad]} is not on Earth: give degrees")
    n = 1 << check_zoom(z)
    x = np.floor(((lng + 180) / 360 % 1) * n)
    s = np.sin(np.radians(np.clip(lat, -MAX_LATITUDE, MAX_LATITUDE)))
    y = np.floor((0.5 - np.log((1 + s) / (1 - s)) / (4 * np.pi)) * n)
    return morton_encode(np.clip(x, 0, n - 1).astype(np.uint32), np.clip(y, 0, n - 1).astype(np.uint32))


def centres_of_codes(codes: Codes, z: int) -> tuple[Degrees, Degrees]:
    """Tile centres as (lng, lat), (n,) float64 degrees each; see `centre`."""
    x, y = morton_decode(codes)
    return longitudes(x.astype(np.float64) + 0.5, z), latitudes(y.astype(np.float64) + 0.5, z)


def bounds_of_codes(codes: Codes, z: int) -> tuple[Degrees, Degrees, Degrees, Degrees]:
    """Tile edges as (west, south, east, north), (n,) float64 degrees each."""
    x, y = (v.astype(np.float64) for v in morton_decode(codes))
    return longitudes(x, z), latitudes(y + 1, z), longitudes(x + 1, z), latitudes(y, z)


def longitudes(x: Numbers, z: Zooms) -> Degrees:
    """The longitudes of columns `x` (fractions of tiles allowed) at zoom `z`, in degrees; the arguments broadcast."""
    return np.asarray(np.ldexp(360 * x, np.negative(z)) - 180)


def latitudes(y: Numbers, z: Zooms) -> Degrees:
    """The latitudes of rows `y` (fractions of tiles allowed, 0 in the north) at zoom `z`, in degrees."""
    return np.asarray(np.degrees(2 * np.arctan(np.exp(2 * np.pi * (0.5 - np.ldexp(y, np.negative(z))))) - np.pi / 2))


def sines(y: Numbers, z: Zooms) -> NDArray[np.float64]:
    """The sines of the latitudes of rows `y` at zoom `z`.

    The sine of a latitude is the hyperbolic tangent of its Mercator ordinate, which runs from pi in the north to -pi.
    """
    return np.asarray(np.tanh(np.pi - y * np.radians(np.ldexp(360.0, np.negative(z)))))


def mercator_y(lat: float) -> float:
    """A latitude's position in the Mercator square: 0 at its north edge, 1 at its south edge, -1 or 2 beyond them."""
    if abs(lat) > MAX_LATITUDE:
        return -1.0 if lat > 0 else 2.0
    s = math.sin(math.radians(lat))
    return 0.5 - math.log((1 + s) / (1 - s)) / (4 * math.pi)


def area_shares(codes: Codes, z: int) -> NDArray[np.float64]:
    """The shares of the Mercator square's area on the sphere that tiles have, (n,) codes to (n,).

    The area is the difference of two sines. It is written so that nothing cancels, however small the tile.
    """
    rows = morton_decode(codes)[1].astype(np.float64)
    height = 2 * np.pi / (1 << z)
    top = np.pi - rows * height
    band = np.sinh(height) / (np.cosh(top) * np.cosh(top - height))
    return np.asarray(band / (2 * np.tanh(np.pi) * (1 << z)))


_MASKS = ((16, 0x0000FFFF0000FFFF), (8, 0x00FF00FF00FF00FF), (4, 0x0F0F0F0F0F0F0F0F), (2, 0x3333333333333333))
_EVEN = np.uint64(0x5555555555555555)


def _spread(v: Codes) -> Codes:
    """Insert a zero bit above each of the low 32 bits."""
    for shift, mask in (*_MASKS, (1, int(_EVEN))):
        v = (v | (v << np.uint64(shift))) & np.uint64(mask)
    return v


def _gather(v: Codes) -> Codes:
    """Keep the even bits and close the gaps between them: the inverse of `_spread`."""
    v = v & _EVEN
    for shift, mask in ((1, 0x3333333333333333), (2, 0x0F0F0F0F0F0F0F0F), (4, 0x00FF00FF00FF00FF)):
        v = (v | (v >> np.uint64(shift))) & np.uint64(mask)
    for shift, mask in ((8, 0x0000FFFF0000FFFF), (16, 0x00000000FFFFFFFF)):
        v = (v | (v >> np.uint64(shift))) & np.uint64(mask)
    return v
