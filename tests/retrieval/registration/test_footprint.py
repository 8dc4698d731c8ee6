"""Outlines and control points."""

import io

import numpy as np
import pytest
from PIL import Image
from shapely.geometry import Point, shape

from retrieval.decoding.decoder import PictureDecoder
from retrieval.pictures.photo import read_photo
from retrieval.registration.footprint import ControlPoint, as_stored, control_points, corners, holds_pole, outline
from retrieval.registration.geometry import Frame
from retrieval.registration.gis import footprint_feature, gdal_options, qgis_points
from retrieval.registration.registration import Features, Registration

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


@pytest.mark.parametrize("turn", range(1, 9))
def test_points_of_a_turned_picture_are_in_the_pixels_of_its_file(turn: int) -> None:
    """Each pixel of a stored picture is unique, so that the decoder's own turn says where it went."""
    stored = Image.fromarray(np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3))
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = turn
    stored.save(file, "PNG", exif=exif)
    photo = read_photo(file.getvalue())
    assert (photo.size, photo.turn) == ((6, 4), turn)
    upright = photo.images[0]
    for y in range(upright.height):
        for x in range(upright.width):
            [point] = as_stored([ControlPoint(x + 0.5, y + 0.5, 0, 0)], upright.size, turn)
            assert stored.getpixel((int(point.x), int(point.y))) == upright.getpixel((x, y))


def test_the_decoding_process_tells_the_turn_too() -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (30, 20)).save(file, "PNG", exif=exif)
    decoder = PictureDecoder()
    try:
        photo = decoder.read_apart(file.getvalue())
    finally:
        decoder.close()
    assert (photo.size, photo.turn, photo.images[0].size) == ((30, 20), 8, (20, 30))


def test_a_pole_in_the_picture_is_seen() -> None:
    assert holds_pole(Frame.upright(40, 88, 1500, 10), SQUARE)
    assert not holds_pole(Frame.upright(40, 75, 1500, 10), SQUARE)


def test_gis_files_run_on_beyond_the_date_line() -> None:
    features = Features(0.5, 0.2, 1.0)
    registration = Registration((640, 480), True, 0.9, Frame.upright(179.5, -17, 400, 10), features)
    rows = qgis_points(registration.to_json()).splitlines()[2:]
    lngs = [float(row.split(",")[0]) for row in rows]
    assert max(lngs) > 180
    assert max(lngs) - min(lngs) < 10
    first, *points = gdal_options(registration.to_json()).splitlines()
    assert first == "-a_srs EPSG:4326"
    assert points[-1].startswith("-gcp 640.00 480.00 18")
    assert footprint_feature("a", registration.to_json())["geometry"]["type"] == "MultiPolygon"
