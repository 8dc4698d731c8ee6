"""Frames and planes: round trips anywhere on the sphere, poles and the date line included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.registration.geometry import CORNERS, Frame, ground, homography_of, pixel_centres, plane
from retrieval.sphere import great_circle_km

LNG, LAT = st.floats(-180, 180), st.floats(-90, 90)


@given(LNG, LAT, st.floats(-3000, 3000), st.floats(-3000, 3000))
def test_plane_undoes_ground_everywhere(lng: float, lat: float, east: float, north: float) -> None:
    back = plane(lng, lat, *ground(lng, lat, np.array([east]), np.array([north])))
    assert np.allclose(np.concatenate(back), [east, north], atol=1e-4)


@given(LNG, st.floats(-89.9, 89.9), st.floats(0, 359), st.floats(1, 5000))
def test_plane_has_true_distances_from_its_centre(lng: float, lat: float, bearing: float, km: float) -> None:
    turn = np.radians(bearing)
    lngs, lats = ground(lng, lat, np.array([km * np.sin(turn)]), np.array([km * np.cos(turn)]))
    assert great_circle_km(np.array([lng]), np.array([lat]), lngs, lats)[0] == pytest.approx(km, rel=1e-6)
    assert -180 <= lngs[0] <= 180


@given(LNG, st.floats(-85, 85), st.floats(10, 3000), st.floats(-179, 179))
def test_frame_says_the_edge_and_heading_it_was_made_with(lng: float, lat: float, edge: float, heading: float) -> None:
    frame = Frame.upright(lng, lat, edge, heading)
    assert frame.edge_km == pytest.approx(edge)
    assert frame.heading == pytest.approx(heading, abs=1e-6)
    assert frame.is_plausible


def test_heading_is_the_compass_direction_of_the_top() -> None:
    frame = Frame.upright(10, 50, 100, 90)
    east, north = frame.to_plane(0.0, -0.5)  # the middle of the upper edge
    assert (float(east), float(north)) == (pytest.approx(50), pytest.approx(0, abs=1e-9))


@pytest.mark.parametrize(("lng", "lat"), [(20, 10), (179.5, -40), (-30, 78), (0, -86)])
def test_warped_frame_keeps_the_ground_under_its_corners(lng: float, lat: float) -> None:
    frame = Frame.upright(lng, lat, 600, 33)
    warp = np.array([[1.05, -0.06, 0.2], [0.06, 1.05, -0.3], [0.0, 0.0, 1.0]])
    moved = frame.warped(warp)
    u, v = (warp @ np.stack([*CORNERS.T, np.ones(4)]))[:2]
    away = great_circle_km(*frame.ground(u, v), *moved.ground(*CORNERS.T))
    assert away.max() < 1.0  # km; a plane around another centre differs a little
    assert great_circle_km(*frame.ground(0.2, -0.3), moved.lng, moved.lat) < 1e-6  # type: ignore[arg-type]


def test_heading_follows_the_meridians_when_the_centre_moves() -> None:
    frame = Frame.upright(0, 70, 1000)
    moved = frame.warped(np.array([[1, 0, 0.5], [0, 1, 0], [0, 0, 1.0]]))  # 500 km to the east
    assert moved.heading == pytest.approx(np.sin(np.radians(70)) * moved.lng, abs=0.5)


def test_frame_seen_from_behind_is_not_plausible() -> None:
    mirrored = Frame(0, 0, Frame.upright(0, 0, 100).matrix @ np.diag([-1.0, 1.0, 1.0]))
    horizon = Frame(0, 0, Frame.upright(0, 0, 100).matrix @ np.array([[1, 0, 0], [0, 1, 0], [0, 1.9, 1.0]]))
    assert not mirrored.is_plausible
    assert not horizon.is_plausible


def test_homography_of_four_pairs_is_exact() -> None:
    matrix = np.array([[2, 0.3, 5], [-0.1, 1.5, -4], [0.1, -0.2, 1]])
    targets = (matrix @ np.stack([*CORNERS.T, np.ones(4)])).T
    assert np.allclose(homography_of(CORNERS, targets[:, :2] / targets[:, 2:]), matrix)


def test_pixel_centres_continue_into_the_margin() -> None:
    u, v = pixel_centres(4, margin=1)
    assert u[0].tolist() == v[:, 0].tolist() == [-0.625, -0.375, -0.125, 0.125, 0.375, 0.625]
