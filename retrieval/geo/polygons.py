"""GeoJSON's rings as checked shapely polygons in degrees, and tiles as rectangles to compare them with.

A polygon that crosses itself is repaired: all that its rings go round belongs to it, less its holes. Input may be
hostile: before each operation whose time grows with the square of the input (a repair, a union, a check of a large
polygon), the meetings of edges are counted, up to a limit. A GeoJSON edge is straight in longitude and latitude, and a
tile is a rectangle there.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from retrieval.errors import RegionError
from retrieval.geo.geojson import Limits, Notes, rings_of
from tile_cache.addressing import MAX_LATITUDE, bounds_of_codes

__all__ = ["boxes_of", "pieces_of", "polygons_of", "prepared", "union_of"]

_SKIN = 1e-9
"""Degrees (0.1 mm) taken off each side of a tile, so that a region that ends on a tile's edge does not reach beyond."""
_SMALL = 10_000
"""Positions of a polygon up to which its validity is checked at once; the check takes a second at most."""
_PAIRS = 10_000_000
"""Pairs of edges whose boxes overlap, beyond 30 for each edge, that are compared before the count is given up."""
_SHARED = 8
"""Times that an edge of polygons that share borders, as in a map of municipalities, meets other edges."""
_STEP_PAIRS = 200_000
"""Pairs that one step of the count may look at, so that it ends soon after a limit is passed."""


def polygons_of(document: Any, name: str, limits: Limits, notes: Notes) -> Iterator[Any]:
    """The valid polygons with area of a GeoJSON object. Raises RegionError with `name`.

    `notes` get what was repaired and what was left out.
    """
    crossings = limits.crossings
    for rings in rings_of(document, name, limits, notes):
        outer, *holes = rings
        polygon = shapely.Polygon(outer, holes)
        if sum(map(len, rings)) > _SMALL:
            _count_crossings(rings, name, 1, limits.crossings)
        if not polygon.is_valid:
            crossings -= _count_crossings(rings, name, 1, crossings)
            reason = shapely.is_valid_reason(polygon)
            polygon = _repaired(outer, holes)
            if not polygon.is_empty:
                notes.add(f"a polygon crosses itself ({reason}); it was repaired")
        if polygon.is_empty or polygon.area == 0:
            notes.leave_out("polygons without area")
            continue
        yield polygon


def union_of(polygons: Sequence[Any], name: str, limits: Limits) -> Any:
    """Valid polygons as one geometry. Raises RegionError if their edges meet too often for that."""
    if len(polygons) > 1:
        rings = [shapely.get_coordinates(ring) for ring in shapely.get_rings(polygons)]
        _count_crossings(rings, name, _SHARED, limits.crossings)
    return shapely.union_all(polygons)


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


def _with_area(geometry: Any) -> list[Any]:
    """The polygons of a geometry; cutting or repairing one may leave points and lines behind."""
    return [p for p in shapely.get_parts(geometry) if p.geom_type in ("Polygon", "MultiPolygon") and p.area > 0]


def _repaired(outer: NDArray[np.float64], holes: Sequence[NDArray[np.float64]]) -> Any:
    """What the outer ring goes round, less the holes.

    The method "structure" keeps what a ring goes round twice, where the other would make a hole of it, and its time
    grows with the crossings, not with their square. But it makes area of a hole that lies outside.
    """
    shell = shapely.make_valid(shapely.Polygon(outer), method="structure")
    inside = [hole for hole in holes if _share_area(shell, hole)]
    repaired = shapely.make_valid(shapely.Polygon(outer, inside), method="structure")
    return shapely.union_all(_with_area(repaired))


def _share_area(shell: Any, ring: NDArray[np.float64]) -> bool:
    hole = shapely.make_valid(shapely.Polygon(ring), method="structure")
    return bool(shapely.intersects(shell, hole)) and any(_with_area(shapely.intersection(shell, hole)))


def _count_crossings(rings: Sequence[NDArray[np.float64]], name: str, meetings: int, crossings: int) -> int:
    """How often the edges of some rings meet one another, beyond `meetings` times for each edge.

    Raises RegionError for more than `crossings`.
    """
    edges = shapely.linestrings(np.concatenate([np.stack([ring[:-1], ring[1:]], axis=1) for ring in rings]))
    left = crossings + meetings * len(edges)
    tree = shapely.STRtree(edges)
    pairs = 0
    step = max(4, _STEP_PAIRS // len(edges))
    for start in range(0, len(edges), step):
        block = edges[start : start + step]
        first, second = tree.query(block)
        later = second > first + start
        pairs += int(later.sum())
        if pairs > _PAIRS + 30 * len(edges):
            raise RegionError(f"{name}: the edges of {len(edges)} positions lie too close to be compared: simplify it")
        left -= int(shapely.intersects(block[first[later]], edges[second[later]]).sum())
        if left < 0:
            raise RegionError(
                f"{name} has polygons whose edges cross too often to be repaired or merged: simplify it, "
                "or draw it without crossings"
            )
    return max(0, crossings - left)
