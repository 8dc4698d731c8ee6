"""HEAD, OPTIONS and methods that a path does not have, against a running service."""

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.access.keys import add_key

OPEN = ("/healthz", "/readyz", "/metrics", "/", "/docs", "/index", "/openapi.json", "/tiles", "/tiles/1/0/0")
FILES = ("/static/page.js", "/static/style.css", "/static/leaflet/leaflet.js", "/static/leaflet/images/layers.png")
CHANGING = {"date", "x-request-id"}


@pytest.fixture(scope="module")
def http(serving: Any, locator: Any) -> Iterator[httpx.Client]:
    with serving(locator, tiles="bluemarble") as url, httpx.Client(base_url=url, timeout=60) as http:
        yield http


def constant(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name not in CHANGING}


@pytest.mark.parametrize("path", [*OPEN, *FILES])
def test_head_has_the_headers_of_get_and_no_body(http: httpx.Client, path: str) -> None:
    get, head = http.get(path), http.head(path)
    assert (get.status_code, head.status_code, head.content) == (200, 200, b"")
    one, other = constant(get), constant(head)
    if path == "/metrics":  # counts the requests
        assert int(one.pop("content-length")) > 0
        assert int(other.pop("content-length")) > 0
    assert other == one


def test_head_sends_no_byte_after_its_headers(http: httpx.Client) -> None:
    with socket.create_connection((http.base_url.host, http.base_url.port or 0), timeout=20) as connection:
        connection.sendall(b"HEAD /index HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert received.startswith(b"HTTP/1.1 200")
    assert received.endswith(b"\r\n\r\n")


def test_head_of_a_known_tile_is_304(http: httpx.Client) -> None:
    tag = http.head("/tiles/1/0/0").headers["etag"]
    assert http.head("/tiles/1/0/0", headers={"If-None-Match": tag}).status_code == 304


def test_head_is_refused_as_get_is(http: httpx.Client, serving: Any, locator: Any, tmp_path: Any) -> None:
    for path, status in (("/no/such", 404), ("/static/no", 404), ("/tiles/99/0/0", 404), ("/locate", 405)):
        assert (http.head(path).status_code, http.get(path).status_code) == (status, status)
    add_key(tmp_path / "keys.json", "alice", 0, admin=False)
    with serving(locator, keys_file=str(tmp_path / "keys.json")) as url:
        assert httpx.head(f"{url}/index").status_code == httpx.head(f"{url}/metrics").status_code == 401
        assert httpx.head(f"{url}/readyz").status_code == 200


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/locate", "POST, OPTIONS"),
        ("/locate/batch", "POST, OPTIONS"),
        ("/index", "GET, HEAD, OPTIONS"),
        ("/index/reload", "POST, OPTIONS"),
        ("/", "GET, HEAD, OPTIONS"),
        ("/openapi.json", "GET, HEAD, OPTIONS"),
        ("/tiles/1/0/0", "GET, HEAD, OPTIONS"),
        ("/static/page.js", "GET, HEAD, OPTIONS"),
    ],
)
def test_options_and_405_name_the_methods(http: httpx.Client, path: str, methods: str) -> None:
    asked = http.options(path)
    assert (asked.status_code, asked.content, asked.headers["allow"]) == (204, b"", methods)
    refused = http.request("DELETE", path)
    assert (refused.status_code, refused.headers["allow"]) == (405, methods)
    assert refused.json()["type"] == "about:blank"


def test_options_of_another_site_allow_nothing(http: httpx.Client) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = http.options("/locate", headers=headers)
    assert [name for name in answer.headers if name.startswith("access-control")] == []
    assert http.options("/no/such").status_code == 404


def test_document_names_only_the_methods_that_answer(http: httpx.Client) -> None:
    for path, operations in http.get("/openapi.json").json()["paths"].items():
        assert set(operations) <= {"get", "post"}, path
