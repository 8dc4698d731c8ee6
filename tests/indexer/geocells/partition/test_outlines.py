"""Cells as GeoJSON: valid, within the map, and covering the same places as the cells themselves."""

import json
from typing import Any

import numpy as np
import pytest
import shapely
from centroids import POLES_AND_DATE_LINE, SPECIAL, drawn
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from shapely.geometry import shape

from indexer.geocells.partition.outlines import LARGEST_GAP_KM, outline
from indexer.geocells.partition.voronoi import cells
from retrieval.sphere import EARTH_RADIUS_KM, degrees_of


def edge_distance_km(points: NDArray[np.float64], centroids: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distance, (n,) km, of points to the nearest great circle between their cell and another."""
    own = centroids[(points @ centroids.T).argmax(axis=1)]
    across = own[:, None] - centroids[None]
    lengths = np.linalg.norm(across, axis=2)
    sines = np.einsum("ncd,nd->nc", across, points) / np.where(lengths > 0, lengths, 1)
    return np.asarray(EARTH_RADIUS_KM * np.arcsin(np.clip(np.where(lengths > 0, sines, 1).min(axis=1), 0, 1)))


def check_outlines(centroids: NDArray[np.float64], points: NDArray[np.float64]) -> None:
    """Points that are not too near to an edge lie in exactly one outline, that of the nearest centroid."""
    geometries = [outline(polygon) for polygon in cells(centroids)]
    shapes = [shape(json.loads(json.dumps(geometry))) for geometry in geometries]
    assert all(s.is_valid for s in shapes), [shapely.is_valid_reason(s) for s in shapes]
    assert sum(s.area for s in shapes) == pytest.approx(360 * 180)
    lng, lat = degrees_of(points)
    within = np.stack([shapely.intersects_xy(s, lng, lat) for s in shapes], axis=1)
    sure = edge_distance_km(points, centroids) > 1.5 * LARGEST_GAP_KM
    assert sure.mean() > 0.9
    # At the date line an outline holds one of the two longitudes of a place; a pole has no longitude.
    inner = sure & (np.abs(lng) < 180) & (np.abs(lat) < 89.9999)
    assert (within[inner].sum(axis=1) == 1).all()
    assert np.array_equal(within[inner].argmax(axis=1), (points[inner] @ centroids.T).argmax(axis=1))


@example(19, 3677)  # an edge that crosses its great circle in the middle
@given(st.integers(1, 30), st.integers(0, 10_000))
def test_outlines_agree_with_the_nearest_centroid(count: int, seed: int) -> None:
    check_outlines(drawn(count, seed), np.concatenate([drawn(300, seed + 1), POLES_AND_DATE_LINE]))


@pytest.mark.parametrize("name", sorted(SPECIAL.keys()))
def test_outlines_of_special_centroids(name: str) -> None:
    check_outlines(SPECIAL[name], drawn(1000, 4))


def test_outlines_of_many_cells_agree_for_thousands_of_points() -> None:
    check_outlines(drawn(150, 8), drawn(5000, 9))


def rings(geometry: dict[str, Any]) -> list[list[list[float]]]:
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    assert all(len(polygon) == 1 for polygon in polygons)  # cells have no holes
    return [polygon[0] for polygon in polygons]


@given(st.integers(1, 30), st.integers(0, 10_000))
def test_rings_follow_rfc_7946(count: int, seed: int) -> None:
    """Closed, counter-clockwise, within the map, cut at the date line."""
    for polygon in cells(drawn(count, seed)):
        for ring in rings(outline(polygon)):
            assert ring[0] == ring[-1]
            assert len(ring) >= 4
            assert all(-180 <= lng <= 180 and -90 <= lat <= 90 for lng, lat in ring)
            assert shapely.is_ccw(shapely.linearrings(ring))


def test_cell_around_a_pole_reaches_the_edge_of_the_map() -> None:
    """With a centroid at each pole, each outline is half of the map."""
    north, south = (outline(polygon) for polygon in cells(SPECIAL["the poles"]))
    assert shape(north).equals(shapely.box(-180, 0, 180, 90))
    assert shape(south).equals(shapely.box(-180, -90, 180, 0))


def test_cell_across_the_date_line_has_two_polygons() -> None:
    divided = next(geometry for geometry in map(outline, cells(SPECIAL["on the equator"])) if len(rings(geometry)) == 2)
    bounds = sorted(shapely.linearrings(ring).bounds for ring in rings(divided))
    assert [b[0] for b in bounds] == pytest.approx([-180, 150])
    assert [b[2] for b in bounds] == pytest.approx([-150, 180])
