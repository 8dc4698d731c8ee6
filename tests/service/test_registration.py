"""Registration in `/locate`: the built-in Earth, an index of Europe, pictures that the index alone misplaces."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from indexer.build.area import Area
from indexer.build.build import build_index
from indexer.build.request import BuildRequest
from indexer.builtin.pictures import nowhere_pictures
from retrieval.files import write_json
from retrieval.index.manifest import Manifest
from retrieval.locator import Locator
from retrieval.pipeline import locate_picture
from retrieval.registration.geometry import Frame, pixel_centres
from retrieval.registration.reference import BuiltinEarth
from service.app import create_app
from service.settings import Settings
from tests.support.decoding_processes import until
from tilebeam import app

GREECE = Frame.upright(21.9, 38.9, 600.0, 150.0)
"""A turn with which retrieval finds nothing."""
SIZE = 256


def png(pixels: np.ndarray) -> bytes:
    out = BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


@pytest.fixture(scope="session")
def relief() -> bytes:
    """Greece in shaded relief, its top to the south-east."""
    lng, lat = GREECE.ground(*pixel_centres(SIZE))
    [(channels, _)] = BuiltinEarth(("shadedrelief",), land=False).layers(lng, lat, GREECE.edge_km / SIZE)
    return png(np.rint(np.moveaxis(channels, 0, -1)).astype(np.uint8))


@pytest.fixture(scope="session")
def europe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("europe") / "index"
    area = Area(bbox=(-12.0, 34.0, 36.0, 60.0))
    build_index(BuildRequest(source="bluemarble", out=out, zooms=(4, 6, 8), area=area))
    return out


@pytest.fixture(scope="session")
def european(europe: Path) -> Locator:
    return Locator.open(europe, device="cpu")


@pytest.fixture(scope="session")
def registering(serving: Any, european: Locator) -> Any:
    """A service that has loaded the Earth."""
    with serving(european, registration="on", registration_timeout_s=60) as url:
        until(lambda: located(url, png(np.full((64, 64, 3), 9, np.uint8))).get("registration") is not None)
        yield url


def located(url: str, picture: bytes, **params: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}/locate", params=params, files={"image": picture}, timeout=120)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def km_off(place: dict[str, Any]) -> float:
    east = (place["lon"] - GREECE.lng) * math.cos(math.radians(GREECE.lat))
    return math.hypot(east, place["lat"] - GREECE.lat) * 111.2


def test_index_says_that_its_pictures_are_from_above(registering: str, europe: Path) -> None:
    manifest = Manifest.read(europe)
    assert manifest.pictures == "above"
    assert httpx.get(f"{registering}/index").json()["pictures"] == "above"


def test_registered_picture_is_located_where_retrieval_alone_is_wrong(registering: str, relief: bytes) -> None:
    before, after = located(registering, relief, register="off"), located(registering, relief, alternatives=3)
    assert km_off(before) > 50
    assert "register" not in before["timing_ms"]
    assert (before["registration"], "registration_reason" in before) == (None, False)
    assert after["outcome"] == "located"
    assert km_off(after) < 25
    registration = after["registration"]
    assert registration["accepted"]
    assert (after["lat"], after["lon"]) == (registration["lat"], registration["lon"])
    assert registration["heading_deg"] == pytest.approx(150, abs=2)
    assert after["timing_ms"]["register"] > 0
    confidences = [level["confidence"] for level in after["levels"]]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] == pytest.approx(registration["probability"], abs=0.01)
    assert after["radius_km"]["90"] < 50
    assert after["elsewhere"] <= before["elsewhere"]


def test_hints_are_used_and_can_be_wrong(registering: str, relief: bytes) -> None:
    right = located(registering, relief, heading=150, width_km=600)
    assert right["registration"]["accepted"]
    wrong = located(registering, relief, width_km=100, register="on")
    assert not wrong["registration"]["accepted"]
    assert "the shorter edge would be 100 km" in wrong["registration"]["reason"]


def test_picture_of_no_place_is_not_located(registering: str) -> None:
    for pixels in nowhere_pictures(4, SIZE, 3):
        assert located(registering, png(pixels))["outcome"] != "located"


def test_picture_of_four_pixels_is_not_compared(registering: str) -> None:
    pixels = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], np.uint8)
    answer = located(registering, png(pixels), register="on")
    assert answer["outcome"] != "located"
    assert "2 x 2 pixels" in answer["registration"]["reason"]


def test_registration_that_ran_out_of_time_says_so(european: Locator, relief: bytes) -> None:
    answer = locate_picture(european, relief, registration_s=0.001)
    assert not answer["registration"]["accepted"]
    assert answer["registration"]["reason"].endswith("the time was over before all places were searched")


def test_place_outside_the_bbox_is_not_used(registering: str, relief: bytes) -> None:
    answer = located(registering, relief, bbox="23.2,34,36,60")
    assert answer["lon"] >= 23.2
    assert answer["outcome"] != "located"
    assert not answer["registration"]["accepted"]


def test_batch_lines_are_registered(registering: str, relief: bytes) -> None:
    nothing = png(nowhere_pictures(1, SIZE, 1)[0])
    files = [("images", (name, data)) for name, data in (("a", relief), ("b", nothing), ("c", b"x"))]
    text = httpx.post(f"{registering}/locate/batch", files=files, timeout=120).text
    first, second, third = (json.loads(line) for line in text.splitlines())
    assert km_off(first["result"]) < 25
    assert not second["result"]["registration"]["accepted"]
    assert "error" in third


def test_geojson_has_the_footprint(registering: str, relief: bytes) -> None:
    answer = httpx.post(f"{registering}/locate/geojson", files={"image": relief}, timeout=120).json()
    features = {feature["properties"]["kind"]: feature for feature in answer["features"]}
    footprint = features["footprint"]
    assert footprint["properties"]["accepted"]
    ring = np.array(footprint["geometry"]["coordinates"][0])
    assert ring[:, 0].min() < GREECE.lng < ring[:, 0].max()
    assert "footprint" not in features["answer"]["properties"]["registration"]


def test_registration_that_is_impossible_is_a_422_with_the_reason(
    serving: Any, locator: Locator, european: Locator, make_picture: Callable[..., bytes], check_problem: Any
) -> None:
    def refused(which: Locator, **settings: Any) -> str:
        with serving(which, **settings) as url:
            answer = httpx.post(f"{url}/locate?register=on", files={"image": make_picture()}, timeout=60)
            return str(check_problem(answer, 422, "invalid-query"))

    assert "not taken from above" in refused(locator, registration="on")
    assert "switched registration off" in refused(european, registration="off")
    assert "scoring paper" in refused(european, registration="on", scoring="paper")


def test_index_whose_source_is_not_at_hand_names_the_setting(
    serving: Any, europe: Path, tmp_path: Path, make_picture: Callable[..., bytes]
) -> None:
    index = tmp_path / "index"
    shutil.copytree(europe, index)
    manifest = replace(Manifest.read(index), source={"identity": "abc", "name": "my maps"})
    write_json(index / "manifest.json", manifest.to_json())
    with serving(Locator.open(index, device="cpu"), registration="on") as url:
        reason = located(url, make_picture())["registration_reason"]
    assert "built from my maps, which is not at hand" in reason
    assert "TILEBEAM_TILES" in reason


@pytest.mark.parametrize(
    ("params", "said"),
    [("register=yes", "register='yes'"), ("width_km=0", "width_km='0'"), ("heading=nan", "heading='nan'")],
)
def test_wrong_parameters_are_named(url: str, params: str, said: str, check_problem: Any) -> None:
    assert said in check_problem(httpx.post(f"{url}/locate?{params}"), 422, "invalid-request")


def test_until_the_earth_is_loaded_auto_says_so(european: Locator) -> None:
    """The app without its lifespan, which begins the loading."""
    registering = create_app(Settings(), european).state.service.inference.registering
    assert not registering.registrar.is_loaded
    assert registering.registrar.why_not is None


def test_command_line_registers_with_an_index_and_with_a_service(
    europe: Path, registering: str, relief: bytes, tmp_path: Path
) -> None:
    picture, nothing = tmp_path / "greece.png", tmp_path / "nothing.png"
    picture.write_bytes(relief)
    nothing.write_bytes(png(nowhere_pictures(1, SIZE, 1)[0]))

    def locate(*arguments: object) -> Result:
        done = CliRunner().invoke(app, ["locate", *map(str, arguments)])
        assert done.exit_code == 0, done.stderr
        return done

    for where, name in ((("--index", europe), "here"), (("--url", registering), "there")):
        outlines, points = tmp_path / f"{name}.geojson", tmp_path / f"{name}.points"
        files = "--footprint", outlines, "--gcps", points
        text = locate(picture, *where, "--heading", 150, *files).stdout
        assert "registered: 60" in text
        assert "top towards 15" in text or "top towards 149" in text
        [feature] = json.loads(outlines.read_text())["features"]
        assert feature["properties"]["accepted"]
        assert len(points.read_text().splitlines()) == 27
        assert "registered:" not in locate(picture, *where, "--no-register").stdout
    assert "not registered: " in locate(nothing, "--index", europe).stdout
