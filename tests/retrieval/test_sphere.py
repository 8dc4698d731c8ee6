"""Distances compared with published values and with another formula; spherical means, also of degenerate groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.sphere import (
    EARTH_RADIUS_KM,
    cut_at_date_line,
    degrees_of,
    great_circle_km,
    mean_directions,
    unit_vectors,
)

longitudes = st.floats(-180, 180)
latitudes = st.floats(-90, 90)
METRE = 1e-3


def km(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The distance of two points, (lng, lat) each."""
    return float(great_circle_km(*(np.array([v]) for v in (*a, *b)))[0])


def by_vectors(a: tuple[float, float], b: tuple[float, float]) -> float:
    """The same distance by the angle between two vectors, which is accurate everywhere."""
    first, second = (unit_vectors(np.array(lng), np.array(lat)) for lng, lat in (a, b))
    return float(EARTH_RADIUS_KM * np.arctan2(np.linalg.norm(np.cross(first, second)), first @ second))


def test_published_distance_from_nashville_to_los_angeles() -> None:
    """The example of Rosetta Code: 2887.2599506071 km on a sphere with radius 6372.8 km."""
    assert km((-86.67, 36.12), (-118.40, 33.94)) == pytest.approx(2887.2599506071 * EARTH_RADIUS_KM / 6372.8, abs=1e-6)


@pytest.mark.parametrize(
    ("a", "b", "quarters"),
    [
        ((0, 0), (90, 0), 1),
        ((17, 90), (-100, 0), 1),
        ((0, 90), (0, -90), 2),
        ((-180, 10), (180, 10), 0),
        ((123, -90), (-12, -90), 0),
        ((30, 40), (-150, -40), 2),
    ],
)
def test_distance_in_quarter_circumferences(a: tuple[float, float], b: tuple[float, float], quarters: int) -> None:
    assert km(a, b) == pytest.approx(quarters * np.pi / 2 * EARTH_RADIUS_KM, abs=METRE)


@given(longitudes, latitudes, longitudes, latitudes)
def test_distance_is_accurate_to_a_metre_everywhere(lng_a: float, lat_a: float, lng_b: float, lat_b: float) -> None:
    a, b = (lng_a, lat_a), (lng_b, lat_b)
    assert km(a, b) == pytest.approx(by_vectors(a, b), abs=METRE)


@given(longitudes, latitudes, st.floats(-1e-3, 1e-3), st.floats(-1e-3, 1e-3))
def test_distance_is_accurate_to_a_millimetre_between_neighbours(
    lng: float, lat: float, across: float, up: float
) -> None:
    point, neighbour = (lng, lat), (lng + across, float(np.clip(lat + up, -90, 90)))
    opposite = lng + 180, -lat
    assert km(point, neighbour) == pytest.approx(by_vectors(point, neighbour), abs=1e-6)
    assert km(opposite, neighbour) == pytest.approx(by_vectors(opposite, neighbour), abs=METRE)


@given(longitudes, st.floats(-89.999, 89.999))
def test_unit_vectors_round_trip_to_degrees(lng: float, lat: float) -> None:
    back = degrees_of(unit_vectors(np.array([lng]), np.array([lat])))
    assert km((lng, lat), (float(back[0][0]), float(back[1][0]))) < 1e-6


def test_means_of_degenerate_groups_are_unit_vectors() -> None:
    """A group across the date line, a group of two antipodes, and an empty group."""
    vectors = unit_vectors(np.array([179.0, -179.0, 0.0, 180.0]), np.array([0.0, 0.0, 0.0, 0.0]))
    means = mean_directions(vectors, np.array([0, 0, 1, 1]), 3)
    assert np.allclose(means, [[-1, 0, 0], [1, 0, 0], [0, 0, 1]])


@pytest.mark.parametrize(("west", "east"), [(170, 190), (-190, -170)])
def test_ring_over_the_date_line_is_cut_in_two(west: float, east: float) -> None:
    ring = np.array([[west, -10], [east, -5], [east, 5], [west, 10]], dtype=float)
    eastern, western = sorted(cut_at_date_line(ring), key=lambda piece: float(piece[:, 0].min()))
    assert (eastern[:, 0].min(), eastern[:, 0].max()) == (-180, -170)
    assert (western[:, 0].min(), western[:, 0].max()) == (170, 180)
    for piece in (eastern, western):
        assert np.abs(piece[np.abs(piece[:, 0]) == 180, 1]).tolist() == pytest.approx([7.5, 7.5])


def test_ring_that_ends_on_the_date_line_is_not_cut() -> None:
    ring = np.array([[170, 0], [180, 0], [180, 10], [170, 10]], dtype=float)
    (piece,) = cut_at_date_line(ring)
    assert piece.tolist() == ring.tolist()
