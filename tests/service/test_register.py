"""`tilebeam register`: what it prints and writes, and what GDAL makes of its files."""

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from retrieval.files import write_json
from retrieval.index.manifest import Manifest
from retrieval.registration.canvases import draw
from retrieval.registration.geometry import Frame, pixel_centres
from retrieval.registration.jobs import NO_HINTS, WORLD, jobs_anywhere
from retrieval.registration.reference import BuiltinEarth
from service.registering import CANVAS_BYTES
from tilebeam import app

EARTH = BuiltinEarth()
CENTRE, EDGE_KM, HEADING, SIZE = (12.5, 43.0), 700.0, 30.0, (384, 256)
NEAR = "42.6,13.2,100"
TRUTH = Frame.upright(*CENTRE, EDGE_KM, HEADING)
needs_gdal = pytest.mark.skipif(shutil.which("gdalwarp") is None, reason="GDAL's programs are not installed")


def tilebeam(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["register", *(str(argument) for argument in arguments)])


def place_at(x: float, y: float) -> tuple[float, float]:
    """The true (lng, lat) of a pixel of the upright picture."""
    lng, lat = TRUTH.ground(np.array([(x - SIZE[0] / 2) / SIZE[1]]), np.array([(y - SIZE[1] / 2) / SIZE[1]]))
    return float(lng[0]), float(lat[0])


def km_between(a: tuple[float, float], b: tuple[float, float]) -> float:
    return math.hypot((a[0] - b[0]) * math.cos(math.radians(a[1])), a[1] - b[1]) * 111.2


@pytest.fixture(scope="session")
def upright() -> Image.Image:
    """Italy from the built-in Earth, 384 x 256 pixels, its top to the north-east by 30 degrees."""
    u, v = pixel_centres(384)
    rows = slice(64, 320)
    lng, lat = TRUTH.ground(u[rows] * 1.5, v[rows] * 1.5)
    channels, _ = EARTH.layers(lng, lat, EDGE_KM / SIZE[1])[0]
    return Image.fromarray(np.rint(np.moveaxis(channels, 0, -1)).astype(np.uint8))


@pytest.fixture(scope="session")
def written(upright: Image.Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the registered picture: upright, and stored on its side with EXIF's turn 6."""
    folder = tmp_path_factory.mktemp("registered")
    upright.save(folder / "italy.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif, quality=95)
    points = folder / "points"
    points.mkdir()
    options = ["--near", NEAR, "--width-km", 1050, "--heading", 35, "--json"]
    files = folder / "italy.png", folder / "turned.jpg"
    done = tilebeam(*files, *options, "--gcps", points, "--footprint", folder / "out.geojson")
    (folder / "stdout").write_text(done.stdout)
    assert (done.exit_code, done.stderr) == (0, "")
    done = tilebeam(files[1], *options, "--gcps", folder / "turned.txt")
    assert done.exit_code == 0, done.stderr
    return folder


def test_a_turned_picture_is_registered_within_a_few_km(written: Path) -> None:
    for line in (written / "stdout").read_text().splitlines():
        answer = json.loads(line)["registration"]
        assert answer["accepted"]
        assert km_between((answer["lon"], answer["lat"]), CENTRE) < 5
        assert answer["heading_deg"] == pytest.approx(HEADING, abs=1)
        assert answer["width_km"] == pytest.approx(EDGE_KM * 1.5, rel=0.02)


@pytest.mark.parametrize(
    ("name", "upright_of", "stored"),
    [
        ("italy.png", lambda x, y: (x, y), (384, 256)),
        ("turned.jpg", lambda x, y: (SIZE[0] - y, x), (256, 384)),
    ],
)
def test_qgis_points_are_in_the_pixels_of_the_file(
    written: Path, name: str, upright_of: Callable[[float, float], tuple[float, float]], stored: tuple[int, int]
) -> None:
    lines = (written / "points" / f"{name}.points").read_text().splitlines()
    assert lines[0].startswith('#CRS: GEOGCRS["WGS 84"')
    assert lines[1] == "mapX,mapY,sourceX,sourceY,enable,dX,dY,residual"
    assert len(lines) == 27
    pixels = []
    for line in lines[2:]:
        lng, lat, x, minus_y, enable = (float(value) for value in line.split(",")[:5])
        assert enable == 1
        pixels.append((x, -minus_y))
        assert km_between((lng, lat), place_at(*upright_of(x, -minus_y))) < 12
    assert (max(x for x, _ in pixels), max(y for _, y in pixels)) == stored
    assert min(min(pixel) for pixel in pixels) == 0


@needs_gdal
def test_gdal_makes_a_geotiff_that_lies_right(written: Path, tmp_path: Path) -> None:
    """The options file of a picture with EXIF's turn, which GDAL ignores."""
    points, warped = tmp_path / "points.tif", tmp_path / "warped.tif"
    options = ["-q", "--optfile", written / "turned.txt"]
    subprocess.run(["gdal_translate", *options, written / "turned.jpg", points], check=True)
    info = json.loads(subprocess.run(["gdalinfo", "-json", points], check=True, capture_output=True).stdout)
    assert len(info["gcps"]["gcpList"]) == 25
    # Stored pixel (x, y) to degrees: turned.jpg's column is the upright picture's row.
    asked = [(20.0, 30.0), (128.0, 192.0), (230.0, 350.0)]
    text = "\n".join(f"{x} {y}" for x, y in asked)
    transform = ["gdaltransform", "-tps", "-output_xy", points]
    answer = subprocess.run(transform, input=text, check=True, capture_output=True, text=True).stdout
    for (x, y), line in zip(asked, answer.splitlines(), strict=True):
        lng, lat = (float(value) for value in line.split())
        assert km_between((lng, lat), place_at(SIZE[0] - y, x)) < 8
    subprocess.run(["gdalwarp", "-q", "-tps", "-t_srs", "EPSG:4326", points, warped], check=True)
    info = json.loads(subprocess.run(["gdalinfo", "-json", warped], check=True, capture_output=True).stdout)
    assert 'ID["EPSG",4326]' in info["coordinateSystem"]["wkt"]
    corners = np.array([place_at(x, y) for x in (0, 384) for y in (0, 256)])
    west, north = info["cornerCoordinates"]["upperLeft"]
    east, south = info["cornerCoordinates"]["lowerRight"]
    assert [west, east] == pytest.approx([corners[:, 0].min(), corners[:, 0].max()], abs=0.2)
    assert [south, north] == pytest.approx([corners[:, 1].min(), corners[:, 1].max()], abs=0.2)
    # The warped picture shows what the built-in Earth shows there, and not what it shows 0.3 degrees away.
    with Image.open(warped) as image:
        pixels = np.asarray(image.convert("L"), dtype=np.float64)
    step_x, step_y = (east - west) / pixels.shape[1], (north - south) / pixels.shape[0]
    lng, lat = np.meshgrid(np.linspace(10.5, 14.5, 80), np.linspace(41.5, 44.5, 60))
    drawn = pixels[((north - lat) / step_y).astype(int), ((lng - west) / step_x).astype(int)].ravel()
    similarities = {}
    for aside, up in ((0.0, 0.0), (0.3, 0.0), (-0.3, 0.0), (0.0, 0.3), (0.0, -0.3)):
        channels, _ = EARTH.layers(lng + aside, lat + up, 5.0)[0]
        similarities[aside, up] = np.corrcoef(drawn, channels.mean(axis=0).ravel())[0, 1]
    assert max(similarities, key=lambda offset: similarities[offset]) == (0.0, 0.0)
    assert similarities[0.0, 0.0] > 0.7


@needs_gdal
def test_ogr_opens_the_footprint(written: Path) -> None:
    command = ["ogrinfo", "-al", "-so", written / "out.geojson"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "Geometry: Polygon" in said
    assert "Feature Count: 2" in said
    assert "accepted: Integer(Boolean)" in said


def test_footprint_holds_the_place(written: Path) -> None:
    from shapely.geometry import Point, shape

    features = json.loads((written / "out.geojson").read_text())["features"]
    assert [Path(feature["properties"]["name"]).name for feature in features] == ["italy.png", "turned.jpg"]
    assert all(shape(feature["geometry"]).contains(Point(*CENTRE)) for feature in features)


def test_unreadable_and_uncertain_pictures_do_not_stop_the_others(written: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes((written / "italy.png").read_bytes()[:90])
    Image.new("RGB", (64, 64), "grey").save(tmp_path / "flat.png")
    files = [tmp_path / "broken.png", tmp_path / "missing.png", tmp_path / "flat.png", written / "italy.png"]
    done = tilebeam(*files, "--near", NEAR, "--width-km", 1050, "--heading", 30)
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:1]] == ["picture"]
    assert ["not registered" in line for line in lines[1:]] == [True, True, True, False]
    assert " accepted" in lines[4]
    assert len(done.stderr.splitlines()) == 3
    assert "missing.png: No such file" in done.stderr
    assert "flat.png: the picture shows no edges" in done.stderr
    assert tilebeam(tmp_path / "flat.png", "--near", NEAR).exit_code == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--near", "north"], "'north' is not LAT,LON"),
        (["--near", "100,10"], "latitude first"),
        (["--near", "1,2,-3"], "-3 km is not 0 to 20,000"),
        (["--near", "1,2", "--index", "x"], "give --near or --index"),
        (["--source", "tiles"], "tiles can be searched only with"),
        (["--footprint", "no/such/a.geojson"], "there is no folder no/such"),
        (["--gcps", "points.csv"], "name a .points file"),
        (["--heading", "900"], "900"),
        (["--width-km", "0"], "0"),
        (["--deadline-s", "0"], "0"),
    ],
)
def test_wrong_usage_names_the_value(written: Path, arguments: list[str], message: str) -> None:
    done = tilebeam(written / "italy.png", *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())


def test_several_pictures_need_a_folder_for_control_points(written: Path) -> None:
    done = tilebeam(written / "italy.png", written / "turned.jpg", "--near", NEAR, "--gcps", written / "one.points")
    assert done.exit_code == 2
    assert "which 2 pictures need" in " ".join(done.stderr.replace("│", " ").split())


def test_a_width_that_cannot_be_searched_is_said(written: Path) -> None:
    done = tilebeam(written / "italy.png", "--near", NEAR, "--width-km", 30, "--json")
    assert done.exit_code == 3
    assert "the shorter edge would be 20 km" in json.loads(done.stdout)["registration"]["reason"]


def test_an_index_whose_source_is_not_at_hand_registers_nothing(
    written: Path, engine_index: Path, tmp_path: Path
) -> None:
    done = tilebeam(written / "italy.png", "--index", engine_index, "--json")
    answer = json.loads(done.stdout)
    assert (done.exit_code, answer["registration"]) == (1, None)
    assert "as --source" in answer["reason"]
    assert len(done.stderr.splitlines()) == 1
    (tmp_path / "tiles" / "0" / "0").mkdir(parents=True)
    (tmp_path / "tiles" / "0" / "0" / "0.png").write_bytes((written / "italy.png").read_bytes())
    done = tilebeam(written / "italy.png", "--index", engine_index, "--source", tmp_path / "tiles", "--json")
    assert done.exit_code == 1
    assert "is not the source of" in json.loads(done.stdout)["reason"]
    done = tilebeam(written / "italy.png", "--near", NEAR, "--source", "https://x.invalid/{z}/{x}/{y}.png", "--json")
    assert "nothing is fetched here" in json.loads(done.stdout)["reason"]


def test_a_missing_index_is_one_line(written: Path, tmp_path: Path) -> None:
    done = tilebeam(written / "italy.png", "--index", tmp_path / "none")
    assert (done.exit_code, len(done.stderr.splitlines())) == (1, 1)


@pytest.mark.parametrize("pictures", [None, "above"])
def test_an_index_of_the_built_in_earth_gives_the_candidates(
    written: Path, engine_index: Path, tmp_path: Path, pictures: Any
) -> None:
    """The index's vectors are random, so only that places were compared is certain."""
    index = tmp_path / "index"
    shutil.copytree(engine_index, index)
    manifest = Manifest.read(index)
    source = {"identity": "bluemarble/test", "name": "bluemarble"}
    write_json(index / "manifest.json", replace(manifest, source=source, pictures=pictures).to_json())
    done = tilebeam(written / "italy.png", "--index", index, "--width-km", 1050, "--heading", 30, "--json")
    assert done.exit_code in (0, 3), done.stderr
    assert json.loads(done.stdout)["registration"]["width_km"] > 0


def test_canvases_of_all_land_stay_in_memory_between_pictures() -> None:
    jobs = jobs_anywhere(EARTH.has_ground, NO_HINTS, WORLD, 1.0)
    assert len(jobs) * draw(EARTH, jobs[0][0], WORLD.px).nbytes < CANVAS_BYTES
