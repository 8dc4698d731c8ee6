"""GeoJSON to checked polygons in degrees, each asked which tiles it shares area with.

For polygons that strangers send, too: what is read is bounded, and nothing is done whose time grows with the square of
what was sent (a union, a repair). A GeoJSON edge is straight in longitude and latitude, where a tile is a rectangle.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from retrieval.errors import QueryError
from tile_cache.addressing import MAX_LATITUDE, bounds_of_codes

__all__ = [
    "CLIPPED",
    "Limits",
    "boxes_of",
    "checked_rings",
    "pieces_of",
    "polygons_of",
    "prepared",
    "rings_of",
    "short",
]

CLIPPED = f"the Web-Mercator square ends at {MAX_LATITUDE:.4f} degrees: what lies nearer to a pole has no tiles"
_SKIN = 1e-9
"""Degrees (0.1 mm) taken off each side of a tile, so that a region that ends on a tile's edge does not reach beyond."""
_MAX_LONGITUDE = 360.0

Note = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """How much GeoJSON is read: objects within objects, polygons, and positions of all their rings."""

    depth: int = 16
    polygons: int = 256
    positions: int = 10_000


def rings_of(node: Any, name: str, depth: int = 200) -> Iterator[Sequence[Any]]:
    """The rings, still unchecked, of every polygon under a GeoJSON object. Raises QueryError, with `name`."""
    if not isinstance(node, dict) or not isinstance(node.get("type"), str):
        raise QueryError(f"{name} is JSON but no GeoJSON: an object with a 'type' is needed, not {short(node)}")
    if depth <= 0:
        raise QueryError(f"{name} is nested too deeply to be GeoJSON")
    kind = node["type"]
    if kind == "FeatureCollection":
        yield from _each(node, "features", name, depth)
    elif kind == "GeometryCollection":
        yield from _each(node, "geometries", name, depth)
    elif kind == "Feature":
        if node.get("geometry") is not None:
            yield from rings_of(node["geometry"], name, depth - 1)
    elif kind in ("Polygon", "MultiPolygon"):
        coordinates = _listed(node, "coordinates", name)
        yield from [coordinates] if kind == "Polygon" else coordinates
    elif kind not in ("Point", "MultiPoint", "LineString", "MultiLineString"):
        raise QueryError(f"{name}: {kind!r} is no GeoJSON type")


def polygons_of(document: Any, name: str, limits: Limits) -> Iterator[Any]:
    """Every polygon of a GeoJSON object, checked; one that crosses itself is refused. Raises QueryError."""
    left = limits.positions
    for number, rings in enumerate(rings_of(document, name, limits.depth), start=1):
        if number > limits.polygons:
            raise QueryError(f"{name} has more than {limits.polygons} polygons: simplify it")
        left -= _positions(rings)
        if left < 0:
            raise QueryError(f"{name} has more than {limits.positions} positions: simplify it")
        yield _polygon(rings, name)


def checked_rings(rings: Any, name: str, note: Note) -> list[NDArray[np.float64]]:
    """A polygon's rings as (n, 2) float64 of (lng, lat), the outer one first. Raises QueryError."""
    if not isinstance(rings, list) or not rings:
        raise QueryError(f"{name}: a polygon needs at least one ring, not {short(rings)}")
    return [_ring(ring, name, note) for ring in rings]


def pieces_of(polygon: Any) -> list[Any]:
    """A polygon's parts with area inside the Mercator square, longitudes wrapped into -180 to 180; perhaps none."""
    west, _, east, _ = polygon.bounds
    pieces = []
    for turn in (-360, 0, 360):
        if east + turn > -180 and west + turn < 180:
            moved = shapely.transform(polygon, lambda xy, d=turn: xy + np.array([d, 0.0])) if turn else polygon
            cut = shapely.intersection(moved, shapely.box(-180, -MAX_LATITUDE, 180, MAX_LATITUDE))
            pieces += [part for part in shapely.get_parts(cut) if part.geom_type == "Polygon" and part.area > 0]
    return pieces


def boxes_of(codes: NDArray[np.uint64], zoom: int) -> Any:
    """Tiles by Morton code, (n,) uint64, as (n,) rectangles in degrees, a hair smaller than they are."""
    west, south, east, north = bounds_of_codes(codes, zoom)
    return shapely.box(west + _SKIN, south + _SKIN, east - _SKIN, north - _SKIN)


def prepared(geometry: Any) -> Any:
    """The same geometry, ready to be asked often and by several threads: what GEOS builds when first asked is there."""
    shapely.prepare(geometry)
    west, south, east, north = geometry.bounds
    shapely.intersects(geometry, shapely.box(west - 1, south - 1, east + 1, north + 1))
    shapely.intersects(geometry, shapely.Point(west, south))
    return geometry


def short(value: Any, limit: int = 60) -> str:
    """A JSON value as text, cut."""
    text = json.dumps(value, default=str)
    return text if len(text) <= limit else text[:limit] + "..."


def _polygon(rings: Any, name: str) -> Any:
    outer, *holes = checked_rings(rings, name, _unheard)
    polygon = shapely.Polygon(outer, holes)
    if not polygon.is_valid:
        raise QueryError(f"{name}: a polygon is not simple ({shapely.is_valid_reason(polygon)}): draw it without that")
    if polygon.area == 0:
        raise QueryError(f"{name}: the polygon at {short(rings[0][0])} has no area")
    return polygon


def _unheard(text: str) -> None:
    """Whoever sends a polygon with a question is told no notes: the documentation says how it is read."""


def _positions(rings: Any) -> int:
    return sum(len(ring) for ring in rings if isinstance(ring, list)) if isinstance(rings, list) else 0


def _each(node: dict[str, Any], key: str, name: str, depth: int) -> Iterator[Sequence[Any]]:
    for child in _listed(node, key, name):
        yield from rings_of(child, name, depth - 1)


def _listed(node: dict[str, Any], key: str, name: str) -> list[Any]:
    value = node.get(key)
    if not isinstance(value, list):
        raise QueryError(f"{name}: a {node['type']} needs a list of {key}, not {short(value)}")
    return value


def _ring(ring: Any, name: str, note: Note) -> NDArray[np.float64]:
    """A ring's (lng, lat), (n, 2) float64, altitudes dropped."""
    try:
        xy = np.array([_position(p) for p in ring], dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as exc:
        raise QueryError(f"{name}: a ring must be a list of [lng, lat] pairs, not {short(ring)}") from exc
    if len(xy) < 4:
        raise QueryError(f"{name}: a ring needs 4 positions or more, the last equal to the first; got {len(xy)}")
    outside = ~((np.abs(xy[:, 0]) <= _MAX_LONGITUDE) & (np.abs(xy[:, 1]) <= 90))  # also true of NaN
    if outside.any():
        lng, lat = xy[np.flatnonzero(outside)[0]]
        raise QueryError(f"{name}: [{lng:g}, {lat:g}] is not on Earth; GeoJSON wants [lng, lat] in degrees")
    if np.ptp(xy[:, 0]) > 360:
        raise QueryError(f"{name}: a ring spans {np.ptp(xy[:, 0]):g} degrees of longitude, more than the Earth has")
    _note_long_edges(xy[:, 0], name, note)
    return xy


def _position(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) < 2 or not all(type(v) in (int, float) for v in value[:2]):
        raise ValueError(f"{value!r} is no position")
    return float(value[0]), float(value[1])


def _note_long_edges(lng: NDArray[np.float64], name: str, note: Note) -> None:
    """A ring from 170 to -170 may mean the date line; RFC 7946 says that it does not, so say how it was read."""
    jump = np.flatnonzero((np.abs(np.diff(lng)) > 180) & (np.abs(np.diff(lng)) < 360))
    if jump.size:
        a, b = lng[jump[0]], lng[jump[0] + 1]
        note(
            f"{name}: the edge from longitude {a:g} to {b:g} was read as the long way round (RFC 7946); "
            f"to cross the date line write {b + np.copysign(360, a):g} instead of {b:g}"
        )
