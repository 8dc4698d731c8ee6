"""Regions compared with shapely's areas of overlap, tile by tile, and regions from untrusted GeoJSON."""

import json
import time
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import RegionError
from retrieval.geo.region import Region
from tile_cache.addressing import bounds_of_codes, code_of_tile, codes_at, tile_at


def ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def shared_area(geometry: Any, zoom: int, codes: np.ndarray) -> np.ndarray:
    """The area in square degrees that each tile shares with a geometry; its longitudes may run beyond 180."""
    west, south, east, north = bounds_of_codes(codes, zoom)
    return sum(
        shapely.area(shapely.intersection(geometry, shapely.box(west + d, south, east + d, north)))
        for d in (-360, 0, 360)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-2499, 2499), st.integers(-579, 579)), min_size=3, max_size=7, unique=True),
    st.integers(0, 5),
    st.booleans(),
)
def test_tiles_meet_where_they_share_area(points: list[tuple[int, int]], zoom: int, holed: bool) -> None:
    """For any shape, over the date line or not, with a hole or without."""
    hull = shapely.convex_hull(shapely.MultiPoint([(x / 7, y / 7) for x, y in points]))
    if hull.area < 1 or hull.bounds[2] - hull.bounds[0] > 355:
        return
    hole = shapely.affinity.scale(hull, 0.5, 0.5, origin="centroid")
    shape = shapely.Polygon(hull.exterior.coords, [hole.exterior.coords] if holed else [])
    region = Region.of_geojson(json.dumps(shapely.geometry.mapping(shape)))
    codes = np.arange(4**zoom, dtype=np.uint64)
    area, met = shared_area(shape, zoom, codes), region.meets(codes, zoom)
    assert met[area > 1e-6].all()
    assert not met[area == 0].any()
    for code in codes[met & (area > 1e-6)][:8]:
        place = region.inside(int(code), zoom)
        assert place is not None
        assert codes_at(*(np.array([v]) for v in place), zoom)[0] == code
        assert region.contains(*(np.array([v]) for v in place)).all()


def test_small_region_meets_the_deep_tiles_at_its_corners() -> None:
    region = Region.of_geojson(polygon(ring(8.54, 47.36, 8.56, 47.38)))
    corners = [code_of_tile(tile_at(lng, lat, 16)) for lng in (8.5401, 8.5599) for lat in (47.3601, 47.3799)]
    beyond = code_of_tile(tile_at(8.57, 47.37, 16))
    assert region.meets(np.array([*corners, beyond], dtype=np.uint64), 16).tolist() == [True] * 4 + [False]


def test_tile_that_only_touches_an_edge_is_not_met() -> None:
    """The region is a tile's rectangle, so the neighbours share only edges and corners with it."""
    west, south, east, north = (float(v[0]) for v in bounds_of_codes(np.array([27], dtype=np.uint64), 3))
    region = Region.of_geojson(polygon(ring(west, south, east, north)))
    assert np.flatnonzero(region.meets(np.arange(64, dtype=np.uint64), 3)).tolist() == [27]


def test_both_ways_to_write_a_date_line_polygon_give_one_region() -> None:
    on = Region.of_geojson(polygon(ring(170, -10, 190, 10)))
    cut = Region.of_geojson(
        {"type": "MultiPolygon", "coordinates": [[ring(170, -10, 180, 10)], [ring(-180, -10, -170, 10)]]}
    )
    codes = np.arange(4**5, dtype=np.uint64)
    assert (on.meets(codes, 5) == cut.meets(codes, 5)).all()
    assert on.contains(np.array([175.0, -175.0, 0.0]), np.zeros(3)).tolist() == [True, True, False]


def test_equal_regions_are_equal_and_hash_alike() -> None:
    one, same = (Region.of_geojson(polygon(ring(0, 0, 1, 1))) for _ in range(2))
    other = Region.of_geojson(polygon(ring(0, 0, 1, 2)))
    assert one == same
    assert hash(one) == hash(same)
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one != other


def test_few_overlapping_polygons_are_accepted_and_many_refused() -> None:
    pair = [{"type": "Feature", "geometry": polygon(ring(x, 0, x + 20, 20))} for x in (0, 10)]
    region = Region.of_geojson({"type": "FeatureCollection", "features": pair})
    assert region.contains(np.array([5.0, 15.0, 25.0, 35.0]), np.full(4, 10.0)).tolist() == [True, True, True, False]
    many = [{"type": "Feature", "geometry": polygon(ring(x, 0, x + 20, 20))} for x in range(17)]
    with pytest.raises(RegionError, match="overlap"):
        Region.of_geojson({"type": "FeatureCollection", "features": many})


def nested(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = polygon(ring(0, 0, 1, 1))
    for _ in range(depth):
        node = {"type": "GeometryCollection", "geometries": [node]}
    return node


BOW = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("not json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "not GeoJSON"),
        ({"type": "Point", "coordinates": [0, 0]}, "no polygon"),
        ({"type": "Circle"}, "not a GeoJSON type"),
        ({"type": "Polygon"}, "list of coordinates"),
        (polygon(), "at least one ring"),
        (polygon([[0, 0], [1, 1], [0, 0]]), "4 positions"),
        (polygon([[0, 0], [0, 1], [0, 2], [0, 0]]), "not simple|no area"),
        (polygon(BOW), "not simple"),
        (polygon(ring(0, 86, 10, 89)), "no polygon with area"),
        (polygon(ring(0, 0, 10, 95)), "not on Earth"),
        ('{"type": "Polygon", "coordinates": [[[NaN, 0], [1, 0], [1, 1], [NaN, 0]]]}', "not on Earth"),
        (polygon([[0, 0], ["1", 0], [1, 1], [0, 0]]), "lng, lat"),
        (polygon([[0, 0], [10**400, 0], [1, 1], [0, 0]]), "lng, lat"),
        (polygon(ring(-200, 0, 200, 10)), "more than the Earth"),
        (nested(40), "nested too deeply"),
        ({"type": "MultiPolygon", "coordinates": [[ring(0, 0, 1, 1)]] * 300}, "more than 256 polygons"),
        (polygon([[0, 0], *([[1, 1], [1, 2]] * 6000), [0, 0]]), "more than 10000 positions"),
        ("9" * 1_000_001, "at most 1000000"),
    ],
)
def test_bad_geojson_is_refused_with_its_reason(value: Any, words: str) -> None:
    with pytest.raises(RegionError, match=words):
        Region.of_geojson(value)


def test_hostile_polygon_is_refused_quickly() -> None:
    """The largest polygon that is read, with as many self-crossings as possible, is refused within two seconds."""
    teeth = [[x / 30, 80 * (-1) ** x] for x in range(4999)]
    across = [[80 * (-1) ** x, x / 60] for x in range(4999)]
    started = time.process_time()
    with pytest.raises(RegionError, match="not simple"):
        Region.of_geojson(polygon([[0, 0], *teeth, *across, [0, 0]]))
    assert time.process_time() - started < 2
