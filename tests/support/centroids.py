"""Centroids for tests of Voronoi cells, as unit vectors: drawn ones, and special arrangements by name."""

import numpy as np
from numpy.typing import NDArray

from retrieval.sphere import unit_vectors

Floats = NDArray[np.float64]
POLES_AND_DATE_LINE = unit_vectors(
    np.array([0.0, 0.0, 180.0, -180.0, 180.0, 179.999999, 0.0, 90.0]),
    np.array([90.0, -90.0, 0.0, 45.0, -89.999, 89.999, 0.0, 0.0]),
)


def drawn(count: int, seed: int) -> Floats:
    """Points drawn uniformly on the sphere, (count, 3)."""
    vectors = np.random.default_rng(seed).normal(size=(count, 3))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def unit(vectors: Floats) -> Floats:
    """The vectors, (..., 3), scaled to length 1."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


EYE = np.eye(3)
AROUND = np.radians(np.arange(0, 360, 60))
CIRCLE = np.stack([np.cos(AROUND), np.sin(AROUND), np.zeros(6)], axis=1)
SPECIAL = {
    "one": EYE[:1],
    "two": unit(EYE[:2] + 0.1),
    "antipodes": np.array([EYE[0], -EYE[0]]),
    "the poles": np.array([EYE[2], -EYE[2]]),
    "three": unit(EYE + 0.2),
    "on the equator": CIRCLE,
    "on a parallel": unit(CIRCLE * 0.1 + EYE[2]),
    "on a parallel, and the pole": unit(np.concatenate([CIRCLE * 0.1 + EYE[2], EYE[2:]])),
    "on a meridian": unit(np.array([[1, 0, 2.0], [1, 0, 1], [1, 0, 0.1], [1, 0, -3]])),
    "octahedron": np.concatenate([EYE, -EYE]),
    "cube": unit(np.array([[x, y, z] for x in (-1.0, 1) for y in (-1, 1) for z in (-1, 1)])),
    "one town": unit(EYE[0] + 1e-3 * drawn(12, 5)),
    "one hemisphere": np.abs(drawn(20, 6)),
    "a grid of degrees": unit_vectors(*(v.ravel() for v in np.meshgrid(np.arange(-180.0, 180, 40), [-60.0, 0, 60]))),
    "both sides of the date line": unit_vectors(np.array([179.9, -179.9, 179.9, -179.9]), np.array([1.0, 1, -1, -2])),
}
