"""What a web page of another site can make a browser do with the service, and the headers of every answer."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from retrieval.locator import Locator
from service.access.keys import add_key

Problem = Callable[[httpx.Response, int, str], str]
Picture = Callable[..., bytes]
EVERY = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::2]:80", "a b", ""])
def test_foreign_name_is_refused_on_loopback(http: httpx.Client, check_problem: Problem, host: str) -> None:
    for path in ("/index", "/", "/healthz", "/no/such"):
        detail = check_problem(http.get(path, headers={"Host": host}), 421, "unknown-host")
        assert "TILEBEAM_ALLOWED_HOSTS" in detail


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "localhost.", "127.0.0.1:9", "[::1]:8000", "[::1]"])
def test_own_name_is_accepted_with_any_port(http: httpx.Client, host: str) -> None:
    assert http.get("/index", headers={"Host": host}).status_code == 200


def test_names_are_a_setting(serving: Any, locator: Locator) -> None:
    with serving(locator, allowed_hosts="maps.example, other.example") as url:
        status = lambda host: httpx.get(f"{url}/index", headers={"Host": host}).status_code  # noqa: E731
        assert [status(h) for h in ("maps.example:8443", "OTHER.example", "localhost")] == [200] * 3
        assert status("evil.example") == 421
    with serving(locator, allowed_hosts="*") as url:
        assert httpx.get(f"{url}/index", headers={"Host": "evil.example"}).status_code == 200


def test_name_does_not_matter_where_a_key_is_needed(serving: Any, locator: Locator, tmp_path: Any) -> None:
    key = add_key(tmp_path / "keys.json", "alice", 0, admin=False)
    with serving(locator, keys_file=str(tmp_path / "keys.json")) as url:
        headers = {"Host": "maps.example", "X-API-Key": key}
        assert httpx.get(f"{url}/index", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"},
    ],
)
def test_post_of_another_sites_page_is_refused(
    http: httpx.Client, check_problem: Problem, make_picture: Picture, headers: dict[str, str]
) -> None:
    files = {"image": make_picture()}
    assert "TILEBEAM_CORS_ORIGINS" in check_problem(
        http.post("/locate", files=files, headers=headers), 403, "cross-site"
    )
    many = http.post("/locate/batch", files=[("images", make_picture())], headers=headers)
    check_problem(many, 403, "cross-site")
    check_problem(http.post("/index/reload", headers=headers), 403, "cross-site")
    assert http.get("/index", headers=headers).status_code == 200


def test_own_page_and_programs_may_post(http: httpx.Client, make_picture: Picture) -> None:
    files = {"image": make_picture()}
    own = f"http://{http.base_url.host}:{http.base_url.port}"
    for headers in (
        {},
        {"Origin": own},
        {"Origin": own, "Sec-Fetch-Site": "same-origin"},
        {"Origin": "https://proxied.example", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ):
        assert http.post("/locate", files=files, headers=headers).status_code == 200, headers


def test_origins_are_a_setting(serving: Any, locator: Locator, make_picture: Picture) -> None:
    with serving(locator, cors_origins="https://a.example") as url, httpx.Client(base_url=url) as http:
        files = {"image": make_picture()}
        answer = http.post("/locate", files=files, headers={"Origin": "https://a.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert http.post("/locate", files=files, headers={"Origin": "https://b.example"}).status_code == 403
        asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = http.options("/locate", headers={"Origin": "https://a.example"} | asked)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert "access-control-allow-origin" not in http.get("/index", headers={"Origin": "https://b.example"}).headers
    with serving(locator) as url:
        plain = httpx.get(f"{url}/index", headers={"Origin": "https://a.example"})
        assert "access-control-allow-origin" not in plain.headers


def test_every_answer_has_the_headers_that_browsers_obey(http: httpx.Client, make_picture: Picture) -> None:
    answers = [
        http.get(path) for path in ("/", "/docs", "/static/page.js", "/index", "/metrics", "/openapi.json", "/no")
    ]
    answers += [http.get("/tiles"), http.get("/healthz", headers={"Host": "evil.example"}), http.post("/locate")]
    answers += [http.post("/locate", files={"image": make_picture()})]
    for answer in answers:
        assert answer.headers.items() >= EVERY.items(), answer.url
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] in ("no-store", "no-cache")


def test_slash_at_the_end_is_no_redirect(http: httpx.Client, serving: Any, locator: Locator) -> None:
    assert http.post("/locate/").status_code == 404
    with serving(locator, allowed_hosts="*") as url:
        answer = httpx.post(f"{url}/locate/", headers={"Host": "evil.example"})
        assert (answer.status_code, "location" in answer.headers) == (404, False)
