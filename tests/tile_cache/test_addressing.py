"""Tile addresses: agreement with mercantile and the published formula, edge tiles, and refused values."""

import doctest
import math

import mercantile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tile_cache import addressing as a
from tile_cache.addressing import MAX_ZOOM, Tile
from tile_cache.errors import TileAddressError


@st.composite
def tiles(draw, max_zoom: int = MAX_ZOOM) -> Tile:
    z = draw(st.integers(0, max_zoom))
    return Tile(draw(st.integers(0, 2**z - 1)), draw(st.integers(0, 2**z - 1)), z)


def codes_of(*each: Tile) -> np.ndarray:
    return np.array([a.code_of_tile(t) for t in each], dtype=np.uint64)


def test_examples_in_docstrings():
    results = doctest.testmod(a)
    assert results.attempted >= 2
    assert results.failed == 0


@given(tiles())
def test_code_is_the_quadkey_in_base_4(tile):
    code = a.code_of_tile(tile)
    assert code == int(a.quadkey(tile) or "0", 4)
    assert a.tile_of_code(code, tile.z) == tile


@given(st.lists(st.tuples(st.integers(0, 2**MAX_ZOOM - 1), st.integers(0, 2**MAX_ZOOM - 1)), max_size=50))
def test_morton_round_trip(pairs):
    x, y = (np.array([p[i] for p in pairs], dtype=np.uint32) for i in (0, 1))
    back = a.morton_decode(a.morton_encode(x, y))
    assert np.array_equal(back[0], x)
    assert np.array_equal(back[1], y)


@given(tiles())
def test_bounds_agree_with_mercantile(tile):
    expected = mercantile.bounds(tile)
    arrays = a.bounds_of_codes(codes_of(tile), tile.z)
    assert a.bounds(tile) == pytest.approx(tuple(expected), abs=1e-9)
    assert [v[0] for v in arrays] == pytest.approx(list(expected), abs=1e-9)


@given(tiles())
def test_centre_follows_the_published_formula(tile):
    n = 2**tile.z
    lat = 180 / math.pi * (2 * math.atan(math.exp(2 * math.pi * (0.5 - (tile.y + 0.5) / n))) - math.pi / 2)
    assert a.centre(tile) == pytest.approx((360 * (tile.x + 0.5) / n - 180, lat), abs=1e-9)
    lng_array, lat_array = a.centres_of_codes(codes_of(tile), tile.z)
    assert (lng_array[0], lat_array[0]) == pytest.approx(a.centre(tile), abs=1e-9)


@given(tiles())
def test_tile_contains_its_centre(tile):
    assert a.tile_at(*a.centre(tile), tile.z) == tile


@given(st.floats(-180, 179.999), st.floats(-85, 85), st.integers(0, 20))
def test_tile_of_a_point_agrees_with_mercantile(lng, lat, z):
    tile, expected = a.tile_at(lng, lat, z), mercantile.tile(lng, lat, z)
    if tile != expected:  # on an edge the two may round differently; then the point is on the edge of both tiles
        box = a.bounds(tile)
        assert box.west - 1e-9 <= lng <= box.east + 1e-9
        assert box.south - 1e-9 <= lat <= box.north + 1e-9


@given(tiles(max_zoom=MAX_ZOOM - 2), st.integers(0, 2))
def test_parents_of_children_are_the_tile(tile, step):
    code = codes_of(tile)
    children = a.children_of_codes(code, step)
    assert len(children) == 4**step
    assert np.array_equal(children, np.arange(len(children), dtype=np.uint64) + children[0])
    assert set(a.parents_of_codes(children, step).tolist()) == set(code.tolist())
    if step == 1:
        expected = {a.code_of_tile(t) for t in mercantile.children(tile)}
        assert set(children.tolist()) == expected


@pytest.mark.parametrize("z", [0, 1, 4, 10, MAX_ZOOM])
def test_poles_are_in_the_first_and_last_row(z):
    assert a.tile_at(0, 90, z).y == 0
    assert a.tile_at(0, a.MAX_LATITUDE, z).y == 0
    assert a.tile_at(0, -a.MAX_LATITUDE, z).y == 2**z - 1
    assert a.tile_at(0, -90, z).y == 2**z - 1


@pytest.mark.parametrize("z", [1, 4, 10, MAX_ZOOM])
def test_equator_and_greenwich_are_in_the_south_eastern_tile(z):
    half = 2 ** (z - 1)
    assert a.tile_at(0, 0, z) == Tile(half, half, z)
    assert a.tile_at(-1e-9, 1e-9, 10) == Tile(511, 511, 10)
    assert a.bounds(Tile(half, half, z))[0::3] == pytest.approx((0, 0), abs=1e-12)


@pytest.mark.parametrize("z", [0, 1, 4, 10])
def test_longitude_wraps_at_the_date_line(z):
    last = 2**z - 1
    assert a.tile_at(-180, 10, z).x == 0
    assert a.tile_at(180, 10, z).x == 0, "180 and -180 are one meridian"
    assert a.tile_at(179.999999, 10, z).x == last
    assert a.tile_at(-180.000001, 10, z).x == last
    assert a.tile_at(540, 10, z).x == 0
    assert a.bounds(Tile(0, 0, z)).west == -180
    assert a.bounds(Tile(last, last, z)).east == 180


def test_zoom_0_is_one_tile():
    assert a.quadkey(Tile(0, 0, 0)) == ""
    assert a.bounds(Tile(0, 0, 0)) == pytest.approx((-180, -a.MAX_LATITUDE, 180, a.MAX_LATITUDE))


def test_last_tile_of_the_deepest_zoom_round_trips():
    last = Tile(2**MAX_ZOOM - 1, 2**MAX_ZOOM - 1, MAX_ZOOM)
    assert a.code_of_tile(last) == 4**MAX_ZOOM - 1


@pytest.mark.filterwarnings("ignore:Mercantile 2.0")
@pytest.mark.parametrize(("x", "y"), [(-1, 0), (8, 0), (0, -1), (0, 8), (0.5, 0), (True, 0)])
def test_tile_outside_its_zoom_is_refused(x, y):
    for use in (a.check_tile, a.bounds, a.centre, a.quadkey, a.code_of_tile):
        with pytest.raises(TileAddressError, match="must be from 0 to 7"):
            use(Tile(x, y, 3))


@pytest.mark.parametrize("z", [-1, MAX_ZOOM + 1, 1.0, True, "4"])
def test_zoom_out_of_range_is_refused(z):
    with pytest.raises(TileAddressError, match="zoom"):
        a.check_zoom(z)


@pytest.mark.parametrize("code", [-1, 4**3])
def test_code_outside_its_zoom_is_refused(code):
    with pytest.raises(TileAddressError, match="codes run from 0 to 63"):
        a.tile_of_code(code, 3)


@pytest.mark.parametrize(("lng", "lat"), [(math.nan, 0), (0, math.inf), (0, 90.01), (0, -91)])
def test_point_not_on_earth_is_refused(lng, lat):
    with pytest.raises(TileAddressError, match="is not on Earth"):
        a.codes_at(np.array([1.0, lng]), np.array([1.0, lat]), 4)


def test_a_million_codes_are_fast():
    codes = np.arange(4**10, dtype=np.uint64)
    lng, lat = a.centres_of_codes(codes, 10)
    assert np.array_equal(a.codes_at(lng, lat, 10), codes)
