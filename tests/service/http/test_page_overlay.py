"""A registered picture laid over the map in a headless Chromium. Skipped without a browser.

The map has coloured dots at known places, the picture the same dots at the pixels that show these places. So where the
overlay lies is read off a screenshot, against the map's own tiles. The registrations are of known frames.
"""

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import drop, level
from numpy.typing import NDArray
from PIL import Image

from indexer.build.area import Area
from indexer.build.build import build_index
from indexer.build.request import BuildRequest
from retrieval.locator import Locator
from retrieval.registration.accept import Features
from retrieval.registration.geometry import Frame
from retrieval.registration.reference import BuiltinEarth
from retrieval.registration.registration import Registration

ZOOM = 6
COLOURS = {"centre": (255, 0, 255), "left": (255, 0, 0), "top": (0, 255, 0), "right": (0, 0, 255), "low": (0, 255, 255)}
SPOTS = {"centre": (0.5, 0.5), "left": (0.12, 0.3), "top": (0.6, 0.1), "right": (0.9, 0.62), "low": (0.3, 0.88)}
"""Shares of the picture's width and height."""
FRAMES = {
    "turned": Frame.upright(12.0, 47.0, 700.0, 130.0),
    "date line": Frame.upright(179.6, -17.0, 900.0, -25.0),
    "north": Frame.upright(-42.0, 71.0, 800.0, 60.0),
    "real": Frame.upright(33.5, 28.5, 700.0, 35.0),
    "tilted": Frame(30.0, 5.0, np.array([[1000.0, 0.0, 0.0], [0.0, -1000.0, 0.0], [0.1, 0.5, 1.0]])),
}
SIZE = (640, 480)
OPTIONS: dict[str, Any] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}


def places(frame: Frame) -> dict[str, tuple[float, float]]:
    """Where the picture's dots lie on the ground, (lng, lat)."""
    width, height = SIZE
    shares = {name: ((x - 0.5) * width / height, y - 0.5) for name, (x, y) in SPOTS.items()}
    return {name: tuple(map(float, frame.ground(*uv))) for name, uv in shares.items()}  # type: ignore[misc]


def dot(pixels: NDArray[np.uint8], x: float, y: float, colour: tuple[int, int, int], radius: float) -> None:
    rows, columns = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    pixels[np.hypot(columns + 0.5 - x, rows + 0.5 - y) < radius] = colour


def picture(turn: int = 1, kind: str = "PNG") -> bytes:
    """A grey picture with the dots."""
    return encoded(np.full((SIZE[1], SIZE[0], 3), 128, dtype=np.uint8), turn, kind)


def relief(frame: Frame) -> bytes:
    """What the shaded relief of the built-in Earth shows in a frame, with the dots."""
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5 - SIZE[0] / 2, np.arange(SIZE[1]) + 0.5 - SIZE[1] / 2)
    [(channels, _)] = BuiltinEarth(("shadedrelief",), land=False).layers(
        *frame.ground(x / SIZE[1], y / SIZE[1]), frame.edge_km / SIZE[1]
    )
    return encoded(np.moveaxis(channels, 0, -1).round().astype(np.uint8), 1, "PNG")


def encoded(pixels: NDArray[np.uint8], turn: int, kind: str) -> bytes:
    """The picture with the dots, stored so that EXIF's `turn` makes it upright."""
    for name, (x, y) in SPOTS.items():
        dot(pixels, x * SIZE[0], y * SIZE[1], COLOURS[name], 9)
    undo = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 5: Image.Transpose.TRANSPOSE}[turn]
    image = Image.fromarray(pixels)
    stored = image if undo is None else image.transpose(undo)
    exif, out = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    stored.save(out, kind, exif=exif, **OPTIONS.get(kind, {}))
    return out.getvalue()


def draw_map(folder: Path) -> Path:
    """The tiles of zoom 6 that hold a dot, with all dots that touch them."""
    tiles: dict[tuple[int, int], NDArray[np.uint8]] = {}
    for frame in FRAMES.values():
        for name, (lng, lat) in places(frame).items():
            x = (lng / 360 + 0.5) * 2**ZOOM
            y = (0.5 - math.log(math.tan(math.pi / 4 + math.radians(lat) / 2)) / (2 * math.pi)) * 2**ZOOM
            for key in {(int(x + dx) % 2**ZOOM, int(y + dy)) for dx in (-0.03, 0.03) for dy in (-0.03, 0.03)}:
                tile = tiles.setdefault(key, np.full((256, 256, 3), 60, dtype=np.uint8))
                dot(tile, (x - key[0]) * 256, (y - key[1]) * 256, COLOURS[name], 5)
    for (column, row), pixels in tiles.items():
        path = folder / str(ZOOM) / str(column) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def contract(frame: Frame, turn: int = 1, accepted: bool = True, margin: float = 0.2) -> dict[str, Any]:
    """The `registration` of an answer."""
    features = Features(0.6, margin, 1.0)
    return Registration(SIZE, accepted, 0.99, frame, features, "field", turn=turn).to_json()


@pytest.fixture(scope="module")
def dotted(serving: Any, locator: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the service with the fake index on the map of dots."""
    with serving(locator, tiles=str(draw_map(tmp_path_factory.mktemp("dots")))) as url:
        yield url


@pytest.fixture
def look(visit: Any, dotted: str) -> Callable[..., Any]:
    """Opens the page, where the service's answers get these fields, and the requests that it sent to locate."""

    def look(changes: dict[str, Any], **options: Any) -> Any:
        page = visit(site=dotted, **options)
        page.uploads = []

        def answer(route: Any) -> None:
            page.uploads.append(route.request.url)
            response = route.fetch()
            route.fulfill(response=response, json=response.json() | changes)

        page.route("**/locate?*", answer)
        return page

    return look


def located(frame: Frame, **options: Any) -> dict[str, Any]:
    radius = {"50": 4.0, "90": 12.0}
    return {
        "registration": contract(frame, **options),
        "outcome": "located",
        "lat": frame.lat,
        "lon": frame.lng,
        "radius_km": radius,
        "alternatives": [],
    }


def show_only(page: Any, opacity: int) -> NDArray[np.int64]:
    """The map's pixels, (h, w, 3), without panel, pins and lines, with the picture at this opacity in %."""
    page.evaluate(
        """opacity => {
            const covers = "#panel, .leaflet-overlay-pane, .leaflet-marker-pane";
            for (const part of document.querySelectorAll(covers)) part.style.opacity = 0;
            const slider = document.querySelector("#opacity");
            slider.value = opacity;
            slider.dispatchEvent(new Event("input"));
        }""",
        opacity,
    )
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")).astype(np.int64)


def dots(pixels: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
    """The middle of each colour's pixels, x and y."""
    found = {}
    for name, colour in COLOURS.items():
        rows, columns = np.nonzero(np.abs(pixels - colour).max(axis=2) < 60)
        if len(rows) > 8:
            found[name] = np.array([columns.mean(), rows.mean()])
    return found


def all_dots(page: Any, opacity: int) -> dict[str, NDArray[np.float64]]:
    """Where the dots are in view, with the picture at this opacity; waits for the map's tiles."""
    for _ in range(100):
        found = dots(show_only(page, opacity))
        if len(found) == len(COLOURS):
            return found
        page.wait_for_timeout(100)
    raise AssertionError(f"of the dots, only {sorted(found)} are in view")


def assert_dots_lie_on_the_maps(page: Any, most_px: float = 2.5) -> None:
    page.wait_for_selector("canvas.overlay")
    on_map, on_picture = all_dots(page, 0), all_dots(page, 100)
    away = {name: float(np.hypot(*(on_picture[name] - on_map[name]))) for name in COLOURS}
    assert max(away.values()) < most_px, away
    spread = [np.hypot(*(on_map[a] - on_map[b])) for a in COLOURS for b in COLOURS if a < b]
    assert min(spread) > 40  # a view in which all dots lie together shows nothing


@pytest.mark.parametrize("name", FRAMES)
def test_overlay_lies_where_the_ground_truth_says(look: Any, name: str) -> None:
    page = look(located(FRAMES[name]))
    drop(page, picture(), "a.png", "image/png")
    level(page, "answer")
    assert_dots_lie_on_the_maps(page)


@pytest.mark.parametrize("turn", [3, 5, 6])
def test_overlay_heeds_exif_orientation(look: Any, turn: int) -> None:
    page = look(located(FRAMES["turned"], turn=turn))
    drop(page, picture(turn, "JPEG"))
    level(page, "answer")
    assert_dots_lie_on_the_maps(page)


def test_overlay_has_no_seams(look: Any) -> None:
    page = look(located(FRAMES["turned"]))
    drop(page, picture(), "a.png", "image/png")
    level(page, "answer")
    centre = all_dots(page, 100)["centre"].astype(int)
    area = show_only(page, 100)[centre[1] + 12 : centre[1] + 92, centre[0] - 40 : centre[0] + 40]
    assert np.abs(area - 128).max() <= 1


def test_overlay_keeps_its_place_when_the_map_moves_and_zooms(look: Any) -> None:
    page = look(located(FRAMES["turned"]))
    drop(page, picture(), "a.png", "image/png")
    level(page, "answer")
    page.wait_for_selector("canvas.overlay")
    before = page.evaluate("document.querySelector('canvas.overlay').width")
    page.focus("#map")
    page.keyboard.press("-")
    page.wait_for_timeout(600)
    page.mouse.move(800, 400)
    page.mouse.down()
    page.mouse.move(840, 370, steps=4)
    page.mouse.up()
    page.wait_for_timeout(600)
    assert page.evaluate("document.querySelector('canvas.overlay').width") < before
    assert_dots_lie_on_the_maps(page)


def test_slider_works_by_keyboard_and_words_say_how_the_picture_lies(look: Any) -> None:
    page = look(located(FRAMES["turned"]))
    drop(page, picture(), "a.png", "image/png")
    level(page, "answer")
    page.wait_for_selector("canvas.overlay")
    slider = page.get_by_label("Picture over the map")
    slider.focus()
    assert page.evaluate("getComputedStyle(document.querySelector('canvas.overlay')).opacity") == "0.8"
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    assert page.evaluate("getComputedStyle(document.querySelector('canvas.overlay')).opacity") == "0.6"
    assert slider.get_attribute("aria-valuetext") == "60 %"
    assert page.get_attribute("#map", "data-level") == "answer"  # arrow keys also step through the beam
    words = page.inner_text("#fit-words")
    assert "fits here clearly better than anywhere else" in words
    assert "933 km wide" in words
    assert "south-east (130°)" in words
    assert len(page.uploads) == 1


def test_overlay_belongs_to_the_answer_of_its_picture(look: Any) -> None:
    changes = located(FRAMES["turned"])
    page = look(changes)
    drop(page, picture(), "a.png", "image/png")
    level(page, "answer")
    page.wait_for_selector("canvas.overlay")
    page.keyboard.press("Home")
    level(page, "4")
    assert page.locator("canvas.overlay, path.footprint").count() == 0
    page.keyboard.press("End")
    page.wait_for_selector("canvas.overlay")
    changes.clear()
    drop(page, picture(), "b.png", "image/png")
    page.wait_for_selector("#fit", state="hidden")
    level(page, "answer")
    assert page.locator("canvas.overlay, path.footprint").count() == 0


def test_view_of_the_world_asks_for_no_thousands_of_tiles(look: Any) -> None:
    """The map begins at zoom 6, where the world is 4,096 tiles."""
    page = look(located(FRAMES["turned"]))
    tiles: list[str] = []
    page.on("request", lambda request: tiles.append(request.url) if "/tiles/" in request.url else None)
    drop(page, picture(), "a.png", "image/png")
    level(page, "answer")
    page.keyboard.press("Home")
    level(page, "4")
    page.keyboard.press("End")
    page.wait_for_selector("canvas.overlay")
    assert all_dots(page, 0)
    assert 0 < len(tiles) < 500


def test_footprint_is_drawn_without_a_line_at_the_date_line(look: Any) -> None:
    frame = FRAMES["date line"]
    assert contract(frame)["footprint"]["type"] == "MultiPolygon"
    page = look(located(frame))
    drop(page, picture(), "a.png", "image/png")
    level(page, "answer")
    page.wait_for_selector("canvas.overlay")
    assert page.locator("path.footprint").count() == 2
    canvas = page.locator("canvas.overlay").bounding_box()
    edges = page.locator("path.footprint-edge").evaluate_all(
        """paths => {
            const boxes = paths.map(path => path.getBoundingClientRect());
            return [Math.min(...boxes.map(b => b.left)), Math.max(...boxes.map(b => b.right))];
        }"""
    )
    assert edges == pytest.approx([canvas["x"], canvas["x"] + canvas["width"]], abs=5)
    assert all_dots(page, 0)  # the map runs on across the date line: all places are in view


@pytest.mark.parametrize(("kind", "turn"), [("TIFF", 1), ("WEBP", 3)])
def test_picture_that_the_browser_cannot_show_upright_gets_its_footprint(look: Any, kind: str, turn: int) -> None:
    page = look(located(FRAMES["turned"], turn=turn))
    drop(page, picture(turn, kind), f"a.{kind.lower()}", f"image/{kind.lower()}")
    level(page, "answer")
    page.wait_for_selector("text=This browser cannot lay it over the map")
    assert page.locator("path.footprint").count() == 1
    assert not page.is_visible("#opacity")


def test_picture_that_fits_elsewhere_too_is_not_laid_over(look: Any) -> None:
    frame = FRAMES["turned"]
    page = look(located(frame) | {"registration": contract(frame, accepted=False, margin=0.01), "outcome": "uncertain"})
    drop(page, picture(), "a.png", "image/png")
    level(page, "answer")
    assert "almost as well elsewhere" in page.inner_text("#fit-words")
    assert page.locator("canvas.overlay, path.footprint").count() == 0
    assert not page.is_visible("#opacity")


def test_phone_shows_the_overlay_above_the_slider(look: Any) -> None:
    page = look(located(FRAMES["turned"]), viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    drop(page, picture(), "a.png", "image/png")
    level(page, "answer")
    page.wait_for_selector("canvas.overlay")
    page.locator("#opacity").scroll_into_view_if_needed()
    slider, shown = page.locator("#opacity").bounding_box(), page.locator("#map").bounding_box()
    assert slider["y"] > shown["y"] + shown["height"] - 1 >= 0  # the map stays in sight while the slider is moved
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_real_answer_of_a_real_service_is_laid_over_the_right_place(
    visit: Any, serving: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Nothing is replaced: a relief, turned and in a style that the index lacks, on the index of Blue Marble."""
    folder = tmp_path_factory.mktemp("real")
    area = Area(bbox=(28, 24, 40, 33))
    build_index(BuildRequest(source="bluemarble", out=folder / "index", zooms=(4, 6, 8), area=area))
    data = relief(FRAMES["real"])
    settings = {"tiles": str(draw_map(folder / "map")), "registration": "on"}
    with serving(Locator.open(folder / "index"), **settings) as site:
        page = visit(site=site)
        for _ in range(120):  # the service loads its reference meanwhile, and says so
            with page.expect_response("**/locate?*") as answered:
                drop(page, data, "relief.png", "image/png")
            if "still being loaded" not in answered.value.json().get("registration_reason", ""):
                break
            page.wait_for_selector("text=still being loaded")
            page.wait_for_timeout(500)
        page.wait_for_selector("canvas.overlay")
        assert "fits here" in page.inner_text("#fit-words")
        assert_dots_lie_on_the_maps(page, 12)
