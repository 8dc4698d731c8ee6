"""Spherical Voronoi cells: the polygon of points that are nearer to a centroid than to any other, and its area.

A cell is convex: it is where x . (v_i x v_i+1) >= 0 for every two vertices that follow one another, counter-clockwise
as seen from outside. Everything is unit vectors; degrees and maps are `outlines`' matter.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import QhullError, SphericalVoronoi

from indexer.errors import GeocellError
from retrieval.sphere import EARTH_AREA_KM2, EARTH_RADIUS_KM

__all__ = ["areas_km2", "cells"]

_FLAT = 1e-9
"""Centroids within this of one plane (of the unit sphere's radius: 6 mm) are on a circle, and their cells are lunes."""
_SAME = 1e-9
"""Vertices nearer than this are one."""

Floats = NDArray[np.float64]


def cells(centroids: Floats) -> list[Floats]:
    """The cells of distinct centroids, (c, 3) unit vectors: each (v, 3), counter-clockwise from outside, edges < 180°.

    A single cell is the whole sphere and has no vertices, (0, 3). Raises GeocellError where rounding leaves holes.
    """
    if len(centroids) == 1:
        return [np.zeros((0, 3))]
    normal = _plane(centroids)
    found = _tessellated(centroids) if normal is None else _lunes(centroids, normal)
    lost = abs(areas_km2(centroids, found).sum() / EARTH_AREA_KM2 - 1)
    if not lost < 1e-6:
        raise GeocellError(f"the cells of {len(centroids)} centroids miss the Earth's area by a share of {lost:.2g}")
    return found


def areas_km2(centroids: Floats, polygons: list[Floats]) -> Floats:
    """The cells' areas, (c,): triangles from the centroid to each edge, by Van Oosterom and Strackee 1983."""
    return np.array([_area(centre, polygon) for centre, polygon in zip(centroids, polygons, strict=True)])


def _area(centre: Floats, polygon: Floats) -> float:
    if not len(polygon):
        return EARTH_AREA_KM2
    a, b = polygon, np.roll(polygon, -1, axis=0)
    volume = np.cross(a, b) @ centre
    solid = 2 * np.arctan2(volume, 1 + (a * b).sum(axis=1) + a @ centre + b @ centre)
    return float(solid.sum() * EARTH_RADIUS_KM**2)


def _plane(centroids: Floats) -> Floats | None:
    """The normal of the plane that all centroids are in, (3,), or None; two or three always are in one."""
    if len(centroids) == 2:
        first, second = centroids
        # Twice across: any vector serves that is across both, and of antipodes there are many.
        across = np.cross(first, second - first) if abs(first @ second) < 1 - 1e-12 else np.zeros(3)
        helper = across if across.any() else np.cross(first, np.eye(3)[np.abs(first).argmin()])
        return np.asarray(helper / np.linalg.norm(helper))
    _, sizes, axes = np.linalg.svd(centroids - centroids.mean(axis=0))
    spread = sizes if len(sizes) == 3 else np.append(sizes, 0.0)
    return np.asarray(axes[2]) if spread[2] <= _FLAT else None


def _lunes(centroids: Floats, normal: Floats) -> list[Floats]:
    """Cells of centroids on one circle: between half great circles from one of the circle's poles to the other."""
    east = centroids[0] - (centroids[0] @ normal) * normal
    east /= np.linalg.norm(east)
    north = np.cross(normal, east)
    angles = np.arctan2(centroids @ north, centroids @ east) % (2 * np.pi)
    by_angle = np.argsort(angles)
    ordered = angles[by_angle]
    ahead = (np.roll(ordered, -1) - ordered) % (2 * np.pi)
    edges = ordered + ahead / 2
    middles = np.cos(edges)[:, None] * east + np.sin(edges)[:, None] * north
    found = [np.zeros((0, 3))] * len(centroids)
    for place, cell in enumerate(by_angle.tolist()):
        found[cell] = np.stack([normal, middles[place - 1], -normal, middles[place]])
    return found


def _tessellated(centroids: Floats) -> list[Floats]:
    try:
        found = SphericalVoronoi(centroids, radius=1.0, threshold=1e-12)
        found.sort_vertices_of_regions()
    except (QhullError, ValueError) as exc:
        raise GeocellError(f"{len(centroids)} centroids could not be tessellated ({exc})") from exc
    vertices = found.vertices / np.linalg.norm(found.vertices, axis=1, keepdims=True)
    return [_turned(vertices[region], centre) for region, centre in zip(found.regions, centroids, strict=True)]


def _turned(polygon: Floats, centre: Floats) -> Floats:
    """Counter-clockwise around the centre and without vertices that are their predecessor again."""
    apart = np.linalg.norm(polygon - np.roll(polygon, 1, axis=0), axis=1) > _SAME
    polygon = polygon[apart]
    turn = (np.cross(polygon, np.roll(polygon, -1, axis=0)) @ centre).sum()
    return polygon if turn > 0 else polygon[::-1]
