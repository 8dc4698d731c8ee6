"""Spherical polygons as GeoJSON has them: in the plane of longitude and latitude, cut at the date line (RFC 7946).

Edges are great circles; in that plane they bend, so they are given as many positions as it takes. A polygon around a
pole gets the map's edge at that latitude. It knows nothing of centroids.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.sphere import EARTH_RADIUS_KM, degrees_of, unit_vectors

__all__ = ["LARGEST_GAP_KM", "outline"]

LARGEST_GAP_KM = 1.0
"""A straight edge of the outline is at most so far from the great circle, judged at its middle."""

_GAP = LARGEST_GAP_KM / EARTH_RADIUS_KM
_POLE = 1e-9  # radians from a pole that count as being there: 6 mm
_ROUNDS = 20  # of halving: a great circle is never cut finer than to a millionth
_WORLD = [[[-180.0, -90.0], [180.0, -90.0], [180.0, 90.0], [-180.0, 90.0], [-180.0, -90.0]]]
_DIGITS = 6

Floats = NDArray[np.float64]
Positions = list[list[float]]


def outline(polygon: Floats) -> dict[str, Any]:
    """A convex cell as `voronoi.cells` has it, (v, 3), as a GeoJSON Polygon or MultiPolygon; none: the whole Earth."""
    if not len(polygon):
        return {"type": "Polygon", "coordinates": _WORLD}
    ring = _closed(_unrolled(_bent(_through_poles(polygon))))
    parts = [part for turn in (-1, 0, 1) if len(part := _strip(ring, 360.0 * turn))]
    rings = [[_positions(part)] for part in parts]
    if len(rings) == 1:
        return {"type": "Polygon", "coordinates": rings[0]}
    return {"type": "MultiPolygon", "coordinates": rings}


def _through_poles(polygon: Floats) -> Floats:
    """With a vertex wherever an edge passes through a pole, as the longitude jumps there."""
    found = []
    for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        found.append(a)
        normal = np.cross(a, b)
        if abs(normal[2]) > _POLE * np.linalg.norm(normal):
            continue
        pole = np.array([0.0, 0.0, np.sign(a[2] + b[2])])
        between = min(np.cross(a, pole) @ normal, np.cross(pole, b) @ normal) > 0
        if between and not (_at_pole(a) or _at_pole(b)):
            found.append(pole)
    return np.array(found)


def _bent(ring: Floats) -> Floats:
    """With positions added until the straight lines between them are as near to the great circles as they must be."""
    for _ in range(_ROUNDS):
        following = np.roll(ring, -1, axis=0)
        middle = ring + following
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        split = np.linalg.norm(middle - _middle_on_map(ring, following), axis=1) > _GAP
        if not split.any():
            break
        ring = np.insert(ring, np.flatnonzero(split) + 1, middle[split], axis=0)
    return ring


def _middle_on_map(a: Floats, b: Floats) -> Floats:
    """The middles of straight lines of the map, (n, 3); a pole has the longitude of the line's other end."""
    (lng_a, lat_a), (lng_b, lat_b) = degrees_of(a), degrees_of(b)
    lng_a, lng_b = np.where(_at_pole(a), lng_b, lng_a), np.where(_at_pole(b), lng_a, lng_b)
    across = (lng_b - lng_a + 180) % 360 - 180
    return unit_vectors(lng_a + across / 2, (lat_a + lat_b) / 2)


def _unrolled(ring: Floats) -> Floats:
    """(p, 2) longitudes that run on beyond 180, and latitudes; a pole is two positions, on the way in and out."""
    start = int(np.flatnonzero(~_at_pole(ring))[0])
    ring = np.roll(ring, -start, axis=0)
    (lng, lat), poles = degrees_of(ring), _at_pole(ring)
    found, here, over = [], float(lng[0]), 0.0
    for i in range(len(ring) + 1):
        at = i % len(ring)
        if poles[at]:
            over = float(np.sign(lat[at]))
            found.append((here, 90 * over))
            continue
        step = (float(lng[at]) - here + 180) % 360 - 180
        if over:  # the inside is on the left: west of the way to the north pole, east of the way to the south pole
            step = -over * (-over * (float(lng[at]) - here) % 360)
            found.append((here + step, 90 * over))
            over = 0.0
        here += step
        found.append((here, float(lat[at])))
    return np.array(found)


def _closed(ring: Floats) -> Floats:
    """A ring that went once around the Earth from date line to date line, and back along the pole on its left."""
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


def _strip(ring: Floats, shift: float) -> Floats:
    """What of a ring is within the map when it is moved by `shift` degrees, (p, 2); none is (0, 2).

    A convex cell meets a meridian in one piece at most, so that cutting leaves one ring (Sutherland and Hodgman 1974).
    """
    ring = ring + np.array([shift, 0.0])
    for side in (1.0, -1.0):
        ring = _cut(ring, side)
    return ring if len(ring) > 2 and np.ptp(ring[:, 0]) > 10.0**-_DIGITS else ring[:0]


def _cut(ring: Floats, side: float) -> Floats:
    """What is not beyond side * 180 degrees."""
    found: list[Floats] = []
    for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        inner, other = 180 - side * a[0], 180 - side * b[0]
        if inner >= 0:
            found.append(a)
        if (inner > 0 > other) or (inner < 0 < other):
            crossing = a + (b - a) * inner / (inner - other)
            found.append(np.array([side * 180.0, crossing[1]]))
    return np.array(found).reshape(-1, 2)


def _positions(ring: Floats) -> Positions:
    """Rounded, without repetitions, closed."""
    rounded = np.round(ring, _DIGITS) + 0.0
    kept = rounded[(rounded != np.roll(rounded, 1, axis=0)).any(axis=1)]
    found: Positions = np.concatenate([kept, kept[:1]]).tolist()
    return found


def _at_pole(vectors: Floats) -> NDArray[np.bool_]:
    return np.asarray(np.hypot(vectors[..., 0], vectors[..., 1]) < _POLE)
