"""The grid of canvases, and its cache."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noise_earth import NoiseEarth

from retrieval.registration.canvases import (
    EDGES_KM,
    CanvasCache,
    Cell,
    cells_near,
    cells_of,
    cells_with,
    draw,
    packed,
    unpacked,
)
from retrieval.registration.geometry import plane

EARTH = NoiseEarth()


@settings(max_examples=200)
@given(st.integers(0, len(EDGES_KM) - 1), st.floats(-180, 180), st.floats(-90, 90))
def test_every_place_fits_into_a_cell(scale: int, lng: float, lat: float) -> None:
    cells = cells_near(scale, lng, lat, 0)
    away = [np.abs(plane(c.lng, c.lat, np.array([lng]), np.array([lat]))).max() / c.edge_km for c in cells]
    assert min(away) <= 1.5


def test_cells_of_all_scales_cover_the_earth_about_once() -> None:
    for scale, edge in enumerate(EDGES_KM):
        lng, lat = cells_of(scale)
        assert 1.0 < len(lng) * (2.8 * edge) ** 2 / 510e6 < 4.5
        assert np.abs(lat).max() < 90
        assert np.abs(lng).max() <= 180


def test_cache_stays_within_its_bytes_and_drops_the_oldest() -> None:
    one = draw(EARTH, Cell(5, 0, 0), 16).nbytes
    cache = CanvasCache(EARTH, 3 * one)
    cells = [Cell(5, float(lng), 0.0) for lng in range(0, 50, 10)]
    for cell in cells:
        cache.canvas(cell, 16)
        cache.canvas(cells[0], 16)  # used again and again
    assert len(cache) == 3
    assert cache.nbytes == 3 * one
    assert cache.canvas(cells[0], 16) is cache.canvas(cells[0], 16)


def test_cache_without_memory_still_draws() -> None:
    cache = CanvasCache(EARTH, 0)
    assert cache.canvas(Cell(5, 0, 0), 16).px == 16
    assert (len(cache), cache.nbytes) == (0, 0)


def test_threads_share_the_cache() -> None:
    cache = CanvasCache(EARTH, 1_000_000)
    cells = [Cell(6, float(lng), 10.0) for lng in range(0, 60, 10)]
    with ThreadPoolExecutor(4) as pool:
        canvases = list(pool.map(lambda i: cache.canvas(cells[i % 6], 16), range(60)))
    assert cache.nbytes <= 1_000_000
    assert cache.nbytes == sum(c.nbytes for c in {id(c): c for c in cache.entries()}.values())
    for i, canvas in enumerate(canvases):
        assert canvas.cell == cells[i % 6]
        assert np.array_equal(canvas.spectra, canvases[i % 6].spectra)


def test_fields_and_canvases_share_the_cache() -> None:
    cache, cell = CanvasCache(EARTH, 1_000_000), Cell(6, 0.0, 10.0)
    canvas = cache.canvas(cell, 16)
    assert cache.field(cell, 16) is canvas.field
    assert cache.field(cell, 32).shape == (128, 128, 2)
    assert cache.nbytes == canvas.nbytes + 128 * 128 * 2


def test_packed_fields_keep_two_digits_and_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    field = (rng.normal(0, 1, (3, 8, 8)) + 1j * rng.normal(0, 1, (3, 8, 8))).astype(np.complex64)
    assert np.abs(unpacked(packed(field)) - field).max() < 0.05
    assert unpacked(packed(field * 100)).real.max() == pytest.approx(6.35)


@pytest.mark.parametrize("lat", [89.9, -89.9])
def test_canvas_at_a_pole_is_finite(lat: float) -> None:
    canvas = draw(EARTH, Cell(5, 0.0, lat), 16)
    assert np.isfinite(canvas.spectra).all()
    assert (canvas.energy >= 0).all()


def test_cells_with_ground_are_those_that_reach_it() -> None:
    cells = cells_with(6, lambda lng, lat: (abs(lng - 20) < 3) & (abs(lat - 10) < 3))
    assert 0 < len(cells) < 12
    at = {(c.lng, c.lat) for c in cells_near(6, 20, 10, 0)}
    assert at <= {(c.lng, c.lat) for c in cells}
    assert cells_with(6, lambda lng, lat: lng > 999) == []
