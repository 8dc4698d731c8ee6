"""Spherical polygons as GeoJSON: in the plane of longitude and latitude, cut at the date line (RFC 7946).

Edges are great circles, which are curves in that plane, so positions are added until straight lines follow them closely
enough. A polygon around a pole also gets the map's edge at that latitude. Takes polygons only and knows no centroids.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.sphere import EARTH_RADIUS_KM, cut_at_date_line, degrees_of, unit_vectors

__all__ = ["LARGEST_GAP_KM", "outline"]

LARGEST_GAP_KM = 1.0
"""A straight edge of the outline is at most this far from the great circle, at its quarters."""

_GAP = LARGEST_GAP_KM / EARTH_RADIUS_KM
_POLE = 1e-9  # radians (6 mm): points nearer to a pole count as the pole
_ROUNDS = 20  # of halving: a great circle is never divided finer than into a million pieces
_WORLD = [[[-180.0, -90.0], [180.0, -90.0], [180.0, 90.0], [-180.0, 90.0], [-180.0, -90.0]]]
_DIGITS = 6

Floats = NDArray[np.float64]
Positions = list[list[float]]


def outline(polygon: Floats) -> dict[str, Any]:
    """A convex cell as `voronoi.cells` returns it, (v, 3), as a GeoJSON Polygon or MultiPolygon; (0, 3): the Earth."""
    if not len(polygon):
        return {"type": "Polygon", "coordinates": _WORLD}
    ring = _closed_at_pole(_unrolled(_densified(_with_poles(polygon))))
    rings = [[_positions(piece)] for piece in cut_at_date_line(ring)]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def _with_poles(polygon: Floats) -> Floats:
    """The polygon with a vertex added where an edge passes through a pole: the longitude jumps there."""
    vertices = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        vertices.append(a)
        normal = np.cross(a, b)
        if abs(normal[2]) > _POLE * np.linalg.norm(normal):
            continue
        pole = np.array([0.0, 0.0, np.sign(a[2] + b[2])])
        between = min(np.cross(a, pole) @ normal, np.cross(pole, b) @ normal) > 0
        if between and not (_at_pole(a) or _at_pole(b)):
            vertices.append(pole)
    return np.array(vertices)


def _densified(ring: Floats) -> Floats:
    """The ring with positions added until the straight lines between them are within _GAP of the great circles."""
    for _ in range(_ROUNDS):
        following = np.roll(ring, -1, axis=0)
        middle = ring + following
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        split = _gap(ring, following) > _GAP
        if not split.any():
            break
        ring = np.insert(ring, np.flatnonzero(split) + 1, middle[split], axis=0)
    return ring


def _gap(a: Floats, b: Floats) -> Floats:
    """Distances of straight lines on the map from their great circles, (n,) radians; a, b: (n, 3) their ends.

    Measured at the quarters of the line: near its inflection a great circle crosses the straight line, which is then
    right in the middle and wrong on both sides. A pole takes the longitude of the line's other end.
    """
    (lng_a, lat_a), (lng_b, lat_b) = degrees_of(a), degrees_of(b)
    lng_a, lng_b = np.where(_at_pole(a), lng_b, lng_a), np.where(_at_pole(b), lng_a, lng_b)
    across = (lng_b - lng_a + 180) % 360 - 180
    normal = np.cross(a, b)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    normal /= np.where(length > 0, length, 1)
    points = [unit_vectors(lng_a + across * f, lat_a + (lat_b - lat_a) * f) for f in (0.25, 0.5, 0.75)]
    return np.asarray(np.max([np.abs((point * normal).sum(axis=1)) for point in points], axis=0))


def _unrolled(ring: Floats) -> Floats:
    """(p, 2) longitude, which continues beyond 180, and latitude; a pole becomes two positions, one for each side."""
    start = int(np.flatnonzero(~_at_pole(ring))[0])
    ring = np.roll(ring, -start, axis=0)
    (lngs, lats), poles = degrees_of(ring), _at_pole(ring)
    positions, lng, pole = [], float(lngs[0]), 0.0
    for i in range(len(ring) + 1):
        row = i % len(ring)
        if poles[row]:
            pole = float(np.sign(lats[row]))
            positions.append((lng, 90 * pole))
            continue
        step = (float(lngs[row]) - lng + 180) % 360 - 180
        if pole:  # the inside is on the left: west on the way to the north pole, east on the way to the south pole
            step = -pole * (-pole * (float(lngs[row]) - lng) % 360)
            positions.append((lng + step, 90 * pole))
            pole = 0.0
        lng += step
        positions.append((lng, float(lats[row])))
    return np.array(positions)


def _closed_at_pole(ring: Floats) -> Floats:
    """A ring that went once around the Earth, from date line to date line and back along the pole on its left."""
    around = ring[-1, 0] - ring[0, 0]
    ring = ring[:-1]
    if abs(around) < 180:
        return ring
    lng = (ring[:, 0] + 180) % 360 - 180
    eastward = ring[np.argsort(lng, kind="stable"), 1]  # around a pole, a convex cell's edge never turns back
    lng.sort()
    edge, pole = float(np.interp(180, lng, eastward, period=360)), float(np.copysign(90, around))
    ends = [(-180.0, edge)], np.stack([lng, eastward], axis=1), [(180.0, edge), (180.0, pole), (-180.0, pole)]
    closed = np.concatenate(ends)
    return closed if around > 0 else closed[::-1]


def _positions(ring: Floats) -> Positions:
    """The ring rounded, without repeated positions, and closed."""
    rounded = np.round(ring, _DIGITS) + 0.0  # + 0.0 turns -0.0 into 0.0
    distinct = rounded[(rounded != np.roll(rounded, 1, axis=0)).any(axis=1)]
    positions: Positions = np.concatenate([distinct, distinct[:1]]).tolist()
    return positions


def _at_pole(vectors: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.hypot(vectors[..., 0], vectors[..., 1]) < _POLE)
