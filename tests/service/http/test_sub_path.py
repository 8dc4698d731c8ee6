"""The service below a sub-path of a real nginx: page, viewer, tiles, document and client. Skipped without nginx."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import nginx
import pytest
from chromium import drop, level

from tilebeam import Client

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def beam(site: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page below `/beam/`, by the shortest configuration that there is."""
    folder = tmp_path_factory.mktemp("nginx")
    with nginx.running(folder, f"location /beam/ {{ proxy_pass {site}/; }}") as url:
        yield f"{url}/beam/"


def opened(browser: Any, address: str) -> tuple[Any, list[str]]:
    """A page at the address, and the list of the answers and errors that should not be."""
    page, problems = browser.new_page(reduced_motion="reduce"), list[str]()
    page.set_default_timeout(20_000)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("response", lambda r: problems.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("request", lambda r: problems.append(r.url) if "/beam/" not in r.url and r.url.startswith("http") else None)
    page.goto(address)
    return page, problems


def test_page_locates_and_shows_the_map(browser: Any, beam: str, make_picture: Any) -> None:
    page, problems = opened(browser, beam)
    with page.expect_response("**/beam/tiles/0/0/0?of=*") as tile:
        page.wait_for_selector("body[data-ready]", state="attached")
    assert tile.value.status == 200
    drop(page, make_picture(1))
    level(page, "answer")
    page.wait_for_selector(".leaflet-tile-loaded")
    for link in ("Covered area", "API"):
        assert page.get_by_role("link", name=link).evaluate("link => link.href").startswith(beam)
    assert [problem for problem in problems if "samples" not in problem] == []  # the index has none
    page.close()


def test_page_without_its_last_slash_is_sent_on(browser: Any, beam: str) -> None:
    page, _ = opened(browser, beam.removesuffix("/"))
    page.wait_for_selector("body[data-ready]", state="attached")
    assert page.url == beam
    page.close()


def test_samples_are_loaded_from_below_the_sub_path(browser: Any, beam: str, make_picture: Any) -> None:
    page = browser.new_page(reduced_motion="reduce")
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        route.fulfill(body=make_picture(2), content_type="image/jpeg")

    page.route("**/samples/sample-1.jpg", answer)
    page.route("**/samples.json", lambda route: route.fulfill(json=[{"file": "sample-1.jpg", "lat": 1, "lon": 2}]))
    page.goto(beam)
    page.click("#samples button")
    level(page, "answer")
    assert set(asked) == {f"{beam}static/samples/sample-1.jpg"}
    page.close()


def test_viewer_sends_requests_to_below_the_sub_path(browser: Any, beam: str) -> None:
    page, problems = opened(browser, f"{beam}docs")
    page.click("#operations-about-alive .opblock-summary-control")
    page.click("#operations-about-alive .try-out__btn")
    with page.expect_response(f"{beam}healthz") as answered:
        page.click("#operations-about-alive .execute")
    assert answered.value.json() == {"status": "alive"}
    assert problems == []
    page.close()


def test_addresses_in_documents_are_relative_to_them(beam: str) -> None:
    document = httpx.get(f"{beam}openapi.json").json()
    assert urljoin(f"{beam}openapi.json", document["servers"][0]["url"]) == beam
    tile = httpx.get(urljoin(f"{beam}tiles", httpx.get(f"{beam}tiles").json()["tiles"][0].format(z=0, x=0, y=0)))
    assert (tile.status_code, tile.headers["content-type"]) == (200, "image/png")


def test_client_takes_an_address_with_a_sub_path(beam: str, make_picture: Any) -> None:
    for address in (beam, beam.removesuffix("/")):
        with Client(address) as client:
            assert client.locate(make_picture())["index"]["id"] == client.describe()["id"]
            assert [line["index"] for line in client.locate_batch([make_picture(1), make_picture(2)])] == [0, 1]


def test_nothing_below_the_sub_path_is_redirected(beam: str) -> None:
    for path in ("docs/", "static", "static/leaflet", "static/leaflet/", "locate/", "index/", "tiles/"):
        answer = httpx.get(beam + path)
        assert (answer.status_code, "location" in answer.headers) == (404, False), path


def test_files_of_the_page_name_no_address_from_the_root() -> None:
    for path in (ROOT / "service/http/static").iterdir():
        text = path.read_text(encoding="utf-8")
        assert re.findall(r"""(?:href|src|action)=["']/|url\(["']?/|["'`]/\w""", text) == [], path.name


def test_documented_nginx_block_serves_below_its_sub_path(site: str, tmp_path: Path, make_picture: Any) -> None:
    text = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    _, block = re.findall(r"```nginx\n(.*?)```", text, re.DOTALL)
    server = "proxy_set_header Host $host;\n" + block.replace("http://127.0.0.1:8000", site)
    with nginx.running(tmp_path, server) as url, httpx.Client(base_url=f"{url}/tilebeam", timeout=30) as http:
        assert http.get("/").text.startswith("<!doctype html>")
        big = make_picture(1, "BMP", (1200, 900))  # over nginx's own limit of 1 MB
        lines = http.post("/locate/batch", files=[("images", ("a", big))]).text.splitlines()
        assert len(lines) == 1
        assert '"result"' in lines[0]
        assert [http.get(path).status_code for path in ("/metrics", "/index/reload", "/index")] == [403, 403, 200]
        assert httpx.get(f"{url}/tilebeam").headers["location"] == f"{url}/tilebeam/"
