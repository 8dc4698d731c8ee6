"""A region: polygons in degrees, compared with tiles and points.

`Region` serves queries (`within`: the place is inside these polygons) and coverages (the tiles of an index). It decides
in the plane of longitude and latitude, where a GeoJSON edge is straight and a tile is a rectangle. It knows nothing of
indexes, pictures or imagery; reading GeoJSON is the task of `retrieval.geo.polygons`.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from retrieval.errors import RegionError
from retrieval.geo.polygons import CLIPPED, Limits, boxes_of, pieces_of, polygons_of, prepared, repaired_polygons_of
from tile_cache.addressing import MAX_LATITUDE, bounds_of_codes

__all__ = ["MAX_BYTES", "NAME", "OUTSIDE", "PARTLY", "WHOLLY", "Region"]

NAME = "within"
MAX_BYTES = 1_000_000
"""Longest GeoJSON text of a query, in bytes. A longer one is refused unread."""
OUTSIDE, PARTLY, WHOLLY = 0, 1, 2
_LIMITS = Limits()
_MAX_OVERLAPPING = 16
_SKIN = 1e-9
"""Degrees beyond the Mercator square that are clipped without a note."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """Polygons in degrees, cut to the Web-Mercator square, longitudes within -180 to 180.

    `wkb`: the polygons as well-known binary: one geometry, or a few that overlap. Regions with equal `wkb` are equal,
    so queries can be grouped by their region. `notes`: sentences for people about what was clipped, repaired, or read
    in one of two possible ways. Safe to share between threads.
    """

    wkb: tuple[bytes, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @classmethod
    def of_geojson(cls, value: Mapping[str, Any] | str | bytes) -> "Region":
        """The region of a query, from a GeoJSON object or its text.

        Takes a Polygon, MultiPolygon, Feature, FeatureCollection or GeometryCollection. By RFC 7946 an edge from 170 to
        -170 goes the long way round; to cross the date line, let longitudes run on (170 to 190) or cut the polygon
        there. Raises RegionError if there is no polygon, or one that crosses itself, has no area in the Mercator
        square, exceeds `Limits`, or is one of more than 16 that overlap.
        """
        pieces = [piece for p in polygons_of(_document(value), NAME, _LIMITS) for piece in pieces_of(p)]
        if not pieces:
            raise RegionError(f"{NAME} holds no polygon with area ({CLIPPED})")
        return cls(tuple(_wkb(piece) for piece in _merged(pieces)))

    @classmethod
    def from_file(cls, path: Path) -> "Region":
        """The region of a GeoJSON file that the user of the command line trusts: of any size, and repaired if need be.

        Longitudes may run beyond 180 (170 to 190) to cross the date line, or the polygon may be cut there in two, as
        RFC 7946 wants. Raises RegionError that names the file.
        """
        try:
            document = json.loads(path.read_bytes())
        except OSError as exc:
            raise RegionError(f"{path}: {exc.strerror or exc}; give a GeoJSON file") from exc
        except (ValueError, RecursionError) as exc:
            raise RegionError(f"{path} is not JSON ({exc}); give a GeoJSON file with polygons") from exc
        notes: list[str] = []
        polygons = list(repaired_polygons_of(document, str(path), notes.append))
        if not polygons:
            raise RegionError(f"{path} holds no polygon; points and lines cover no tiles")
        return cls._clipped(shapely.union_all(polygons), str(path), notes)

    @classmethod
    def from_bbox(cls, west: float, south: float, east: float, north: float) -> "Region":
        """A box in degrees; west > east crosses the date line. Raises RegionError if the numbers give no box."""
        name = f"bbox {west:g} {south:g} {east:g} {north:g}"
        if not all(np.isfinite(v) for v in (west, south, east, north)):
            raise RegionError(f"{name}: four finite numbers of degrees are needed: W S E N")
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
            raise RegionError(f"{name}: longitudes lie within -180 to 180 and latitudes within -90 to 90 (W S E N)")
        if south >= north:
            raise RegionError(f"{name}: south must be less than north; the order is W S E N")
        if (west - east) % 360 == 0 and west >= east:
            raise RegionError(f"{name} has no width; for the whole circle give -180 and 180")
        spans = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
        boxes = [shapely.box(w, south, e, north) for w, e in spans if e > w]
        return cls._clipped(shapely.union_all(boxes), name, [])

    @classmethod
    def world(cls) -> "Region":
        """The whole Mercator square."""
        return cls.of_geometry(shapely.box(-180, -MAX_LATITUDE, 180, MAX_LATITUDE))

    @classmethod
    def of_geometry(cls, geometry: Any, notes: tuple[str, ...] = ()) -> "Region":
        """A shapely Polygon or MultiPolygon that already lies within the Mercator square."""
        return cls((_wkb(geometry),), notes)

    @classmethod
    def _clipped(cls, geometry: Any, name: str, notes: list[str]) -> "Region":
        clipped = shapely.union_all(pieces_of(geometry))
        if clipped.is_empty:
            raise RegionError(f"{name} covers no tile: {CLIPPED}")
        _, south, _, north = geometry.bounds
        if south < -MAX_LATITUDE - _SKIN or north > MAX_LATITUDE + _SKIN:
            notes.append(f"{name} is clipped: {CLIPPED}")
        return cls.of_geometry(clipped, tuple(notes))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of `wkb`, so the order of polygons and vertices counts."""
        return hashlib.sha256(b"".join(self.wkb)).hexdigest()

    @property
    def identity(self) -> str:
        """SHA-256 of the area, whatever the order of its polygons and vertices; part of the index id."""
        return hashlib.sha256(_wkb(shapely.normalize(self._whole))).hexdigest()

    @property
    def geojson(self) -> dict[str, Any]:
        """The area as a GeoJSON geometry, in degrees."""
        geometry: dict[str, Any] = json.loads(json.dumps(shapely.geometry.mapping(shapely.normalize(self._whole))))
        return geometry

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) in degrees of the box around everything; it never crosses the date line."""
        boxes = np.array([piece.bounds for piece in self._pieces])
        return (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())

    @cached_property
    def corners(self) -> int:
        """The number of positions of all rings: what comparing it with a tile may cost."""
        return int(sum(shapely.get_num_coordinates(piece) for piece in self._pieces))

    def intersection(self, other: "Region", name: str) -> "Region":
        """The area that both cover. Raises RegionError, with `name` for the second, if they share none."""
        shared = shapely.intersection(self._whole, other._whole)
        # An intersection may leave points and lines behind.
        areas = [p for p in shapely.get_parts(shared) if p.geom_type in ("Polygon", "MultiPolygon") and p.area > 0]
        if not areas:
            raise RegionError(f"{name} shares no area with the rest of the coverage")
        return Region.of_geometry(shapely.union_all(areas), tuple(dict.fromkeys((*self.notes, *other.notes))))

    def meets(self, codes: NDArray[np.uint64], zoom: int) -> NDArray[np.bool_]:
        """Which tiles share area with the region, (n,) Morton codes to (n,) bool; touching an edge is not enough."""
        codes = np.asarray(codes, dtype=np.uint64)
        met = np.zeros(len(codes), dtype=np.bool_)
        near = np.flatnonzero(_overlap(bounds_of_codes(codes, zoom), self.bounds))
        boxes = boxes_of(codes[near], zoom)
        for piece in self._pieces:
            rest = np.flatnonzero(~met[near])
            met[near[rest]] = shapely.intersects(piece, boxes[rest])
        return met

    def classify(self, codes: NDArray[np.uint64], zoom: int) -> NDArray[np.uint8]:
        """OUTSIDE, PARTLY or WHOLLY inside, (n,) Morton codes to (n,) uint8.

        A tile that only several overlapping polygons cover together counts as PARTLY inside.
        """
        boxes = boxes_of(np.asarray(codes, dtype=np.uint64), zoom)
        state = self.meets(codes, zoom).astype(np.uint8)
        hit = state == PARTLY
        wholly = np.logical_or.reduce([shapely.contains_properly(piece, boxes[hit]) for piece in self._pieces])
        state[hit] += wholly.astype(np.uint8)
        return state

    def contains(self, lng: Floats, lat: Floats) -> NDArray[np.bool_]:
        """Which points, (n,) degrees each, lie in the region or on its edge, (n,) bool; longitudes from -180 to 180."""
        points = shapely.points(np.asarray(lng, dtype=np.float64), np.asarray(lat, dtype=np.float64))
        return np.asarray(np.logical_or.reduce([shapely.intersects(piece, points) for piece in self._pieces]))

    def inside(self, code: int, zoom: int) -> tuple[float, float] | None:
        """A point, (lng, lat) in degrees, in both this tile and the region; None if they share no area."""
        (box,) = boxes_of(np.array([code], dtype=np.uint64), zoom)
        # Cutting at a rectangle takes time in proportion to the corners. An exact intersection of a region of 1,000
        # spikes takes a hundred times longer, and is only needed where the cut is not clean.
        shared = [shapely.clip_by_rect(piece, *box.bounds) for piece in self._pieces]
        largest = max(shared, key=lambda geometry: float(geometry.area))
        if largest.area == 0:
            return None
        point = shapely.point_on_surface(largest)
        if not any(shapely.intersects(piece, point) for piece in self._pieces):
            return self._inside_exactly(box)
        return float(point.x), float(point.y)

    def _inside_exactly(self, box: Any) -> tuple[float, float] | None:
        shared = [shapely.intersection(piece, box) for piece in self._pieces]
        largest = max(shared, key=lambda geometry: float(geometry.area))
        if largest.area == 0:
            return None
        point = shapely.point_on_surface(largest)
        return float(point.x), float(point.y)

    @cached_property
    def _pieces(self) -> tuple[Any, ...]:
        return tuple(prepared(shapely.from_wkb(piece)) for piece in self.wkb)

    @cached_property
    def _whole(self) -> Any:
        """The region as one geometry."""
        return self._pieces[0] if len(self._pieces) == 1 else shapely.union_all(self._pieces)


def _overlap(tiles: Sequence[Floats], area: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """Which tiles, by (west, south, east, north) of (n,) degrees each, may share area with this box, (n,) bool."""
    (west, south, east, north), (w, s, e, n) = tiles, area
    return np.asarray((west < e) & (east > w) & (south < n) & (north > s))


def _wkb(geometry: Any) -> bytes:
    return bytes(shapely.to_wkb(geometry, byte_order=1))


def _merged(pieces: list[Any]) -> list[Any]:
    """One geometry if no two pieces overlap, because testing it costs the same however many there are; else the pieces.

    A union would also give one geometry, but its time grows with the square of the untrusted input.
    """
    joined = shapely.MultiPolygon(pieces)
    if joined.is_valid:
        return [joined]
    if len(pieces) > _MAX_OVERLAPPING:
        raise RegionError(f"{NAME} has {len(pieces)} polygons that overlap or share an edge: merge them")
    return pieces


def _document(value: Mapping[str, Any] | str | bytes) -> Any:
    if not isinstance(value, str | bytes):
        return value
    if len(value) > MAX_BYTES:
        raise RegionError(f"{NAME} has {len(value)} bytes, at most {MAX_BYTES} are read: simplify it")
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as exc:
        raise RegionError(f"{NAME} is not JSON ({exc}): give a GeoJSON polygon") from exc
