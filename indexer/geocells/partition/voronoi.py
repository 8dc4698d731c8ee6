"""Spherical Voronoi cells: for each centroid the polygon of points that are nearer to it than to any other.

A cell is convex: the points x with x . (v_i x v_i+1) >= 0 for all consecutive vertices v, counter-clockwise as seen
from outside. Everything is unit vectors; degrees and maps are left to `outlines`.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import QhullError, SphericalVoronoi

from indexer.errors import GeocellError
from retrieval.sphere import EARTH_AREA_KM2, EARTH_RADIUS_KM

__all__ = ["areas_km2", "cells"]

_PLANE_TOLERANCE = 1e-9
"""Centroids within this distance of one plane (6 mm on the Earth) lie on a circle, and their cells are lunes."""
_SAME_VERTEX = 1e-9
"""Vertices nearer than this are the same vertex."""

Floats = NDArray[np.float64]


def cells(centroids: Floats) -> list[Floats]:
    """The cells of distinct centroids, (c, 3) unit vectors: vertices (v, 3), counter-clockwise, edges under 180°.

    A single cell is the whole sphere and has no vertices, (0, 3). Raises GeocellError if rounding leaves gaps.
    """
    if len(centroids) == 1:
        return [np.zeros((0, 3))]
    normal = _plane_normal(centroids)
    polygons = _tessellated(centroids) if normal is None else _lunes(centroids, normal)
    error = abs(areas_km2(centroids, polygons).sum() / EARTH_AREA_KM2 - 1)
    if not error < 1e-6:
        raise GeocellError(
            f"the areas of {len(centroids)} cells differ from the Earth's by a share of {error:.2g}: the centroids are "
            "too close to each other; fit with a larger --eps"
        )
    return polygons


def areas_km2(centroids: Floats, polygons: list[Floats]) -> Floats:
    """The areas of the cells, (c,), as sums of triangles from centroid to edge (Van Oosterom and Strackee 1983)."""
    return np.array([_area(centre, polygon) for centre, polygon in zip(centroids, polygons, strict=True)])


def _area(centre: Floats, polygon: Floats) -> float:
    if not len(polygon):
        return EARTH_AREA_KM2
    a, b = polygon, np.roll(polygon, -1, axis=0)
    volume = np.cross(a, b) @ centre
    solid = 2 * np.arctan2(volume, 1 + (a * b).sum(axis=1) + a @ centre + b @ centre)
    return float(solid.sum() * EARTH_RADIUS_KM**2)


def _plane_normal(centroids: Floats) -> Floats | None:
    """The normal, (3,), of the plane that contains all centroids, or None; two or three points always have a plane."""
    if len(centroids) == 2:
        first, second = centroids
        # The normal may be any vector perpendicular to both; antipodes have many, and any of them serves.
        across = np.cross(first, second - first) if abs(first @ second) < 1 - 1e-12 else np.zeros(3)
        helper = across if across.any() else np.cross(first, np.eye(3)[np.abs(first).argmin()])
        return np.asarray(helper / np.linalg.norm(helper))
    _, sizes, axes = np.linalg.svd(centroids - centroids.mean(axis=0))
    spread = sizes if len(sizes) == 3 else np.append(sizes, 0.0)
    return np.asarray(axes[2]) if spread[2] <= _PLANE_TOLERANCE else None


def _lunes(centroids: Floats, normal: Floats) -> list[Floats]:
    """Cells of centroids on one circle: each lies between two half great circles that join the circle's poles."""
    east = centroids[0] - (centroids[0] @ normal) * normal
    east /= np.linalg.norm(east)
    north = np.cross(normal, east)
    angles = np.arctan2(centroids @ north, centroids @ east) % (2 * np.pi)
    by_angle = np.argsort(angles)
    ordered = angles[by_angle]
    to_next = (np.roll(ordered, -1) - ordered) % (2 * np.pi)
    edges = ordered + to_next / 2
    middles = np.cos(edges)[:, None] * east + np.sin(edges)[:, None] * north
    polygons = [np.zeros((0, 3))] * len(centroids)
    for i, cell in enumerate(by_angle.tolist()):
        polygons[cell] = np.stack([normal, middles[i - 1], -normal, middles[i]])
    return polygons


def _tessellated(centroids: Floats) -> list[Floats]:
    try:
        voronoi = SphericalVoronoi(centroids, radius=1.0, threshold=1e-12)
        voronoi.sort_vertices_of_regions()
    except (QhullError, ValueError) as exc:
        raise GeocellError(f"{len(centroids)} centroids could not be tessellated ({exc})") from exc
    vertices = voronoi.vertices / np.linalg.norm(voronoi.vertices, axis=1, keepdims=True)
    return [_oriented(vertices[region], centre) for region, centre in zip(voronoi.regions, centroids, strict=True)]


def _oriented(polygon: Floats, centre: Floats) -> Floats:
    """The polygon counter-clockwise around the centre, without vertices that repeat the one before."""
    distinct = np.linalg.norm(polygon - np.roll(polygon, 1, axis=0), axis=1) > _SAME_VERTEX
    polygon = polygon[distinct]
    turn = (np.cross(polygon, np.roll(polygon, -1, axis=0)) @ centre).sum()
    return polygon if turn > 0 else polygon[::-1]
