"""Regions of the Earth in degrees: boxes and GeoJSON polygons, asked which tiles they share area with.

Everything is decided in the plane of longitude and latitude, where a GeoJSON edge is straight and a tile is a
rectangle. A region knows neither zoom levels to index nor imagery.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry import mapping, shape

from indexer.errors import CoverageError
from retrieval.errors import QueryError
from retrieval.geo.polygons import CLIPPED, boxes_of, checked_rings, prepared, rings_of, short
from tile_cache.addressing import MAX_LATITUDE

__all__ = ["OUTSIDE", "PARTLY", "WHOLLY", "Region"]

OUTSIDE, PARTLY, WHOLLY = 0, 1, 2
_SKIN = 1e-9
"""Degrees by which a pole may be missed before people are told of clipping."""


@dataclass(frozen=True, eq=False)
class Region:
    """An area in degrees, cut to the Web-Mercator square, longitudes within -180 to 180.

    `notes` are sentences for people: what was clipped, repaired or read in one of two possible ways.
    """

    geometry: Any
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def world(cls) -> "Region":
        """Every tile."""
        return cls(prepared(shapely.box(-180, -MAX_LATITUDE, 180, MAX_LATITUDE)))

    @classmethod
    def from_bbox(cls, west: float, south: float, east: float, north: float) -> "Region":
        """A box in degrees; west > east crosses the date line. Raises CoverageError for one that is none."""
        name = f"bbox {west:g} {south:g} {east:g} {north:g}"
        if not all(np.isfinite(v) for v in (west, south, east, north)):
            raise CoverageError(f"{name}: four finite numbers of degrees are needed: W S E N")
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
            raise CoverageError(f"{name}: longitudes lie within -180 to 180 and latitudes within -90 to 90 (W S E N)")
        if south >= north:
            raise CoverageError(f"{name}: south must be less than north; the order is W S E N")
        if (west - east) % 360 == 0 and west >= east:
            raise CoverageError(f"{name} has no width; for the whole circle give -180 and 180")
        spans = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
        boxes = [shapely.box(w, south, e, north) for w, e in spans if e > w]
        return _cut(shapely.union_all(boxes), name, [])

    @classmethod
    def from_geojson(cls, path: Path) -> "Region":
        """Polygons of a GeoJSON file (Polygon, MultiPolygon, Feature, FeatureCollection or GeometryCollection).

        Longitudes may run beyond 180 (170 to 190) to cross the date line; a polygon may also be cut there in two, as
        RFC 7946 wants. Raises CoverageError that names the file.
        """
        try:
            document = json.loads(path.read_bytes())
        except OSError as exc:
            raise CoverageError(f"{path}: {exc.strerror or exc}; a GeoJSON file is needed") from exc
        except (ValueError, RecursionError) as exc:
            raise CoverageError(f"{path} is no JSON ({exc}); a GeoJSON file with polygons is needed") from exc
        notes: list[str] = []
        try:
            polygons = [_polygon(rings, str(path), notes) for rings in rings_of(document, str(path))]
        except QueryError as exc:
            raise CoverageError(str(exc)) from exc
        if not polygons:
            raise CoverageError(f"{path} holds no polygon; points and lines cover no tiles")
        return _cut(shapely.union_all(polygons), str(path), notes)

    def intersection(self, other: "Region", name: str) -> "Region":
        """What both cover. Raises CoverageError, with `name` for the second, if that is nothing."""
        shared = _polygons_of(shapely.intersection(self.geometry, other.geometry))
        if shared.is_empty:
            raise CoverageError(f"{name} shares no area with the rest of the coverage")
        return Region(prepared(shared), tuple(dict.fromkeys((*self.notes, *other.notes))))

    def classify(self, codes: NDArray[np.uint64], z: int) -> NDArray[np.uint8]:
        """OUTSIDE, PARTLY or WHOLLY inside, (n,) uint8, for tiles of zoom `z` by Morton code, (n,) uint64."""
        boxes = boxes_of(codes, z)
        hit = np.asarray(shapely.intersects(self.geometry, boxes))
        state = hit.astype(np.uint8)
        state[hit] += np.asarray(shapely.contains_properly(self.geometry, boxes[hit])).astype(np.uint8)
        return state

    @property
    def identity(self) -> str:
        """A hash of the area: equal areas given with the same vertices are equal."""
        return hashlib.sha256(shapely.to_wkb(shapely.normalize(self.geometry), byte_order=1)).hexdigest()

    @property
    def geojson(self) -> dict[str, Any]:
        """The area as a GeoJSON geometry, in degrees."""
        geometry: dict[str, Any] = json.loads(json.dumps(mapping(shapely.normalize(self.geometry))))
        return geometry

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) in degrees of the box around everything; it never crosses the date line."""
        west, south, east, north = self.geometry.bounds
        return west, south, east, north


def _polygons_of(geometry: Any) -> Any:
    """Only the parts with area: an intersection may leave points and lines behind."""
    parts = [p for p in shapely.get_parts(geometry) if p.geom_type in ("Polygon", "MultiPolygon") and p.area > 0]
    return shapely.union_all(parts)


def _cut(geometry: Any, name: str, notes: list[str]) -> Region:
    """Wrap longitudes into -180 to 180 and clip at the Mercator square."""
    turns = [shapely.transform(geometry, lambda xy, d=d: xy + np.array([d, 0.0])) for d in (-360, 0, 360)]
    wrapped = shapely.intersection(shapely.union_all(turns), shapely.box(-180, -90, 180, 90))
    clipped = _polygons_of(shapely.intersection(wrapped, shapely.box(-180, -MAX_LATITUDE, 180, MAX_LATITUDE)))
    if clipped.is_empty:
        raise CoverageError(f"{name} covers no tile: {CLIPPED}")
    _, south, _, north = wrapped.bounds
    if south < -MAX_LATITUDE - _SKIN or north > MAX_LATITUDE + _SKIN:
        notes.append(f"{name} is clipped: {CLIPPED}")
    return Region(prepared(clipped), tuple(notes))


def _polygon(rings: Any, name: str, notes: list[str]) -> Any:
    """One polygon with its holes, checked and, if its rings cross themselves, repaired."""
    checked = checked_rings(rings, name, notes.append)
    polygon = shape({"type": "Polygon", "coordinates": [ring.tolist() for ring in checked]})
    if not polygon.is_valid:
        notes.append(f"{name}: a polygon crosses itself ({shapely.is_valid_reason(polygon)}); it was repaired")
        polygon = _polygons_of(shapely.make_valid(polygon))
    if polygon.is_empty or polygon.area == 0:
        raise CoverageError(f"{name}: the polygon at {short(rings[0][0])} has no area")
    return polygon
