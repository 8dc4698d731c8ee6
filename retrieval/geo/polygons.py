"""GeoJSON to checked shapely polygons in degrees, and tiles as rectangles to compare them with.

Polygons may come from untrusted clients (`polygons_of`): the size of the input is bounded, and no operation is used
whose time grows with the square of it (a union, a repair). Files of the command line's user (`repaired_polygons_of`)
have no such limits. A GeoJSON edge is straight in longitude and latitude, and a tile is a rectangle there.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from retrieval.errors import RegionError
from tile_cache.addressing import MAX_LATITUDE, bounds_of_codes

__all__ = ["CLIPPED", "Limits", "boxes_of", "pieces_of", "polygons_of", "prepared", "repaired_polygons_of"]

CLIPPED = f"the Web-Mercator square ends at {MAX_LATITUDE:.4f} degrees; areas nearer to a pole have no tiles"
_SKIN = 1e-9
"""Degrees (0.1 mm) taken off each side of a tile, so that a region that ends on a tile's edge does not reach beyond."""
_MAX_LONGITUDE = 360.0
_DEPTH = 200

Note = Callable[[str], None]


@dataclass(frozen=True)
class Limits:
    """How much GeoJSON is read: nested objects, polygons, and positions of all their rings."""

    depth: int = 16
    polygons: int = 256
    positions: int = 10_000


def polygons_of(document: Any, name: str, limits: Limits) -> Iterator[Any]:
    """The polygons of a GeoJSON object from an untrusted client, checked. Raises RegionError with `name`.

    A polygon that crosses itself is refused, not repaired.
    """
    left = limits.positions
    for number, rings in enumerate(_rings_of(document, name, limits.depth), start=1):
        if number > limits.polygons:
            raise RegionError(f"{name} has more than {limits.polygons} polygons: simplify it")
        left -= _positions(rings)
        if left < 0:
            raise RegionError(f"{name} has more than {limits.positions} positions: simplify it")
        # Clients of a query get no notes; the documentation says how their polygons are read.
        polygon = _polygon(rings, name, lambda text: None)
        if not polygon.is_valid:
            raise RegionError(f"{name}: a polygon is not simple ({shapely.is_valid_reason(polygon)}): redraw it")
        _check_area(polygon, rings, name)
        yield polygon


def repaired_polygons_of(document: Any, name: str, note: Note) -> Iterator[Any]:
    """The polygons of a GeoJSON object from a trusted file. Raises RegionError with `name`.

    A polygon that crosses itself is repaired. `note` gets a sentence about each repair, and about each edge that was
    read as going the long way round the Earth.
    """
    for rings in _rings_of(document, name, _DEPTH):
        polygon = _polygon(rings, name, note)
        if not polygon.is_valid:
            note(f"{name}: a polygon crosses itself ({shapely.is_valid_reason(polygon)}); it was repaired")
            polygon = shapely.union_all(_with_area(shapely.make_valid(polygon)))
        _check_area(polygon, rings, name)
        yield polygon


def pieces_of(geometry: Any) -> list[Any]:
    """The parts with area inside the Mercator square, longitudes wrapped into -180 to 180; perhaps none."""
    west, _, east, _ = geometry.bounds
    turns = [turn for turn in (-360, 0, 360) if east + turn > -180 and west + turn < 180]
    copies = [shapely.transform(geometry, lambda xy, d=d: xy + np.array([d, 0.0])) if d else geometry for d in turns]
    wrapped = copies[0] if len(copies) == 1 else shapely.union_all(copies)
    # In two steps: cutting at once rounds some crossings of the date line differently, and the identity of a coverage,
    # which is part of the index id, is a hash of the coordinates.
    for latitude in (90, MAX_LATITUDE):
        wrapped = shapely.intersection(wrapped, shapely.box(-180, -latitude, 180, latitude))
    return [polygon for polygon in _with_area(wrapped) if polygon.geom_type == "Polygon"]


def boxes_of(codes: NDArray[np.uint64], zoom: int) -> Any:
    """Tiles by Morton code, (n,) uint64, as (n,) rectangles in degrees, made smaller by 0.1 mm on each side."""
    west, south, east, north = bounds_of_codes(codes, zoom)
    return shapely.box(west + _SKIN, south + _SKIN, east - _SKIN, north - _SKIN)


def prepared(geometry: Any) -> Any:
    """The same geometry with GEOS's search structures built, so that several threads can test it quickly.

    GEOS builds some structures on the first test, which is not thread-safe; so the first tests are made here.
    """
    shapely.prepare(geometry)
    west, south, east, north = geometry.bounds
    shapely.intersects(geometry, shapely.box(west - 1, south - 1, east + 1, north + 1))
    shapely.intersects(geometry, shapely.Point(west, south))
    return geometry


def _rings_of(node: Any, name: str, depth: int) -> Iterator[Sequence[Any]]:
    """The rings, still unchecked, of every polygon under a GeoJSON object. Raises RegionError with `name`."""
    if not isinstance(node, dict) or not isinstance(node.get("type"), str):
        raise RegionError(f"{name} is JSON but not GeoJSON: an object with a 'type' is needed, not {_short(node)}")
    if depth <= 0:
        raise RegionError(f"{name} is nested too deeply to be GeoJSON")
    kind = node["type"]
    if kind == "FeatureCollection":
        yield from _each(node, "features", name, depth)
    elif kind == "GeometryCollection":
        yield from _each(node, "geometries", name, depth)
    elif kind == "Feature":
        if node.get("geometry") is not None:
            yield from _rings_of(node["geometry"], name, depth - 1)
    elif kind in ("Polygon", "MultiPolygon"):
        coordinates = _listed(node, "coordinates", name)
        yield from [coordinates] if kind == "Polygon" else coordinates
    elif kind not in ("Point", "MultiPoint", "LineString", "MultiLineString"):
        raise RegionError(f"{name}: {kind!r} is not a GeoJSON type")


def _polygon(rings: Any, name: str, note: Note) -> Any:
    """A polygon with its holes, its positions checked; it may still cross itself."""
    if not isinstance(rings, list) or not rings:
        raise RegionError(f"{name}: a polygon needs at least one ring, not {_short(rings)}")
    outer, *holes = [_ring(ring, name, note) for ring in rings]
    return shapely.Polygon(outer, holes)


def _check_area(polygon: Any, rings: Any, name: str) -> None:
    if polygon.is_empty or polygon.area == 0:
        raise RegionError(f"{name}: the polygon at {_short(rings[0][0])} has no area")


def _with_area(geometry: Any) -> list[Any]:
    """The polygons of a geometry; cutting or repairing one may leave points and lines behind."""
    return [p for p in shapely.get_parts(geometry) if p.geom_type in ("Polygon", "MultiPolygon") and p.area > 0]


def _short(value: Any, limit: int = 60) -> str:
    """A JSON value as text, cut off after `limit` characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= limit else text[:limit] + "..."


def _positions(rings: Any) -> int:
    return sum(len(ring) for ring in rings if isinstance(ring, list)) if isinstance(rings, list) else 0


def _each(node: dict[str, Any], key: str, name: str, depth: int) -> Iterator[Sequence[Any]]:
    for child in _listed(node, key, name):
        yield from _rings_of(child, name, depth - 1)


def _listed(node: dict[str, Any], key: str, name: str) -> list[Any]:
    value = node.get(key)
    if not isinstance(value, list):
        raise RegionError(f"{name}: a {node['type']} needs a list of {key}, not {_short(value)}")
    return value


def _ring(ring: Any, name: str, note: Note) -> NDArray[np.float64]:
    """A ring's (lng, lat), (n, 2) float64, altitudes dropped."""
    try:
        xy = np.array([_position(p) for p in ring], dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as exc:
        raise RegionError(f"{name}: a ring must be a list of [lng, lat] pairs, not {_short(ring)}") from exc
    if len(xy) < 4:
        raise RegionError(f"{name}: a ring needs 4 positions or more, the last equal to the first; got {len(xy)}")
    outside = ~((np.abs(xy[:, 0]) <= _MAX_LONGITUDE) & (np.abs(xy[:, 1]) <= 90))  # also true of NaN
    if outside.any():
        lng, lat = xy[np.flatnonzero(outside)[0]]
        raise RegionError(f"{name}: [{lng:g}, {lat:g}] is not on Earth; GeoJSON positions are [lng, lat] in degrees")
    if np.ptp(xy[:, 0]) > 360:
        raise RegionError(f"{name}: a ring spans {np.ptp(xy[:, 0]):g} degrees of longitude, more than the Earth has")
    _note_long_edges(xy[:, 0], name, note)
    return xy


def _position(value: Any) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) < 2 or not all(type(v) in (int, float) for v in value[:2]):
        raise ValueError(f"{value!r} is not a position")
    return float(value[0]), float(value[1])


def _note_long_edges(lng: NDArray[np.float64], name: str, note: Note) -> None:
    """Note an edge such as 170 to -170: it may be meant to cross the date line, but by RFC 7946 it does not."""
    jump = np.flatnonzero((np.abs(np.diff(lng)) > 180) & (np.abs(np.diff(lng)) < 360))
    if jump.size:
        a, b = lng[jump[0]], lng[jump[0] + 1]
        note(
            f"{name}: the edge from longitude {a:g} to {b:g} was read as the long way round (RFC 7946); "
            f"to cross the date line write {b + np.copysign(360, a):g} instead of {b:g}"
        )
