"""Every point of the Earth is in exactly one cell, that of the nearest centroid, for any centroids."""

import numpy as np
import pytest
from centroids import POLES_AND_DATE_LINE, SPECIAL, Floats, drawn, unit
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexer.errors import GeocellError
from indexer.geocells.partition.voronoi import areas_km2, cells
from retrieval.sphere import EARTH_AREA_KM2, degrees_of, great_circle_km


def inside(points: Floats, polygons: list[Floats], slack: float) -> NDArray[np.bool_]:
    """(n, c): whether a point is on the inner side of all edges of a cell, or outside by at most `slack` radians."""
    within = np.ones((len(points), len(polygons)), dtype=np.bool_)
    for cell, polygon in enumerate(polygons):
        for a, b in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            normal = np.cross(a, b)
            within[:, cell] &= points @ (normal / np.linalg.norm(normal)) >= -slack
    return within


def check_cells(centroids: Floats, points: Floats) -> None:
    """Each point is in exactly one cell, the nearest by haversine; the areas sum to the Earth's."""
    polygons = cells(centroids)
    lng, lat = degrees_of(centroids)
    nearest = great_circle_km(*(v[:, None] for v in degrees_of(points)), lng, lat).argmin(axis=1)
    strictly, loosely = inside(points, polygons, -1e-9), inside(points, polygons, 1e-9)
    rows = np.arange(len(points))
    assert (strictly.sum(axis=1) <= 1).all()
    assert (loosely.sum(axis=1) >= 1).all()
    assert loosely[rows, nearest].all()
    sure = strictly.any(axis=1)
    assert (strictly[sure].argmax(axis=1) == nearest[sure]).all()
    areas = areas_km2(centroids, polygons)
    assert areas.min() > 0
    assert areas.sum() == pytest.approx(EARTH_AREA_KM2, rel=1e-6)


def test_cell_of_a_hundred_thousand_points() -> None:
    """In 60 cells; none of the points lies on an edge."""
    centroids, points = drawn(60, 1), drawn(100_000, 2)
    lng, lat = degrees_of(points)
    centroid_lng, centroid_lat = degrees_of(centroids)
    nearest, nearest_km = np.zeros(len(points), dtype=np.intp), np.full(len(points), np.inf)
    for cell in range(len(centroids)):
        km = great_circle_km(lng, lat, centroid_lng[cell], centroid_lat[cell])
        nearest[km < nearest_km], nearest_km = cell, np.minimum(km, nearest_km)
    within = inside(points, cells(centroids), 0.0)
    assert (within.sum(axis=1) == 1).all()
    assert np.array_equal(within.argmax(axis=1), nearest)


@given(st.integers(1, 40), st.integers(0, 10_000))
def test_cells_of_drawn_centroids(count: int, seed: int) -> None:
    check_cells(drawn(count, seed), np.concatenate([drawn(200, seed + 1), POLES_AND_DATE_LINE]))


@pytest.mark.parametrize("name", SPECIAL)
def test_cells_of_special_centroids(name: str) -> None:
    check_cells(SPECIAL[name], np.concatenate([drawn(500, 3), POLES_AND_DATE_LINE]))


@pytest.mark.parametrize("name", sorted(SPECIAL.keys() - {"one"}))
def test_edges_are_halfway_between_centroids(name: str) -> None:
    """Vertices and middles of edges have the same distance to their cell's centroid and to another one."""
    centroids = SPECIAL[name]
    for centre, polygon in zip(centroids, cells(centroids), strict=True):
        middles = unit(polygon + np.roll(polygon, -1, axis=0))
        for point in (*polygon, *middles):
            chords = np.linalg.norm(centroids - point, axis=1)
            assert np.linalg.norm(centre - point) == pytest.approx(chords.min(), abs=1e-9)
            assert (chords < chords.min() + 1e-9).sum() >= 2


def test_equal_centroids_raise() -> None:
    with pytest.raises(GeocellError, match="tessellated"):
        cells(np.concatenate([drawn(6, 1), drawn(6, 1)]))
