"""Outlines and control points."""

import pytest
from shapely.geometry import Point, shape

from retrieval.registration.footprint import control_points, corners, outline
from retrieval.registration.geometry import Frame

SQUARE = (1.0, 1.0)


def test_outline_holds_the_centre_and_is_valid() -> None:
    polygon = shape(outline(Frame.upright(10, 50, 400, 30), SQUARE))
    assert polygon.is_valid
    assert polygon.contains(Point(10, 50))
    assert polygon.exterior.is_ccw


def test_outline_across_the_date_line_is_cut() -> None:
    area = outline(Frame.upright(179.5, -17, 400, 10), SQUARE)
    assert area["type"] == "MultiPolygon"
    both = shape(area)
    assert both.is_valid
    assert both.contains(Point(179.5, -17))
    assert both.contains(Point(-179.5, -17))
    assert both.bounds[0] == -180
    assert both.bounds[2] == 180
    assert both.area < 30


@pytest.mark.parametrize("lat", [88.0, -88.0])
def test_outline_around_a_pole_holds_it(lat: float) -> None:
    area = shape(outline(Frame.upright(40, lat, 1500, 10), SQUARE))
    pole = 89.999 if lat > 0 else -89.999
    assert area.is_valid
    assert all(area.contains(Point(lng, pole)) for lng in (-170, -20, 40, 160))
    assert not area.contains(Point(0, pole / 2))


def test_control_points_run_from_corner_to_corner() -> None:
    frame = Frame.upright(10, 50, 400, 30)
    points = control_points(frame, (640, 480))
    assert len(points) == 25
    assert (points[0].x, points[0].y, points[-1].x, points[-1].y) == (0, 0, 640, 480)
    at = corners(frame, (640 / 480, 1.0))
    assert (points[0].lng, points[0].lat) == pytest.approx(at[0])
    assert (points[-1].lng, points[-1].lat) == pytest.approx(at[2])
    assert (points[12].lng, points[12].lat) == pytest.approx((10, 50))
