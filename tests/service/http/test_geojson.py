"""GeoJSON against RFC 7946: closed counter-clockwise rings, cut at the date line; and the areas of circles."""

import math
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Point, shape

from retrieval.sphere import EARTH_RADIUS_KM
from service.http.geojson import MEDIA_TYPE, cap, preferred


def rings(geometry: dict[str, Any]) -> list[Any]:
    if geometry["type"] == "Polygon":
        return list(geometry["coordinates"])
    return [ring for polygon in geometry["coordinates"] for ring in polygon]


def check(geometry: dict[str, Any]) -> None:
    """Assert the rules of RFC 7946 for a geometry."""
    if geometry["type"] == "Point":
        lon, lat = geometry["coordinates"]
        assert -180 <= lon <= 180
        assert -90 <= lat <= 90
        return
    assert shape(geometry).is_valid
    polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    for polygon in polygons:
        for number, ring in enumerate(polygon):
            assert len(ring) >= 4
            assert ring[0] == ring[-1]
            points = np.array(ring)
            assert (np.abs(points) <= [180, 90]).all()
            x, y = points[:, 0], points[:, 1]
            turning = float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())
            assert (turning > 0) is (number == 0), "outer rings are counter-clockwise, inner ones clockwise"


def area_km2(geometry: dict[str, Any]) -> float:
    """Area by the shoelace formula on an equal-area cylinder: x = longitude, y = sin latitude."""
    total = 0.0
    for ring in rings(geometry):
        points = np.radians(np.array(ring))
        x, y = points[:, 0], np.sin(points[:, 1])
        total += float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)
    return total * EARTH_RADIUS_KM**2


@given(st.floats(-180, 180), st.floats(-85, 85), st.floats(0.5, 19_000))
def test_circle_is_valid_and_has_right_area(lon: float, lat: float, km: float) -> None:
    circle = cap(lon, lat, km)
    check(circle)
    true = 2 * math.pi * EARTH_RADIUS_KM**2 * (1 - math.cos(km / EARTH_RADIUS_KM))
    assert area_km2(circle) == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize(
    ("lon", "lat", "km", "parts"),
    [(0, 0, 500, 1), (179.9, 10, 500, 2), (-180, -40, 300, 2), (180, 0, 1, 2), (0, 85, 1000, 1), (20, -89, 500, 1)],
)
def test_circle_is_cut_at_date_line(lon: float, lat: float, km: float, parts: int) -> None:
    circle = cap(lon, lat, km)
    check(circle)
    assert len(rings(circle)) == parts
    if parts == 2:
        whole = shape(circle)
        assert isinstance(whole, MultiPolygon)
        west, east = sorted(whole.geoms, key=lambda polygon: polygon.centroid.x)
        assert west.bounds[0] == -180
        assert east.bounds[2] == 180


def test_circle_contains_pole() -> None:
    area = shape(cap(30, 88, 800))
    for lon in (-179, -90, 0, 30, 179):
        assert area.covers(Point(lon, 89.99))


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("application/geo+json", True),
        ("Application/Geo+JSON", True),
        ("application/geo+json, */*;q=0.1", True),
        ("application/json, application/geo+json;q=0.9", False),
        ("application/geo+json;q=0", False),
        ("application/geo+json;q=much", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_accept_header_selects_geojson(accept: str, wanted: bool) -> None:
    assert preferred(accept) is wanted


def test_answer_as_geojson_features(http: httpx.Client, make_picture: Any) -> None:
    ask = {"files": {"image": make_picture(1)}, "params": {"alternatives": 2, "trace": True}}
    plain = http.post("/locate", **ask).json()
    answer = http.post("/locate", **ask, headers={"Accept": MEDIA_TYPE})
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.headers["vary"] == "Accept"
    collection = answer.json()
    assert collection["type"] == "FeatureCollection"
    kinds: dict[str, list[Any]] = {}
    for feature in collection["features"]:
        assert set(feature) == {"type", "geometry", "properties"}
        check(feature["geometry"])
        kinds.setdefault(feature["properties"]["kind"], []).append(feature)
    assert [round(v, 3) for v in kinds["answer"][0]["geometry"]["coordinates"]] == [
        round(plain["lon"], 3), round(plain["lat"], 3),
    ]  # fmt: skip
    assert len(kinds["tile"]) == len(plain["levels"])
    assert len(kinds["kept"]) == sum(len(level["kept"]) for level in plain["trace"])
    assert len(kinds["alternative"]) == len(plain["alternatives"])
    for feature in kinds["tile"]:
        assert shape(feature["geometry"]).covers(Point(plain["lon"], plain["lat"]))
        assert 0 <= feature["properties"]["confidence"] <= 1


def test_error_is_problem_document_even_if_geojson_is_accepted(http: httpx.Client, check_problem: Any) -> None:
    check_problem(http.post("/locate", files={"image": b"no"}, headers={"Accept": MEDIA_TYPE}), 400, "unreadable-photo")
