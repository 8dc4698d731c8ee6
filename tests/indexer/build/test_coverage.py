"""Coverage against a brute-force test of every tile of a zoom with shapely."""

import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.build.coverage import Coverage, Land, check_zooms, codes_of_runs, neighbours
from indexer.errors import CoverageError
from retrieval.errors import RegionError
from retrieval.geo.region import Region
from tile_cache.addressing import MAX_LATITUDE, bounds_of_codes, code_of_tile, parents_of_codes, tile_at, tile_of_code
from tile_cache.source import LandAware

ZOOMS = (0, 2, 5)


class Islands:
    """A LandAware source whose land is a set of zoom-6 tiles; exact at every zoom."""

    def __init__(self, codes: list[int]) -> None:
        self.cells = np.zeros(4**6, dtype=np.float64)
        self.cells[codes] = 1

    def land_fraction(self, codes: np.ndarray, z: int) -> np.ndarray:
        if z > 6:
            return self.cells[parents_of_codes(codes, z - 6).astype(np.int64)].astype(np.float32)
        return self.cells.reshape(4**z, -1).mean(axis=1)[codes.astype(np.int64)].astype(np.float32)


def all_codes(coverage: Coverage, z: int, reach: int = 0) -> list[int]:
    return [int(c) for chunk in coverage.chunks(z, reach, size=37) for c in chunk]


def brute_force(geometry: object, z: int) -> list[int]:
    """Tiles that share area, each tested by intersecting polygons; slivers under 1e-9 degrees do not count."""
    west, south, east, north = bounds_of_codes(np.arange(4**z, dtype=np.uint64), z)
    shared = shapely.intersection(geometry, shapely.box(west, south, east, north))
    wide = shapely.bounds(shared)
    return [int(i) for i in np.flatnonzero((wide[:, 2] - wide[:, 0] > 3e-9) & (wide[:, 3] - wide[:, 1] > 3e-9))]


def degrees(low: float, high: float) -> st.SearchStrategy[float]:
    """Numbers of degrees that are never a tile's edge, where brute force and coverage may differ by rounding."""
    return st.floats(low + 1e-6, high - 1e-6).map(lambda v: round(v, 6) + 3e-7)


boxes = st.tuples(degrees(-180, 180), degrees(-90, 89), degrees(-180, 180), degrees(0.001, 90)).filter(
    lambda b: abs(b[0] - b[2]) > 1e-6 and b[1] < 85 and b[1] + b[3] > -85
)


@settings(max_examples=60, deadline=None)
@given(boxes)
def test_bbox_covers_what_brute_force_finds(box: tuple[float, float, float, float]) -> None:
    west, south, east, north = box[0], box[1], box[2], min(90, box[1] + box[3])
    coverage = Coverage.of(ZOOMS, Region.from_bbox(west, south, east, north))
    spans = [(west, east)] if west < east else [(west, 180), (-180, east)]
    geometry = shapely.union_all([shapely.box(w, south, e, north) for w, e in spans])
    for z in ZOOMS:
        assert all_codes(coverage, z) == brute_force(geometry, z)
        assert coverage.count(z) == len(all_codes(coverage, z))


triangles = st.lists(
    st.tuples(st.integers(-1190, 1190), st.integers(-560, 560)).map(lambda p: (p[0] / 7, p[1] / 7)),
    min_size=3,
    max_size=3,
).filter(lambda p: shapely.Polygon(p).area > 1e-3)


@settings(max_examples=60, deadline=None)
@given(triangles, st.integers(0, 2))
def test_polygons_and_their_margins_equal_brute_force(points: list[tuple[float, float]], reach: int) -> None:
    hole = shapely.affinity.scale(shapely.Polygon(points), 0.5, 0.5)
    shape = shapely.Polygon(points, [hole.exterior.coords])
    region = Region.of_geometry(shapely.MultiPolygon([shape]))
    coverage = Coverage.of(ZOOMS, region)
    for z in ZOOMS:
        plain = brute_force(shape, z)
        assert all_codes(coverage, z) == plain
        near = np.unique(neighbours(np.array(plain, dtype=np.uint64), z, reach))
        assert all_codes(coverage, z, reach) == near.tolist()
        assert coverage.count(z, reach) == len(near)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 4**6 - 1), max_size=40), st.sampled_from([0.001, 0.03, 0.2, 1.0]), st.integers(0, 1))
def test_land_keeps_enough_land_and_every_ancestor(cells: list[int], fraction: float, reach: int) -> None:
    islands = Islands(cells)
    assert isinstance(islands, LandAware)
    coverage = Coverage.of((1, 3, 5, 7), Region.world(), land=Land(islands, fraction, "islands"))
    expected: set[int] = set()
    for z in reversed(coverage.zooms):
        every = np.arange(4**z, dtype=np.uint64)
        own = every[islands.land_fraction(every, z) >= fraction]
        expected = {c >> 4 for c in expected} | {int(c) for c in own}
        assert all_codes(coverage, z) == sorted(expected)
        near = np.unique(neighbours(np.array(sorted(expected), dtype=np.uint64), z, reach))
        assert all_codes(coverage, z, reach) == near.tolist()


def test_thinning_keeps_only_the_deep_region_from_zoom_10(tmp_path: Path) -> None:
    wide, narrow = Region.from_bbox(0, 0, 20, 20), Region.from_bbox(19, 19, 30, 30)
    coverage = Coverage.of((8, 9, 10, 12), wide, deep=narrow)
    only = Coverage.of((8, 9, 10, 12), Region.from_bbox(19, 19, 20, 20))
    assert all_codes(coverage, 9) == all_codes(Coverage.of((9,), wide), 9)
    assert all_codes(coverage, 10) == all_codes(only, 10)
    assert all_codes(coverage, 12) == all_codes(only, 12)
    with pytest.raises(RegionError, match="shares no area"):
        Coverage.of((8, 10), wide, deep=Region.from_bbox(30, 30, 40, 40))


def test_world_at_zoom_16_is_counted_without_enumerating_tiles() -> None:
    coverage = Coverage.of((4, 16), Region.world())
    assert coverage.count(16) == 4**16
    first = next(iter(coverage.chunks(16, size=5)))
    assert first.tolist() == [0, 1, 2, 3, 4]


def test_long_boundaries_are_split_into_blocks_in_order() -> None:
    # A thin band: two boundaries along the whole parallel are far more cells than one block holds.
    coverage = Coverage.of((16,), Region.from_bbox(-180, 0.5, 180, 0.6))
    last, total = -1, 0
    for runs in coverage.runs(16):
        flat = runs.reshape(-1).astype(np.int64)
        assert (np.diff(flat) > 0).all()
        assert flat[0] > last if len(flat) else True
        last, total = int(flat[-1]) - 1, total + int((runs[:, 1] - runs[:, 0]).sum())
    rows = tile_at(0, 0.5, 16).y - tile_at(0, 0.6, 16).y + 1
    assert total == rows * 2**16


def test_bbox_that_ends_on_tile_edges_covers_no_neighbour() -> None:
    west, south, east, north = bounds_of_codes(np.array([code_of_tile(tile_at(10, 10, 6))], dtype=np.uint64), 6)
    coverage = Coverage.of((6, 8), Region.from_bbox(west[0], south[0], east[0], north[0]))
    assert coverage.count(6) == 1
    assert coverage.count(8) == 16


def test_bbox_crosses_the_date_line() -> None:
    coverage = Coverage.of((3,), Region.from_bbox(170, -10, -170, 10))
    assert {tile_of_code(c, 3).x for c in all_codes(coverage, 3)} == {0, 7}
    near = {tile_of_code(c, 3).x for c in all_codes(coverage, 3, 1)}
    assert near == {6, 7, 0, 1}


def test_poles_are_clipped_with_a_note() -> None:
    region = Region.from_bbox(-180, 80, 180, 90)
    assert "clipped" in region.notes[0]
    assert {tile_of_code(c, 4).y for c in all_codes(Coverage.of((4,), region), 4)} == {0, 1}
    with pytest.raises(RegionError, match="covers no tile"):
        Region.from_bbox(0, 86, 10, 90)
    assert Region.from_bbox(0, -MAX_LATITUDE, 10, MAX_LATITUDE).notes == ()


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0, 10, 20, 10), "no height"),
        ((0, 20, 20, 10), "south 20 is greater"),
        ((5, 0, 5, 10), "no width"),
        ((180, 0, -180, 10), "no width"),
        ((-190, 0, 5, 10), "-180 to 180"),
        ((0, 0, 5, 91), "-90 to 90"),
        ((0, float("nan"), 5, 9), "south is nan"),
        ((0, 86, 10, 90), "covers no tile"),
        ((0, -90, 10, -86), "covers no tile"),
    ],
)
def test_bad_bounding_boxes_are_refused(box: tuple[float, float, float, float], words: str) -> None:
    with pytest.raises(RegionError, match=words):
        Region.from_bbox(*box)


@pytest.mark.parametrize(
    ("zooms", "words"),
    [([], "no zooms"), ([8, 6], "ascend"), ([4, 4], "ascend"), ([4, 99], "99"), ([-1], "-1"), ([True], "True")],
)
def test_bad_zooms_are_refused(zooms: list[int], words: str) -> None:
    with pytest.raises(CoverageError, match=words):
        check_zooms(zooms)


def ring(west: float, south: float, east: float, north: float) -> list[list[float]]:
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def geojson(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "area.geojson"
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("east", ["beyond", "cut"])
def test_geojson_across_the_date_line(tmp_path: Path, east: str) -> None:
    beyond = {"type": "Polygon", "coordinates": [ring(170, -10, 190, 10)]}
    cut = {"type": "MultiPolygon", "coordinates": [[ring(170, -10, 180, 10)], [ring(-180, -10, -170, 10)]]}
    path = geojson(tmp_path, {"type": "Feature", "geometry": beyond if east == "beyond" else cut, "properties": None})
    region, box = Region.from_file(path), Region.from_bbox(170, -10, -170, 10)
    for z in (3, 6):
        assert all_codes(Coverage.of((z,), region), z) == all_codes(Coverage.of((z,), box), z)


def test_geojson_hole_and_collection(tmp_path: Path) -> None:
    holed = {"type": "Polygon", "coordinates": [ring(-60, -60, 60, 60), ring(-30, -50, 30, 50)]}
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [100, 0]}}
    nothing = {"type": "Feature", "geometry": None}
    collection = {"type": "FeatureCollection", "features": [point, nothing, {"type": "Feature", "geometry": holed}]}
    codes = all_codes(Coverage.of((6,), Region.from_file(geojson(tmp_path, collection))), 6)
    assert code_of_tile(tile_at(0, 0, 6)) not in codes
    assert code_of_tile(tile_at(45, 0, 6)) in codes
    assert code_of_tile(tile_at(100, 0, 6)) not in codes


def test_geojson_edge_the_long_way_round_gets_a_note(tmp_path: Path) -> None:
    region = Region.from_file(geojson(tmp_path, {"type": "Polygon", "coordinates": [ring(170, -10, -170, 10)]}))
    assert "write 190 instead of -170" in " ".join(region.notes)


def test_geojson_that_crosses_itself_is_repaired(tmp_path: Path) -> None:
    bow = [[0, 0], [40, 40], [40, 0], [0, 40], [0, 0]]
    region = Region.from_file(geojson(tmp_path, {"type": "Polygon", "coordinates": [bow]}))
    assert "repaired" in region.notes[0]
    assert Coverage.of((6,), region).count(6) > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<html>", "not JSON"),
        ("\xff\xfe", "not JSON"),
        ("[1, 2]", "not GeoJSON"),
        ('{"type": "Banana"}', "Banana"),
        ('{"type": "FeatureCollection"}', "features"),
        ('{"type": "FeatureCollection", "features": []}', "no polygon"),
        ('{"type": "Point", "coordinates": [1, 2]}', "no polygon"),
        ('{"type": "Polygon", "coordinates": []}', "no polygon with area"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}', "4 positions"),
        ('{"type": "Polygon", "coordinates": [["a", "b", "c", "d"]]}', "lng, lat"),
        ('{"type": "Polygon", "coordinates": [["10", "20", "31", "10"]]}', "lng, lat"),
        ('{"type": "Polygon", "coordinates": [[[1' + "0" * 400 + ", 5], [11, 9], [11, 6], [10, 5]]]}", "lng, lat"),
        ('{"type":"GeometryCollection","geometries":[' * 450 + "]}" * 450, "nested too deeply|no polygon"),
        ('{"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [2, 0], [0, 0]]]}', "no polygon with area"),
        (
            '{"type": "Polygon", "coordinates": [[[10, 95], [11, 95], [11, 96], [10, 95]]]}',
            r"\[10, 95\] is not on Earth",
        ),
        ('{"type": "Polygon", "coordinates": [[[1e400, 5], [11, 9], [11, 6], [10, 5]]]}', "not on Earth"),
    ],
)
def test_bad_geojson_is_refused_and_the_file_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "bad.geojson"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RegionError, match=words) as caught:
        Region.from_file(path)
    assert "bad.geojson" in str(caught.value)


def test_missing_geojson_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegionError, match="No such file"):
        Region.from_file(tmp_path / "none.geojson")


def test_runs_of_billions_are_chunked_lazily() -> None:
    runs = np.array([[5, 7], [10, 2**32]], dtype=np.uint64)
    chunk = next(iter(codes_of_runs([runs], 4)))
    assert chunk.tolist() == [5, 6, 10, 11]


def test_identity_depends_on_the_area_alone() -> None:
    first, second = Region.from_bbox(0, 0, 10, 10), Region.from_bbox(0, 0, 10, 10)
    assert Coverage.of((4,), first).identity == Coverage.of((4,), second).identity
    assert Coverage.of((4,), first).identity != Coverage.of((4, 6), first).identity
    assert Coverage.of((4,), first).identity != Coverage.of((4,), Region.from_bbox(0, 0, 10, 10.1)).identity
