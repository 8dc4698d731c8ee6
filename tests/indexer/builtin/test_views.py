"""Views of the Earth: which place each pixel shows, at the equator, the poles and the date line."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.builtin.views import Centres, Earth, Views, draw_views
from retrieval.sphere import EARTH_RADIUS_KM
from tile_cache.addressing import codes_at
from tile_cache.bluemarble import BlueMarble

Earths = Callable[..., Earth]
SIZE = 25  # odd, so that one pixel is the centre


def view(lng: float, lat: float, footprint_km: float = 1000, turn: float = 0) -> Views:
    return Views(*(np.array([v], dtype=np.float64) for v in (lng, lat, footprint_km, turn)))


def shown(earth: Earth, one: Views, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Longitudes and latitudes of a view's pixels by the compass's colours, (size, size) degrees each."""
    red, green, blue = earth.draw(one, np.zeros(1, dtype=np.int64), size)[0].double().numpy()
    return np.degrees(np.arctan2(red - 0.5, green - 0.5)), -90 + 180 * (blue * 179 / 180 + 0.5 / 180)


def expected(one: Views, size: int = SIZE) -> np.ndarray:
    """Unit vectors of what lies under each pixel, (size, size, 3), by a walk along great circles."""
    lng, lat, turn = np.radians(one.lng[0]), np.radians(one.lat[0]), np.radians(one.turn[0])
    up = np.array([np.cos(lat) * np.cos(lng), np.cos(lat) * np.sin(lng), np.sin(lat)])
    east = np.array([-np.sin(lng), np.cos(lng), 0])
    north = np.cross(up, east)
    ahead, right = np.cos(turn) * north + np.sin(turn) * east, np.cos(turn) * east - np.sin(turn) * north
    step = ((np.arange(size) + 0.5) / size - 0.5) * one.footprint_km[0] / EARTH_RADIUS_KM
    x, y = step[None, :, None], -step[:, None, None]
    far = np.maximum(np.sqrt(x**2 + y**2), 1e-12)
    return np.cos(far) * up + np.sin(far) / far * (x * right + y * ahead)


@given(st.floats(-180, 180), st.floats(-90, 90), st.floats(200, 2000), st.floats(-180, 180))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_pixel_shows_its_place(earths: Earths, lng: float, lat: float, footprint_km: float, turn: float) -> None:
    """Within a pixel of the raster, which is one degree; next to the poles a degree of longitude is no distance."""
    one = view(lng, lat, footprint_km, turn)
    shown_lng, shown_lat = shown(earths("compass"), one)
    truth = expected(one)
    true_lat = np.degrees(np.arcsin(truth[..., 2].clip(-1, 1)))
    assert np.abs(shown_lat - true_lat).max() < 1
    apart = (shown_lng - np.degrees(np.arctan2(truth[..., 1], truth[..., 0])) + 180) % 360 - 180
    # Bilinear colours between columns of the last row say little about longitude: the row is one point.
    assert np.abs(apart * np.cos(np.radians(true_lat))).max() < 1


@pytest.mark.parametrize("place", [(0, 0), (180, 0), (-180, 0), (179.9, 60), (-120, -75), (30, 85)])
def test_middle_pixel_is_the_centre(earths: Earths, place: tuple[float, float]) -> None:
    lng, lat = shown(earths("compass"), view(*place))
    middle = SIZE // 2
    assert abs(lat[middle, middle] - place[1]) < 0.6
    assert abs((lng[middle, middle] - place[0] + 180) % 360 - 180) < 0.6


@pytest.mark.parametrize("lng", [0, 90, 179.9, -179.9])
def test_east_is_right_and_north_is_up(earths: Earths, lng: float) -> None:
    lngs, lats = shown(earths("compass"), view(lng, 20, 2000))
    assert ((np.diff(lngs[:, ::6], axis=1) + 180) % 360 - 180 > 0).all()
    assert (np.diff(lats[::6], axis=0) < 0).all()


def test_turn_is_clockwise(earths: Earths) -> None:
    """A view turned by 90 degrees has east at its top, as when a map is held by someone who looks east."""
    lngs, lats = shown(earths("compass"), view(10, 0, 2000, 90))
    assert lngs[0, SIZE // 2] > lngs[-1, SIZE // 2] + 10
    assert lats[SIZE // 2, 0] > lats[SIZE // 2, -1] + 10
    upright = shown(earths("compass"), view(10, 0, 2000, 0))
    assert np.allclose(lngs, np.rot90(upright[0]), atol=0.6)


def test_footprint_is_the_edge_in_km(earths: Earths) -> None:
    _, lats = shown(earths("compass"), view(0, 0, 2000))
    between_centres = 2000 * (SIZE - 1) / SIZE / (np.pi / 180 * EARTH_RADIUS_KM)
    assert lats[0, 12] - lats[-1, 12] == pytest.approx(between_centres, abs=0.8)


def test_each_view_has_its_own_product_and_place(earths: Earths) -> None:
    earth = earths("compass", "white")
    views = Views(np.array([0.0, 50.0, 100.0]), np.zeros(3), np.full(3, 500.0), np.zeros(3))
    drawn = earth.draw(views, np.array([1, 0, 1]), 8)
    assert drawn.shape == (3, 3, 8, 8)
    assert drawn.dtype == torch.float32
    assert torch.all(drawn[[0, 2]] == 1)
    assert torch.equal(drawn[1:2], earths("compass").draw(views.take(np.array([1])), np.array([0]), 8))


def test_wide_views_are_averaged(earths: Earths) -> None:
    """A board of black and white pixels is grey from afar: no moiré."""
    drawn = earths("board").draw(view(0, 0, 111.2 * 4 * 32), np.zeros(1, dtype=np.int64), 32)
    assert (drawn - 0.5).abs().max() < 0.02


def test_land_is_where_the_mask_has_it(earths: Earths) -> None:
    land = earths("compass").land(view(0, 0), 24)
    assert land.shape == (1, 1, 24, 24)
    assert torch.all(land[..., :12] == 0)
    assert torch.all(land[..., 12:] == 1)
    across = earths("compass").land(view(180, 0), 24)
    assert torch.all(across[..., :11] == 1)
    assert torch.all(across[..., 13:] == 0)
    assert torch.isfinite(earths("compass").land(view(0, 90), 24)).all()


def test_drawn_views_keep_to_their_ranges() -> None:
    centres, rng = Centres(-60, 78, 8, 0.3), np.random.default_rng(0)
    views = draw_views(centres, 600, (200, 1000), 15, rng)
    assert len(views) == 600
    assert -60 <= views.lat.min() < -30 < 60 < views.lat.max() <= 78
    assert (BlueMarble().land_fraction(codes_at(views.lng, views.lat, 8), 8) >= 0.3).all()
    assert 200 <= views.footprint_km.min() < 215 < 930 < views.footprint_km.max() <= 1000
    assert np.median(views.footprint_km) == pytest.approx(np.sqrt(200 * 1000), rel=0.1)
    assert (views.turn >= -15).all()
    assert (views.turn <= 15).all()
    again = draw_views(centres, 600, (200, 1000), 15, np.random.default_rng(0))
    assert np.array_equal(again.lng, views.lng)
    assert np.array_equal(again.turn, views.turn)
