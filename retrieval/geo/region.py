"""A region: polygons in degrees, compared with tiles and points.

`Region` serves queries (`within`: the place is inside these polygons) and coverages (the tiles of an index). It decides
in the plane of longitude and latitude, where a GeoJSON edge is straight and a tile is a rectangle. It knows nothing of
indexes, pictures or imagery; GeoJSON is read by `retrieval.geo.geojson` and `retrieval.geo.polygons`.
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
from retrieval.geo.box import CLIPPED, check_box, spans_of
from retrieval.geo.cells import Cells
from retrieval.geo.geojson import Limits, Notes, document_of, file_document
from retrieval.geo.polygons import boxes_of, pieces_of, polygons_of, prepared, union_of
from tile_cache.addressing import MAX_LATITUDE, bounds_of_codes

__all__ = ["FILE", "NAME", "OUTSIDE", "PARTLY", "REQUEST", "WHOLLY", "Region"]

NAME = "within"
REQUEST = Limits(bytes=1_000_000, polygons=256, positions=10_000, crossings=1_000)
"""For GeoJSON from clients. They need not be trusted, and all wait while it is read."""
FILE = Limits(bytes=100_000_000, polygons=1_000_000, positions=3_000_000, crossings=100_000)
"""For files that the command line's user names."""
_INTRICATE = 256
"""Corners above which a region is compared with tiles in cells."""
_MAX_WORK = 2_000_000
"""Pairs of a tile and a corner near it that one comparison may take: about a tenth of a second."""
OUTSIDE, PARTLY, WHOLLY = 0, 1, 2
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
        """The region of a request, from a GeoJSON object or its text.

        Takes a Polygon, MultiPolygon, Feature, FeatureCollection or GeometryCollection. By RFC 7946 an edge from 170 to
        -170 goes the long way round; to cross the date line, let longitudes run on (170 to 190) or cut the polygon
        there. Raises RegionError if no polygon has an area in the Mercator square, or if the input exceeds `REQUEST`.
        """
        notes = Notes(NAME)
        document = document_of(value, NAME, REQUEST) if isinstance(value, str | bytes) else value
        polygons = list(polygons_of(document, NAME, REQUEST, notes))
        pieces = [piece for polygon in polygons for piece in pieces_of(polygon)]
        _check_pieces(pieces, polygons, NAME, notes)
        return cls(tuple(_wkb(piece) for piece in _merged(pieces)), notes.sentences())

    @classmethod
    def from_file(cls, path: Path) -> "Region":
        """The region of a GeoJSON file, read by the rules of `of_geojson` within the limits `FILE`.

        Polygons may overlap. Raises RegionError that names the file.
        """
        name, notes = str(path), Notes(str(path))
        polygons = list(polygons_of(file_document(path, FILE), name, FILE, notes))
        pieces = [] if not polygons else pieces_of(union_of(polygons, name, FILE))
        _check_pieces(pieces, polygons, name, notes)
        return cls.of_geometry(shapely.union_all(pieces), notes.sentences())

    @classmethod
    def from_bbox(cls, west: float, south: float, east: float, north: float) -> "Region":
        """A box in degrees; west > east crosses the date line. Raises RegionError if it covers no tile."""
        check_box(west, south, east, north)
        notes = Notes(f"bbox {west:g} {south:g} {east:g} {north:g}")
        boxes = [shapely.box(w, south, e, north) for w, e in spans_of(west, east)]
        pieces = pieces_of(shapely.union_all(boxes))
        _note_clipping(boxes, notes)
        return cls.of_geometry(shapely.union_all(pieces), notes.sentences())

    @classmethod
    def world(cls) -> "Region":
        """The whole Mercator square."""
        return cls.of_geometry(shapely.box(-180, -MAX_LATITUDE, 180, MAX_LATITUDE))

    @classmethod
    def of_geometry(cls, geometry: Any, notes: tuple[str, ...] = ()) -> "Region":
        """A shapely Polygon or MultiPolygon that already lies within the Mercator square."""
        return cls((_wkb(geometry),), notes)

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

    def meets_bounded(self, codes: NDArray[np.uint64], zoom: int) -> NDArray[np.bool_]:
        """The same as `meets`, for a search: an intricate region is cut once for all tiles, and the work is bounded.

        Raises RegionError if the region has too many corners for so many tiles.
        """
        if self.corners <= _INTRICATE:
            return self.meets(codes, zoom)
        codes = np.asarray(codes, dtype=np.uint64)
        near = np.flatnonzero(_overlap(bounds_of_codes(codes, zoom), self.bounds))
        met = np.zeros(len(codes), dtype=np.bool_)
        met[near] = self._meets_in_cells(codes[near], zoom)
        return met

    def _meets_in_cells(self, codes: NDArray[np.uint64], zoom: int) -> NDArray[np.bool_]:
        boxes, met, work = boxes_of(codes, zoom), np.zeros(len(codes), dtype=np.bool_), 0
        for cells in self._cells:
            rest = np.flatnonzero(~met)
            met[rest], more = cells.intersects(codes[rest], zoom, boxes[rest], _MAX_WORK - work)
            work += more
            if work > _MAX_WORK:
                raise RegionError(
                    f"a region of {self.corners:,} corners is too intricate to be compared with {len(codes):,} tiles "
                    f"of zoom {zoom} (over {_MAX_WORK:,} pairs of a corner and a tile near it): simplify it, or "
                    "use a smaller k"
                )
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
    def _cells(self) -> tuple[Cells, ...]:
        return tuple(Cells(piece) for piece in self._pieces)

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
    """One geometry if no two pieces overlap, because testing it costs the same however many there are; or a few.

    Raises RegionError if their edges cross too often.
    """
    joined = shapely.MultiPolygon(pieces)
    if joined.is_valid:
        return [joined]
    return pieces if len(pieces) <= _MAX_OVERLAPPING else [union_of(pieces, NAME, REQUEST)]


def _check_pieces(pieces: list[Any], polygons: list[Any], name: str, notes: Notes) -> None:
    """Raise RegionError if no part of the polygons lies in the Mercator square; note what was clipped."""
    if not polygons:
        raise RegionError(f"{name} holds no polygon with area; points and lines cover no tiles")
    if not pieces:
        raise RegionError(f"{name} covers no tile: {CLIPPED}")
    _note_clipping(polygons, notes)


def _note_clipping(polygons: list[Any], notes: Notes) -> None:
    _, south, _, north = shapely.total_bounds(polygons)
    if south < -MAX_LATITUDE - _SKIN or north > MAX_LATITUDE + _SKIN:
        notes.add(f"it is clipped: {CLIPPED}")
