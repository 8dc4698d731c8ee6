"""Regions compared with shapely's areas of overlap, tile by tile, and regions from untrusted GeoJSON."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import RegionError
from retrieval.geo import region as region_module
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


def test_overlapping_polygons_are_accepted_unless_they_cross_too_often() -> None:
    pair = [{"type": "Feature", "geometry": polygon(ring(x, 0, x + 20, 20))} for x in (0, 10)]
    region = Region.of_geojson({"type": "FeatureCollection", "features": pair})
    assert region.contains(np.array([5.0, 15.0, 25.0, 35.0]), np.full(4, 10.0)).tolist() == [True, True, True, False]
    many = [polygon(ring(x, 0, x + 20, 20)) for x in range(17)]
    region = Region.of_geojson({"type": "GeometryCollection", "geometries": many})
    assert region.contains(np.array([1.0, 35.0, 37.0]), np.full(3, 10.0)).tolist() == [True, True, False]
    across = [polygon(ring(-80, y / 2, 80, y / 2 + 0.1)) for y in range(40)]
    along = [polygon(ring(x / 2, -80, x / 2 + 0.1, 80)) for x in range(40)]
    with pytest.raises(RegionError, match="cross too often to be repaired or merged"):
        Region.of_geojson({"type": "GeometryCollection", "geometries": across + along})


def test_many_polygons_that_share_borders_are_accepted() -> None:
    squares = [polygon(ring(x, y, x + 1, y + 1)) for x in range(16) for y in range(16)]
    region = Region.of_geojson({"type": "GeometryCollection", "geometries": squares})
    assert region.bounds == (0, 0, 16, 16)
    assert len(region.wkb) == 1


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
        (polygon(), "no polygon with area"),
        (polygon([[0, 0], [1, 1], [0, 0]]), "4 positions"),
        (polygon([[0, 0], [0, 1], [0, 2], [0, 0]]), "no polygon with area"),
        (polygon(ring(0, 86, 10, 89)), "covers no tile: the Web-Mercator square"),
        ({"type": "MultiPolygon", "coordinates": [7]}, "list of rings"),
        (polygon(ring(0, 0, 10, 95)), "not on Earth"),
        ('{"type": "Polygon", "coordinates": [[[NaN, 0], [1, 0], [1, 1], [NaN, 0]]]}', "not on Earth"),
        (polygon([[0, 0], ["1", 0], [1, 1], [0, 0]]), "lng, lat"),
        (polygon([[0, 0], [10**400, 0], [1, 1], [0, 0]]), "lng, lat"),
        (polygon(ring(-200, 0, 200, 10)), "more than the Earth"),
        (nested(40), "nested too deeply"),
        ({"type": "MultiPolygon", "coordinates": [[ring(0, 0, 1, 1)]] * 300}, "more than 256 polygons"),
        (polygon([[0, 0], *([[1, 1], [1, 2]] * 6000), [0, 0]]), "more than 10000 positions"),
        ("9" * 1_000_001, "longer than 1000000"),
    ],
)
def test_bad_geojson_is_refused_with_its_reason(value: Any, words: str) -> None:
    with pytest.raises(RegionError, match=words):
        Region.of_geojson(value)


def star(points: int) -> list[list[float]]:
    """A closed ring whose edges all cross one another, almost."""
    angles = np.pi * (points - 1) / points * np.arange(points + 1)
    return np.stack([40 * np.cos(angles), 40 * np.sin(angles)], axis=1).tolist()


@pytest.mark.parametrize("points", [61, 2_001, 6_001])
def test_polygon_that_crosses_itself_too_often_is_refused_before_a_repair(
    points: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shapely, "make_valid", None)
    with pytest.raises(RegionError, match="cross too often to be repaired"):
        Region.of_geojson(polygon(star(points)))


def test_crossings_are_counted_over_all_polygons_of_a_request() -> None:
    stars = [[[[x / 9 + i, y / 9] for x, y in star(31)]] for i in range(10)]
    assert Region.of_geojson({"type": "MultiPolygon", "coordinates": stars[:1]}).notes
    with pytest.raises(RegionError, match="cross too often to be repaired"):
        Region.of_geojson({"type": "MultiPolygon", "coordinates": stars})


def test_repair_keeps_what_a_ring_goes_round_twice() -> None:
    twice = [*ring(0, 0, 20, 20), [5, 5], [15, 5], [15, 15], [5, 15], [5, 5], [0, 0]]
    region = Region.of_geojson(polygon(twice))
    assert "it was repaired" in region.notes[0]
    assert region.contains(np.array([1.0, 10.0, 21.0]), np.array([1.0, 10.0, 10.0])).tolist() == [True, True, False]


GOOD = polygon(ring(0, 0, 10, 10))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([polygon()], "1 polygons without coordinates"),
        ([polygon([])], "1 polygons without coordinates"),
        ([{"type": "MultiPolygon", "coordinates": []}], "1 polygons without coordinates"),
        ([{"type": "MultiPolygon", "coordinates": [[], [ring(2, 2, 3, 3)]]}], "1 polygons without coordinates"),
        ([polygon(ring(2, 2, 3, 3), [])], "1 holes without coordinates"),
        ([polygon([[0, 0], [0, 1], [0, 2], [0, 0]])] * 3, "3 polygons without area"),
        ([{"type": "Feature", "geometry": None}], "1 features without a geometry"),
        ([{"type": "Point", "coordinates": [1, 2]}, {"type": "LineString", "coordinates": []}], "2 points and lines"),
    ],
)
def test_members_without_area_are_left_out_with_a_note(tmp_path: Path, members: list[Any], words: str) -> None:
    """In a request and in a file alike."""
    document = {"type": "GeometryCollection", "geometries": [*members, GOOD]}
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(document))
    for region in (Region.of_geojson(json.dumps(document)), Region.from_file(path)):
        assert words in region.notes[-1]
        assert region.bounds == (0, 0, 10, 10)


@pytest.mark.parametrize("name", ["EPSG:3857", "urn:ogc:def:crs:EPSG::2056", "http://example.org/32632", "4327", ""])
@pytest.mark.parametrize("nested", [False, True])
def test_other_coordinate_systems_are_refused_by_name(tmp_path: Path, name: str, nested: bool) -> None:
    """Also where the numbers would pass for degrees."""
    crs = {"crs": {"type": "name", "properties": {"name": name}}}
    feature = {"type": "Feature", "geometry": GOOD | (crs if nested else {})}
    document = {"type": "FeatureCollection", "features": [feature]} | ({} if nested else crs)
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(document))
    for read in (lambda: Region.of_geojson(json.dumps(document)), lambda: Region.from_file(path)):
        with pytest.raises(RegionError, match=f'coordinate system "{name}"'):
            read()


@pytest.mark.parametrize(
    "crs",
    [
        {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}},
        {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::4326"}},
        {"type": "name", "properties": {"name": "http://www.opengis.net/def/crs/OGC/1.3/CRS84"}},
        {"type": "EPSG", "properties": {"code": 4326}},
        "EPSG:4326",
        None,
    ],
)
def test_names_of_degrees_are_accepted(crs: Any) -> None:
    assert Region.of_geojson(GOOD | {"crs": crs}).bounds == (0, 0, 10, 10)


@pytest.mark.parametrize("crs", [{"type": "link", "properties": {}}, {"type": "EPSG"}, [4326], {"a": [[[]]] * 400}])
def test_crs_without_a_name_is_refused(crs: Any) -> None:
    with pytest.raises(RegionError, match="coordinate system"):
        Region.of_geojson(GOOD | {"crs": crs})


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    text = "\ufeff" + json.dumps(GOOD)
    (tmp_path / "area.geojson").write_text(text, encoding="utf-8")
    assert Region.of_geojson(text) == Region.of_geojson(text.encode()) == Region.of_geojson(GOOD)
    assert Region.from_file(tmp_path / "area.geojson").bounds == (0, 0, 10, 10)


def test_edge_the_long_way_round_is_noted_and_notes_are_few() -> None:
    long = [polygon(ring(170, -y - 1, -170, -y)) for y in range(40)]
    notes = Region.of_geojson({"type": "GeometryCollection", "geometries": long[:1]}).notes
    assert "within: the edge from longitude 170 to -170 was read as the long way round" in notes[0]
    many = [*long, polygon(BOW), polygon(ring(0, 0, 1, 89)), *(polygon(star(n)) for n in (5, 7, 9))]
    assert len(Region.of_geojson({"type": "GeometryCollection", "geometries": many}).notes) <= 6


def test_deep_value_is_quoted_in_part() -> None:
    deep: list[Any] = []
    for _ in range(900):
        deep = [deep]
    with pytest.raises(RegionError, match=r"not \[\[\[.*\.\.\."):
        Region.of_geojson({"type": "MultiPolygon", "coordinates": [[deep]]})


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "area.geojson"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(RegionError, match="not a regular file"):
        Region.from_file(path)


def test_files_are_bounded_in_bytes_and_positions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(polygon(star(5))) + " " * 2000)
    monkeypatch.setattr(region_module, "FILE", replace(region_module.FILE, bytes=1000))
    with pytest.raises(RegionError, match="longer than 1000 bytes"):
        Region.from_file(path)
    monkeypatch.setattr(region_module, "FILE", replace(region_module.FILE, bytes=10_000, positions=5))
    with pytest.raises(RegionError, match="more than 5 positions"):
        Region.from_file(path)


def test_polygons_of_a_file_that_cross_too_often_are_refused_before_they_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [(80 * np.cos(a), 80 * np.sin(a)) for a in np.linspace(0, np.pi, 700, endpoint=False)]
    spikes = [polygon([[-x, -y], [x, y], [x + 0.01, y + 0.01], [-x, -y]]) for x, y in turns]
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps({"type": "GeometryCollection", "geometries": spikes}))
    monkeypatch.setattr(shapely, "union_all", None)
    with pytest.raises(RegionError, match="cross too often to be repaired or merged"):
        Region.from_file(path)


def test_large_polygon_whose_edges_lie_across_one_another_is_refused_before_it_is_checked(tmp_path: Path) -> None:
    """A comb without any crossing, whose check takes the square of its 20,000 positions."""
    steps = np.arange(10_000) * 1e-5
    comb = np.empty((20_000, 2))
    comb[0::2], comb[1::2] = np.stack([steps, 0 * steps], 1), np.stack([steps + 40, 0 * steps + 40], 1)
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(polygon([*comb.tolist(), [60, 0], [0, -1], comb[0].tolist()])))
    with pytest.raises(RegionError, match="too close to be compared"):
        Region.from_file(path)


@pytest.mark.parametrize("outside", [ring(0, 0, 10, 10), ring(60, 20, 65, 28), ring(60, 28, 62, 30)])
def test_hole_outside_its_polygon_adds_no_area(outside: list[list[float]]) -> None:
    region = Region.of_geojson(json.dumps(polygon(ring(50, 20, 60, 28), outside, ring(52, 22, 54, 24))))
    expected = shapely.Polygon(ring(50, 20, 60, 28), [ring(52, 22, 54, 24)])
    assert shapely.union_all(region._pieces).symmetric_difference(expected).area < 1e-9
    assert region.notes


def test_hole_across_the_edge_adds_no_area() -> None:
    region = Region.of_geojson(json.dumps(polygon(ring(50, 20, 60, 28), ring(55, 22, 65, 26))))
    expected = shapely.Polygon(ring(50, 20, 60, 28)).difference(shapely.Polygon(ring(55, 22, 65, 26)))
    assert shapely.union_all(region._pieces).symmetric_difference(expected).area < 1e-9


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{"type": "Feature"}\n{"type": "Feature"}\n', "newline-delimited GeoJSON"),
        (b'\x1e{"type": "Feature"}\n', "GeoJSON text sequence"),
        (b"\xef\xbb\xbf <?xml version='1.0'?><kml/>", "XML, such as KML"),
        (b"POLYGON ((1 2, 3 4, 5 6, 1 2))", "WKT"),
        (b"\x1f\x8b\x08\0", "gzip data"),
        (b"PK\x03\x04", "zip file"),
        (b"SQLite format 3\0", "GeoPackage"),
        (b"\0\0\x27\x0a\0\0", "shapefile"),
    ],
)
def test_other_formats_of_polygons_are_named(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "area.json").write_bytes(data)
    with pytest.raises(RegionError, match=rf"area\.json is not JSON but .*{words}.*ogr2ogr"):
        Region.from_file(tmp_path / "area.json")
