"""A region as a hard prior: the place is inside these polygons. Degrees; knows nothing of indexes or pictures."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.geo.polygons import CLIPPED, Limits, boxes_of, pieces_of, polygons_of, prepared

__all__ = ["MAX_BYTES", "NAME", "Region"]

NAME = "within"
MAX_BYTES = 1_000_000
"""Of GeoJSON as text; more is refused unread."""
_LIMITS = Limits()
_MOST_OVERLAPPING = 16

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Region:
    """Polygons that a question restricts itself to; equal ones are equal, so that questions can be grouped by them.

    `wkb`: what lies inside the Mercator square, longitudes within -180 to 180, as well-known binary: one geometry, or a
    few that overlap. Safe to share between threads.
    """

    wkb: tuple[bytes, ...]

    @classmethod
    def of_geojson(cls, value: Mapping[str, Any] | str | bytes) -> "Region":
        """From a GeoJSON object or its text: Polygon, MultiPolygon, Feature, FeatureCollection or GeometryCollection.

        As RFC 7946 has it, an edge from 170 to -170 goes the long way round; to cross the date line, let longitudes
        run on (170 to 190) or cut the polygon there. Raises QueryError for what holds no polygon, or one that crosses
        itself, has no area in the Mercator square, exceeds `Limits`, or is one of more than 16 that overlap.
        """
        pieces = [piece for p in polygons_of(_document(value), NAME, _LIMITS) for piece in pieces_of(p)]
        if not pieces:
            raise QueryError(f"{NAME} holds no polygon with area ({CLIPPED})")
        return cls(tuple(shapely.to_wkb(part, byte_order=1) for part in _apart(pieces)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the polygons."""
        return hashlib.sha256(b"".join(self.wkb)).hexdigest()

    def meets(self, codes: NDArray[np.uint64], zoom: int) -> NDArray[np.bool_]:
        """Which tiles share area with it, (n,) Morton codes to (n,) bool; touching an edge is not enough."""
        boxes = boxes_of(np.asarray(codes, dtype=np.uint64), zoom)
        met = np.zeros(len(boxes), dtype=np.bool_)
        for piece in self._pieces:
            left = np.flatnonzero(~met)
            met[left] = shapely.intersects(piece, boxes[left])
        return met

    def contains(self, lng: Floats, lat: Floats) -> NDArray[np.bool_]:
        """Which points, (n,) degrees each, lie in it or on its edge, (n,) bool; longitudes from -180 to 180."""
        points = shapely.points(np.asarray(lng, dtype=np.float64), np.asarray(lat, dtype=np.float64))
        return np.asarray(np.logical_or.reduce([shapely.intersects(piece, points) for piece in self._pieces]))

    def inside(self, code: int, zoom: int) -> tuple[float, float] | None:
        """A point, (lng, lat) in degrees, in both this tile and the region; None where they share no area."""
        (box,) = boxes_of(np.array([code], dtype=np.uint64), zoom)
        shared = [shapely.intersection(piece, box) for piece in self._pieces]
        largest = max(shared, key=lambda part: float(part.area))
        if largest.area == 0:
            return None
        point = shapely.point_on_surface(largest)
        return float(point.x), float(point.y)

    @cached_property
    def _pieces(self) -> tuple[Any, ...]:
        return tuple(prepared(shapely.from_wkb(piece)) for piece in self.wkb)


def _apart(pieces: list[Any]) -> list[Any]:
    """One geometry if no two pieces overlap, as asking it costs the same however many they are; else they as they are.

    A union would do, but its time grows with the square of what a stranger may send.
    """
    joined = shapely.MultiPolygon(pieces)
    if joined.is_valid:
        return [joined]
    if len(pieces) > _MOST_OVERLAPPING:
        raise QueryError(f"{NAME} has {len(pieces)} polygons that overlap or share an edge: merge them")
    return pieces


def _document(value: Mapping[str, Any] | str | bytes) -> Any:
    if not isinstance(value, str | bytes):
        return value
    if len(value) > MAX_BYTES:
        raise QueryError(f"{NAME} has {len(value)} bytes, at most {MAX_BYTES} are read: simplify it")
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as exc:
        raise QueryError(f"{NAME} is no JSON ({exc}): a GeoJSON polygon is needed") from exc
