"""The Earth as a sphere: distances, unit vectors, areas, means and the date line. Degrees in, kilometres out.

Every great-circle formula of the program lives here, but for those on torch tensors (the losses of
`indexer.geocells.model` and the views of `indexer.builtin`). Formulas in Web Mercator are in `tile_cache.addressing`.
The radius is 6371.0088 km, the mean radius of the IUGG; the ellipsoid differs from this sphere by up to 0.56%.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EARTH_AREA_KM2",
    "EARTH_RADIUS_KM",
    "chord_km",
    "cut_at_date_line",
    "degrees_of",
    "distances_km",
    "great_circle_km",
    "mean_directions",
    "rectangle_km2",
    "unit_vectors",
    "unit_vectors_of_sines",
]

EARTH_RADIUS_KM = 6371.0088
EARTH_AREA_KM2 = 4 * np.pi * EARTH_RADIUS_KM**2

Floats = NDArray[np.float64]


def great_circle_km(lng_a: Floats, lat_a: Floats, lng_b: Floats, lat_b: Floats) -> Floats:
    """Great-circle distance by the haversine formula (Sinnott 1984): degrees to km, (n,); the arguments broadcast."""
    a, b = np.radians(lat_a), np.radians(lat_b)
    h = np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.radians(lng_b - lng_a) / 2) ** 2
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0, 1))))


def chord_km(chord: Floats) -> Floats:
    """Great-circle distances of points whose unit vectors are `chord` apart (0 to 2; larger counts as 2)."""
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.minimum(chord / 2, 1)))


def distances_km(vector: Floats, vectors: Floats) -> Floats:
    """Great-circle distances from one unit vector, (3,), to others, (n, 3); accurate to a centimetre."""
    return chord_km(np.sqrt(np.square(vectors - vector).sum(axis=1)))


def rectangle_km2(west: Floats, south: Floats, east: Floats, north: Floats) -> Floats:
    """Areas between two meridians and two parallels, (n,) degrees each to (n,) km2."""
    height = np.sin(np.radians(north)) - np.sin(np.radians(south))
    return np.asarray(EARTH_RADIUS_KM**2 * np.radians(east - west) * height)


def unit_vectors(lng: Floats, lat: Floats) -> Floats:
    """Degrees, (n,) each, to unit vectors, (n, 3): x to longitude 0 on the equator, z to the north pole."""
    across, up = np.radians(lng), np.radians(lat)
    return np.stack([np.cos(up) * np.cos(across), np.cos(up) * np.sin(across), np.sin(up)], axis=-1)


def unit_vectors_of_sines(lng: Floats, sine: Floats) -> Floats:
    """Longitudes in degrees and sines of latitudes, (n,) each, to unit vectors, (n, 3).

    The cosine comes from the sine here, so the last bit may differ from `unit_vectors`.
    """
    angle, ring = np.radians(lng), np.sqrt(1 - sine * sine)
    return np.stack([ring * np.cos(angle), ring * np.sin(angle), sine], axis=1)


def degrees_of(vectors: Floats) -> tuple[Floats, Floats]:
    """Vectors of any length but 0, (n, 3), to longitudes and latitudes in degrees, (n,) each."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))


def mean_directions(vectors: Floats, labels: NDArray[np.integer], count: int) -> Floats:
    """The spherical mean of each group, (count, 3) unit vectors: the direction of the sum of its unit vectors, (n, 3).

    `labels`: (n,) from 0 to count - 1. The mean is the point with the smallest mean squared chord. A group whose
    vectors cancel out gets its first vector, and an empty group the north pole, as no point is better than another.
    """
    sums = np.stack([np.bincount(labels, vectors[:, i], count) for i in range(3)], axis=1)
    lengths = np.linalg.norm(sums, axis=1)
    degenerate = np.flatnonzero(lengths <= 1e-12 * np.maximum(np.bincount(labels, minlength=count), 1))
    for group in degenerate:
        members = np.flatnonzero(labels == group)
        sums[group] = vectors[members[0]] if len(members) else (0.0, 0.0, 1.0)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True))


def cut_at_date_line(ring: Floats, narrowest: float = 1e-6) -> list[Floats]:
    """A ring of (lng, lat), (p, 2) degrees, as rings with longitudes from -180 to 180, (q, 2) each.

    The longitudes of `ring` must run on beyond 180 where it crosses the date line. It must meet every meridian in at
    most one piece, as convex cells and circles do; then each side keeps one ring (Sutherland and Hodgman 1974). Rings
    that are not wider than `narrowest` degrees are left out. The rings are not closed.
    """
    pieces = []
    for turn in (-360.0, 0.0, 360.0):
        piece = ring + np.array([turn, 0.0])
        for side in (1.0, -1.0):
            piece = _cut_on(piece, side)
        if len(piece) > 2 and np.ptp(piece[:, 0]) > narrowest:
            pieces.append(piece)
    return pieces


def _cut_on(ring: Floats, side: float) -> Floats:
    """The part of a ring that is not beyond side * 180 degrees."""
    positions: list[Floats] = []
    for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        from_a, from_b = 180 - side * a[0], 180 - side * b[0]
        if from_a >= 0:
            positions.append(a)
        if (from_a > 0 > from_b) or (from_a < 0 < from_b):
            crossing = a + (b - a) * from_a / (from_a - from_b)
            positions.append(np.array([side * 180.0, crossing[1]]))
    return np.array(positions).reshape(-1, 2)
