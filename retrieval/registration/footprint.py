"""What a frame covers: corners, the outline as GeoJSON, and control points for GIS programs. Degrees and pixels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.registration.geometry import Frame
from retrieval.search.rounding import degrees
from retrieval.sphere import cut_at_date_line

__all__ = ["ControlPoint", "as_stored", "control_points", "corners", "holds_pole", "outline"]

Floats = NDArray[np.float64]

_POINTS_AN_EDGE = 16
_GRID = 5


class ControlPoint(NamedTuple):
    """A place in a picture, in pixels from its upper left corner, and on the ground, in degrees."""

    x: float
    y: float
    lng: float
    lat: float


def corners(frame: Frame, aspect: tuple[float, float]) -> list[tuple[float, float]]:
    """The picture's corners as (lng, lat), upper left first, then clockwise.

    `aspect`: the picture's width and height in edges of its central square.
    """
    lng, lat = frame.ground(*_on_edges(aspect, 1))
    return [(float(x), float(y)) for x, y in zip(lng, lat, strict=True)]


def outline(frame: Frame, aspect: tuple[float, float]) -> dict[str, Any]:
    """The footprint as a GeoJSON Polygon, or a MultiPolygon where it crosses the date line; it may contain a pole."""
    lng, lat, ring = _ring(frame, aspect)
    if _winds(ring):
        return {"type": "Polygon", "coordinates": [_closed(_around_pole(lng, lat, frame.lat > 0))]}
    ring = ring[:-1]
    ring[:, 0] -= 360 * np.round(ring[:, 0].mean() / 360)
    polygons = [[_closed(piece)] for piece in cut_at_date_line(ring)]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


def control_points(frame: Frame, size: tuple[int, int]) -> tuple[ControlPoint, ...]:
    """A grid over a picture of this width and height in pixels, from corner to corner, row by row."""
    width, height = size
    edge = min(size)
    x, y = (w.ravel() for w in np.meshgrid(np.linspace(0, width, _GRID), np.linspace(0, height, _GRID)))
    lng, lat = frame.ground((x - width / 2) / edge, (y - height / 2) / edge)
    return tuple(ControlPoint(*map(float, point)) for point in zip(x, y, lng, lat, strict=True))


def holds_pole(frame: Frame, aspect: tuple[float, float]) -> bool:
    """Whether a pole lies in the picture, so that longitudes do not run on across it."""
    return _winds(_ring(frame, aspect)[2])


def as_stored(points: Sequence[ControlPoint], size: tuple[int, int], turn: int) -> tuple[ControlPoint, ...]:
    """Control points of an upright picture of this size, in the pixels of its file before EXIF's turn, 1 to 8.

    Programs such as GDAL ignore that turn. Turns 5 to 8 exchange width and height.
    """
    width, height = size[::-1] if turn > 4 else size  # of the file
    return tuple(ControlPoint(*_unturned(p.x, p.y, width, height, turn), p.lng, p.lat) for p in points)


def _unturned(x: float, y: float, width: int, height: int, turn: int) -> tuple[float, float]:
    across, down = (y, x) if turn > 4 else (x, y)
    return (
        width - across if turn in (2, 3, 7, 8) else across,
        height - down if turn in (3, 4, 6, 7) else down,
    )


def _ring(frame: Frame, aspect: tuple[float, float]) -> tuple[Floats, Floats, Floats]:
    """The outline's lng and lat, and both as a closed ring (p, 2) whose longitudes run on beyond 180."""
    lng, lat = frame.ground(*_on_edges(aspect, _POINTS_AN_EDGE))
    ring = np.stack([np.degrees(np.unwrap(np.radians(np.append(lng, lng[0])))), np.append(lat, lat[0])], axis=1)
    return lng, lat, ring


def _winds(ring: Floats) -> bool:
    return bool(abs(ring[-1, 0] - ring[0, 0]) > 180)


def _on_edges(aspect: tuple[float, float], count: int) -> tuple[Floats, Floats]:
    """(u, v) of `count` points on each edge, clockwise from the upper left corner."""
    t = np.arange(count) / count - 0.5
    half = np.full(count, 0.5)
    u, v = np.concatenate([t, half, -t, -half]), np.concatenate([-half, t, half, -t])
    return u * aspect[0], v * aspect[1]


def _around_pole(lng: Floats, lat: Floats, north: bool) -> Floats:
    """The ring between an outline that runs around a pole and that pole, from 180 W to 180 E."""
    order = np.argsort(lng)
    lng, lat = lng[order], lat[order]
    seam = np.interp(180.0, [lng[-1], lng[0] + 360], [lat[-1], lat[0]])
    pole = 90.0 if north else -90.0
    inner = np.stack([np.concatenate([[-180.0], lng, [180.0]]), np.concatenate([[seam], lat, [seam]])], axis=1)
    return np.concatenate([inner, [[180.0, pole], [-180.0, pole]]])


def _closed(ring: Floats) -> list[list[float]]:
    """A ring as RFC 7946 has it: closed and counterclockwise."""
    x, y = ring.T
    area = float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    turned = ring if area > 0 else ring[::-1]
    return [[degrees(float(a)), degrees(float(b))] for a, b in [*turned, turned[0]]]
