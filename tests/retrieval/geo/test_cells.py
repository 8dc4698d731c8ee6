"""Intricate regions are compared with tiles in cells: the same tiles as by brute force, cut once, within a bound."""

import json
import math

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import RegionError
from retrieval.geo import region as region_module
from retrieval.geo.polygons import boxes_of
from retrieval.geo.region import Region
from tile_cache.addressing import codes_at


def comb(teeth: int, west: float, width: float, lean: float) -> list[list[list[float]]]:
    """Teeth from south to north, leaning east by `lean` degrees."""
    step = width / teeth
    points = [[west, -80.0]]
    for i in range(teeth):
        x = west + step * i
        points += [[round(x + step * 0.2 + lean, 3), 80.0], [round(x + step * 0.6, 3), -79.0]]
    return [[*points, [west + width + lean + step, -80.0], points[0]]]


def star(spikes: int, lng: float, lat: float, reach: float) -> list[list[list[float]]]:
    corners = []
    for k in range(2 * spikes):
        angle, radius = math.pi * k / spikes, reach if k % 2 else reach / 40
        corners.append([round(lng + radius * math.cos(angle), 3), round(lat + radius * 0.4 * math.sin(angle), 3)])
    return [[*corners, corners[0]]]


def sieve(count: int, lng: float, lat: float, size: float) -> list[list[list[float]]]:
    """A square with `count` squared square holes."""

    def ring(x: float, y: float, side: float) -> list[list[float]]:
        return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]

    step = size / count
    holes = [
        ring(lng + step * (i + 0.3), lat + step * (j + 0.3), step * 0.4) for i in range(count) for j in range(count)
    ]
    return [ring(lng, lat, size), *(hole[::-1] for hole in holes)]


def spiral(points: int, turns: int, reach: float) -> list[list[list[float]]]:
    def arm(offset: float) -> list[list[float]]:
        steps = [(t / points * turns * 2 * math.pi, offset + t / points * reach) for t in range(points)]
        return [[round(2 * r * math.cos(a), 3), round(r * math.sin(a), 3)] for a, r in steps]

    ring = [*arm(0.5), *reversed(arm(0.5 + reach / turns / 3))]
    return [[*ring, ring[0]]]


SHAPES = st.one_of(
    st.builds(comb, st.integers(130, 200), st.floats(-170, -20), st.floats(2, 150), st.floats(0, 20)),
    st.builds(star, st.integers(130, 300), st.floats(-80, 80), st.floats(-30, 30), st.floats(3, 90)),
    st.builds(sieve, st.integers(8, 14), st.floats(-170, 100), st.floats(-70, 10), st.floats(0.5, 60)),
    st.builds(spiral, st.integers(140, 300), st.integers(2, 12), st.floats(5, 75)),
)


def region_of(rings: list[list[list[float]]]) -> Region:
    return Region.of_geojson(json.dumps({"type": "Polygon", "coordinates": rings}))


def tiles_near(region: Region, zoom: int, seed: int) -> np.ndarray:
    """Random tiles of a zoom, most of them where the region has corners."""
    rng = np.random.default_rng(seed)
    corners = np.concatenate([shapely.get_coordinates(piece) for piece in region._pieces])
    lng, lat = corners[rng.integers(0, len(corners), 300)].T + rng.normal(0, 90 / 2**zoom, (2, 300))
    lng, lat = np.clip(lng, -179.9, 179.9), np.clip(lat, -84.9, 84.9)
    return np.unique(np.concatenate([codes_at(lng, lat, zoom), rng.integers(0, 4**zoom, 100).astype(np.uint64)]))


@settings(max_examples=40)
@given(rings=SHAPES, zoom=st.integers(2, 14), seed=st.integers(0, 9))
def test_cells_meet_the_same_tiles_as_the_whole_region(rings: list, zoom: int, seed: int) -> None:
    region = region_of(rings)
    assert region.corners > region_module._INTRICATE
    codes = tiles_near(region, zoom, seed)
    whole = np.logical_or.reduce([shapely.intersects(piece, boxes_of(codes, zoom)) for piece in region._pieces])
    np.testing.assert_array_equal(region.meets_bounded(codes, zoom), whole)
    np.testing.assert_array_equal(region.meets_bounded(codes[:0], zoom), whole[:0])


def test_cells_are_cut_once_for_all_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    region, cuts = region_of(comb(400, -170, 300, 5)), list[int]()
    original = shapely.clip_by_rect
    monkeypatch.setattr(shapely, "clip_by_rect", lambda *a: (cuts.append(1), original(*a))[1])
    codes = np.arange(4**6, dtype=np.uint64)
    first = region.meets_bounded(codes, 6)
    assert 0 < len(cuts) <= 256
    np.testing.assert_array_equal(region.meets_bounded(codes, 6), first)
    assert len(cuts) <= 256


def test_few_corners_are_left_in_each_cell() -> None:
    """Without cells, each tile is compared with all 800 edges, which all lie at its latitudes."""
    region = region_of(comb(400, -170, 300, 0))
    region.meets_bounded(np.arange(4**6, dtype=np.uint64), 6)
    assert max(corners for cells in region._cells for _, corners in cells._cells.values()) < 200


def test_work_beyond_the_limit_is_refused_with_the_corners(monkeypatch: pytest.MonkeyPatch) -> None:
    region = region_of(comb(400, -170, 300, 0))
    monkeypatch.setattr(region_module, "_MAX_WORK", 10_000)
    with pytest.raises(RegionError, match=r"a region of 8\d\d corners .* [\d,]+ tiles of zoom 6 .* use a smaller k"):
        region.meets_bounded(np.arange(4**6, dtype=np.uint64), 6)


def test_ordinary_regions_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapely, "clip_by_rect", None)
    region = region_of(star(60, 10, 10, 30))
    codes = np.arange(4**6, dtype=np.uint64)
    np.testing.assert_array_equal(region.meets_bounded(codes, 6), region.meets(codes, 6))
