"""Distances and means on the sphere. Degrees and unit vectors in, kilometres out; knows nothing of tiles.

The Earth is a sphere of 6371.0088 km, the mean radius of the IUGG: off the ellipsoid by up to 0.56%.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EARTH_AREA_KM2",
    "EARTH_RADIUS_KM",
    "great_circle_km",
    "lng_lat_of",
    "mean_directions",
    "unit_vectors_of",
]

EARTH_RADIUS_KM = 6371.0088
EARTH_AREA_KM2 = 4 * np.pi * EARTH_RADIUS_KM**2

Floats = NDArray[np.float64]


def great_circle_km(lng_a: Floats, lat_a: Floats, lng_b: Floats, lat_b: Floats) -> Floats:
    """Great-circle distance by the haversine formula (Sinnott 1984); degrees in, km out, (n,), arguments broadcast."""
    a, b = np.radians(lat_a), np.radians(lat_b)
    h = np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.radians(lng_b - lng_a) / 2) ** 2
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0, 1))))


def unit_vectors_of(lng: Floats, lat: Floats) -> Floats:
    """Degrees, (n,) each, to unit vectors, (n, 3): x to longitude 0 on the equator, z to the north pole."""
    across, up = np.radians(lng), np.radians(lat)
    return np.stack([np.cos(up) * np.cos(across), np.cos(up) * np.sin(across), np.sin(up)], axis=-1)


def lng_lat_of(vectors: Floats) -> tuple[Floats, Floats]:
    """Vectors of any length but 0, (n, 3), to degrees, (n,) each."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.degrees(np.arctan2(y, x)), np.degrees(np.arctan2(z, np.hypot(x, y)))


def mean_directions(vectors: Floats, labels: NDArray[np.integer], count: int) -> Floats:
    """The spherical mean of each group, (count, 3) unit vectors: the direction of the sum of its unit vectors, (n, 3).

    `labels`: (n,) from 0 to count - 1. It is the point of least mean squared chord. A group whose vectors cancel out,
    or that has none, gets its first vector, or the north pole: any point is as good.
    """
    sums = np.stack([np.bincount(labels, vectors[:, i], count) for i in range(3)], axis=1)
    lengths = np.linalg.norm(sums, axis=1)
    lost = np.flatnonzero(lengths <= 1e-12 * np.maximum(np.bincount(labels, minlength=count), 1))
    for group in lost:
        members = np.flatnonzero(labels == group)
        sums[group] = vectors[members[0]] if len(members) else (0.0, 0.0, 1.0)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True))
