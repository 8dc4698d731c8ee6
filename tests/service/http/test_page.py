"""The page in a headless Chromium: dropping, answers, steps, errors, layout, themes. Skipped without a browser."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from chromium import drop, level

STATIC = Path(__file__).parents[3] / "service" / "http" / "static"


def test_dropped_picture_shows_answer_on_map_and_panel(visit: Any, make_picture: Any) -> None:
    page = visit()
    assert not page.is_visible("#answer")
    drop(page, make_picture(1))
    level(page, "answer")
    assert re.fullmatch(r"\d+\.\d\d° [NS], \d+\.\d\d° [EW]", page.inner_text("#place span"))
    rows = page.locator("#chart li").all_inner_texts()
    assert [row.split("\n")[0] for row in rows] == ["zoom 4", "zoom 6", "zoom 8", "elsewhere"]
    assert all(re.search("%|–", row) for row in rows)  # –: the answer does not reach this zoom
    assert page.locator("#alternatives button").count() == 3
    assert page.locator(".pin.other").count() == 3
    assert page.locator(".pin.best").count() == 1
    assert page.locator("path.circle").count() == 2
    assert "encode" in page.inner_text("#timing")
    assert page.evaluate("document.querySelector('#preview').naturalWidth") == 48


def test_steps_play_automatically_and_can_be_paused(visit: Any, make_picture: Any) -> None:
    page = visit(reduced_motion="no-preference")
    drop(page, make_picture(2))
    level(page, "4")
    assert page.locator("path.kept").count() == int(page.get_attribute("#map", "data-tiles") or 0) == 64
    level(page, "6")
    level(page, "answer")
    page.click("#play")
    level(page, "4")
    page.click("#play")
    page.wait_for_timeout(1800)
    assert page.get_attribute("#map", "data-level") in ("4", "6")


def test_steps_by_keyboard_and_chart(visit: Any, make_picture: Any) -> None:
    page = visit()
    drop(page, make_picture(3))
    level(page, "answer")
    for key, wanted in [("ArrowLeft", "8"), ("ArrowLeft", "6"), ("ArrowRight", "8"), ("Home", "4"), ("End", "answer")]:
        page.keyboard.press(key)
        level(page, wanted)
    assert page.is_disabled("#on")
    page.click("#chart button >> nth=1")
    level(page, "6")
    assert page.get_attribute("#chart button >> nth=1", "aria-current") == "step"
    assert "Zoom 6" in page.inner_text("#status")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"


@pytest.mark.parametrize(("data", "words"), [(b"no picture at all", "picture"), (b"", "empty")])
def test_bad_file_shows_message_and_next_picture_works(visit: Any, make_picture: Any, data: bytes, words: str) -> None:
    page = visit()
    drop(page, make_picture(1))
    level(page, "answer")
    drop(page, data, "notes.txt", "text/plain")
    page.wait_for_selector("#problem:not([hidden])")
    assert words in page.inner_text("#problem")
    assert not page.is_visible("#answer")
    assert page.get_attribute("#map", "data-level") == "none"
    drop(page, make_picture(1))
    level(page, "answer")
    assert not page.is_visible("#problem")


def test_chosen_file_works_and_unreachable_service_shows_message(visit: Any, make_picture: Any) -> None:
    page = visit()
    page.set_input_files("#file", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": make_picture(4)})
    level(page, "answer")
    page.route("**/locate?*", lambda route: route.abort())
    drop(page, make_picture(5))
    page.wait_for_selector("#problem:not([hidden])")
    assert "did not answer" in page.inner_text("#problem")


def test_phone_layout_has_no_horizontal_scroll_and_visible_map(visit: Any, make_picture: Any) -> None:
    page = visit(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    drop(page, make_picture(1))
    level(page, "answer")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    box = page.locator("#map").bounding_box()
    assert box is not None
    assert box["y"] >= -1
    assert box["width"] == 360


ATTRIBUTION_IS_VISIBLE = """() => {
    const text = document.querySelector(".leaflet-control-attribution"), box = text.getBoundingClientRect();
    const at = (x, y) => text.contains(document.elementFromPoint(x, y));
    return box.width > 0 && [box.left + 2, (box.left + box.right) / 2, box.right - 2].every(
        x => [box.top + 2, (box.top + box.bottom) / 2, box.bottom - 2].every(y => at(x, y)));
}"""


@pytest.mark.parametrize("size", [(320, 600), (360, 740), (818, 600), (820, 600), (1200, 800)])
def test_attribution_of_the_map_is_never_covered(
    visit: Any, site: str, make_picture: Any, size: tuple[int, int]
) -> None:
    page = visit(viewport={"width": size[0], "height": size[1]})
    page.route(
        "**/tiles",
        lambda route: route.fulfill(
            json=httpx.get(f"{site}/tiles").json()
            | {"tiles": ["tiles/{z}/{x}/{y}?of=b"], "attribution": "Imagery of a provider with a long name, " * 2}
        ),
    )
    drop(page, make_picture(1))
    level(page, "answer")
    page.wait_for_selector("text=Imagery of a provider")
    assert page.evaluate(ATTRIBUTION_IS_VISIBLE)
    page.evaluate("window.scrollTo(0, document.body.scrollHeight)")
    assert page.evaluate(ATTRIBUTION_IS_VISIBLE)


def changed(page: Any, pattern: str, changes: dict[str, Any]) -> None:
    """Let the service's answers to these addresses have other fields."""

    def answer(route: Any) -> None:
        response = route.fetch()
        route.fulfill(response=response, json=response.json() | changes)

    page.route(pattern, answer)


def width_of_view(page: Any, data: bytes) -> float:
    """The map's width in degrees, as the next request has it that is limited to the visible map."""
    page.click("#options summary")
    page.check("#inview")
    with page.expect_response("**/locate?*") as answered:
        drop(page, data)
    west, _, east, _ = map(float, parse_qs(urlsplit(answered.value.url).query)["bbox"][0].split(","))
    return (east - west) % 360


WORLD = {"encoders": {"photo": {"name": "tilebeam-builtin"}}}
NOWHERE = {"outcome": "elsewhere", "elsewhere": 0.93, "radius_km": {"50": None, "90": None}}


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (WORLD, "does not look like a picture of the Earth from above; the built-in index cannot place it"),
        ({"pictures": "above"}, "does not look like a picture of the Earth from above; this index cannot place it"),
        ({"pictures": "ground"}, "looks like no place that this index covers"),
        ({}, "looks like no place that this index covers"),
    ],
)
def test_picture_of_no_place_gets_a_sentence_and_no_coordinates(
    visit: Any, make_picture: Any, index: dict[str, Any], words: str
) -> None:
    page = visit()
    changed(page, "**/index", index)
    changed(page, "**/locate?*", NOWHERE)
    page.reload()
    page.wait_for_selector("body[data-ready]", state="attached")
    drop(page, make_picture(1))
    level(page, "answer")
    page.wait_for_selector(f"#place:has-text('{words}')")
    assert not re.search(r"\d°", page.inner_text("#panel"))
    assert page.locator(".pin").count() == page.locator("path.circle, path.above").count() == 0
    assert width_of_view(page, make_picture(2)) > 200


def test_uncertain_place_is_small_and_marked(visit: Any, make_picture: Any) -> None:
    page, size = visit(), "parseFloat(getComputedStyle(document.querySelector('#place span')).fontSize)"
    changed(page, "**/locate?*", {"outcome": "located"})
    drop(page, make_picture(1))
    level(page, "answer")
    large = page.evaluate(size)
    assert "not certain" not in page.inner_text("#place")
    changed(page, "**/locate?*", {"outcome": "uncertain"})
    drop(page, make_picture(2))
    page.wait_for_selector("#place:has-text('not certain')")
    assert page.evaluate(size) < 0.75 * large


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (WORLD, "pictures of the Earth from above, some 200 to 1,000 km wide"),
        ({"pictures": "above"}, "pictures of the Earth from above."),
        ({"pictures": "ground"}, "photos taken on the ground"),
    ],
)
def test_page_says_what_the_index_knows(visit: Any, index: dict[str, Any], words: str) -> None:
    page = visit()
    assert not page.is_visible("#known")  # of this index nothing is known
    changed(page, "**/index", index)
    page.reload()
    page.wait_for_selector("#known:not([hidden])")
    assert words in page.inner_text("#known")
    assert page.locator("#known button").count() == 0  # there are no samples


def test_tiles_of_the_beam_are_repeated_with_the_world(visit: Any, make_picture: Any) -> None:
    """At the first zoom more than one America is in view; tiles lay on one of them."""
    page = visit()
    drop(page, make_picture(1))
    level(page, "answer")
    page.keyboard.press("Home")
    level(page, "4")
    boxes = "paths => paths.map(path => path.getAttribute('d')).filter(d => d.length > 4)"
    assert len(page.locator("path.kept").evaluate_all(boxes)) == 64
    assert len(page.locator("path.repeated").evaluate_all(boxes)) > 0


def test_light_and_dark_themes(visit: Any) -> None:
    paper = "getComputedStyle(document.querySelector('#panel')).backgroundColor"
    dark, light = visit(color_scheme="dark"), visit(color_scheme="light")
    assert dark.evaluate(paper) != light.evaluate(paper)
    light.click("#theme")
    assert light.evaluate(paper) == dark.evaluate(paper)
    light.reload()
    assert light.evaluate(paper) == dark.evaluate(paper)


def test_page_updates_map_and_samples_after_index_reload(visit: Any, site: str, make_picture: Any) -> None:
    page = visit()
    assert not page.is_visible("#samples")
    about = httpx.get(f"{site}/tiles").json() | {"tiles": ["tiles/{z}/{x}/{y}?of=another"]}
    page.route("**/tiles", lambda route: route.fulfill(json=about))
    sample = [{"file": "sample-1.jpg", "lat": 1, "lon": 2}]
    page.route("**/samples/samples.json", lambda route: route.fulfill(json=sample))
    with page.expect_request("**/tiles/0/0/0?of=another"):
        drop(page, make_picture(1))
    page.wait_for_selector("#samples button")
    assert page.locator("#known button").count() == 1
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    drop(page, make_picture(2))
    level(page, "answer")
    page.wait_for_selector("body:not(.busy)", state="attached")
    assert f"{site}/tiles" not in requested  # the index is the same


def test_page_asks_for_key_after_401(visit: Any, make_picture: Any) -> None:
    page = visit()
    refusal = {"type": "urn:tilebeam:problem:unauthorized", "status": 401, "detail": "this service needs a key"}
    sent = []

    def answer(route: Any) -> None:
        sent.append(route.request.headers.get("authorization"))
        rest = {name: value for name, value in route.request.headers.items() if name != "authorization"}
        route.continue_(headers=rest) if sent[-1] else route.fulfill(status=401, json=refusal)

    page.route("**/locate?*", answer)
    drop(page, make_picture(1))
    page.wait_for_selector("#keyrow:not([hidden])")
    assert "needs a key" in page.inner_text("#problem")
    page.fill("#key", "tb_secret")
    drop(page, make_picture(1))
    level(page, "answer")
    assert sent == [None, "Bearer tb_secret"]


def test_content_security_policy_allows_only_this_service(site: str) -> None:
    answer = httpx.get(site)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    text = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*src=)|<style| style=| on\w+=", text) == []
    assert httpx.get(f"{site}/static/leaflet/leaflet.js").status_code == 200


def test_docs_page_renders_and_loads_nothing_from_other_hosts(visit: Any, site: str) -> None:
    page = visit("/docs", ".opblock")
    paths = httpx.get(f"{site}/openapi.json").json()["paths"]
    assert page.locator(".opblock").count() == sum(len(verbs) for verbs in paths.values())
    page.click("#operations-locate-locate .opblock-summary-control")
    page.wait_for_selector("#operations-locate-locate .responses-table")
    assert "unreadable-photo" in page.inner_text("#operations-locate-locate")
    assert page.locator(".errors-wrapper").count() == 0


def test_page_files_stay_small() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in STATIC.iterdir()}
    assert max(lines.values()) < 400, lines
