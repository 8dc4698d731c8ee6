"""Each status of an error: reached on a running service, a problem document, and documented in both documents."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from PIL import Image

from service.access.keys import add_key
from service.errors import INTERNAL, PROBLEM_TYPES

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/http-api.md"
CLIENT_ONLY = {"unreadable-file"}
REACHED_ELSEWHERE = {
    "photo-too-slow": "tests/retrieval/decoding/test_decoder.py",
    "decoder-ended": "tests/retrieval/decoding/test_decoder.py",
    "reload-refused": "tests/service/test_reload.py",
    "store-unavailable": "tests/service/http/test_batch.py",
    "audit-unavailable": "tests/service/access/test_audit.py",
    "out-of-memory": "tests/retrieval/pictures",
    "not-ready": "tests/service/ops/test_operations.py",
    "internal": "tests/service/ops/test_operations.py",
}
"""Those that need a broken disk, index, encoder or machine; all others are caused by requests below."""


class Site(NamedTuple):
    """A service with keys and small limits: its address, and a key with a rate, without one, and an admin's."""

    url: str
    limited: str
    plain: str
    admin: str


@pytest.fixture(scope="module")
def site(serving: Any, locator: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = [add_key(file, name, rate, admin=name == "root") for name, rate in (("a", 1), ("b", 0), ("root", 0))]
    limits = {"max_image_bytes": 50_000, "max_image_pixels": 90_000, "client_timeout_s": 1.0, "header_timeout_s": 1.0}
    with serving(locator, keys_file=str(file), max_batch_images=2, **limits) as url:
        yield Site(url, *keys)


def png(size: tuple[int, int] = (40, 30)) -> bytes:
    out = BytesIO()
    Image.new("RGB", size).save(out, "PNG")
    return out.getvalue()


def post(site: Site, path: str = "/locate", data: bytes | None = None, key: str = "", **more: Any) -> httpx.Response:
    headers = {"X-API-Key": key or site.plain, "Content-Type": "image/png"} | more.pop("headers", {})
    content = png() if data is None else data
    return httpx.post(site.url + path, content=content, headers=headers, timeout=60, **more)


def raw(site: Site, data: bytes) -> httpx.Response:
    """The answer to bytes that no HTTP library would send."""
    host, port = site.url.removeprefix("http://").split(":")
    with closing(socket.create_connection((host, int(port)), timeout=30)) as connection:
        connection.sendall(data)
        received = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return httpx.Response(int(first.split()[1]), headers=[tuple(line.split(": ", 1)) for line in lines], content=body)


def rate_limited(site: Site) -> httpx.Response:
    post(site, key=site.limited)
    return post(site, key=site.limited)


UPLOAD = b"POST /locate HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: image/png\r\nContent-Length: 9\r\n"
FAR = "?within=" + json.dumps({"type": "Polygon", "coordinates": [[[0, 0], [1, 0]]]})
CASES: dict[str, tuple[int, Callable[[Site], httpx.Response]]] = {
    "unreadable-photo": (400, lambda site: post(site, data=png()[:60])),
    "not-http": (400, lambda site: raw(site, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")),
    "unauthorized": (401, lambda site: httpx.get(f"{site.url}/index")),
    "forbidden": (403, lambda site: post(site, "/index/reload")),
    "cross-site": (403, lambda site: post(site, headers={"Origin": "http://evil.example"})),
    "no-tile": (404, lambda site: httpx.get(f"{site.url}/tiles", headers={"X-API-Key": site.plain})),
    "slow-upload": (408, lambda site: raw(site, UPLOAD + f"X-API-Key: {site.plain}\r\n\r\na".encode())),
    "photo-too-large": (413, lambda site: post(site, data=png((400, 400)))),
    "body-too-large": (413, lambda site: post(site, data=bytes(60_000))),
    "unsupported-photo": (415, lambda site: post(site, data=b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100))),
    "unsupported-body": (415, lambda site: post(site, headers={"Content-Type": "text/plain"})),
    "invalid-request": (422, lambda site: post(site, "/locate?k=0")),
    "invalid-query": (422, lambda site: post(site, "/locate" + FAR)),
    "rate-limited": (429, rate_limited),
    "headers-too-large": (431, lambda site: httpx.get(f"{site.url}/healthz", headers={"X": "a" * 70_000})),
}


@pytest.mark.parametrize("slug", CASES)
def test_status_is_reached_and_is_a_problem_document(site: Site, slug: str) -> None:
    status, cause = CASES[slug]
    answer = cause(site)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    body = answer.json()
    assert (body["type"], body["status"]) == (f"urn:tilebeam:problem:{slug}", status)
    assert body["title"]
    assert body["detail"]
    assert ("retry-after" in answer.headers) == (status in (429, 503))
    assert ("www-authenticate" in answer.headers) == (status == 401)


def test_unknown_name_is_421(serving: Any, locator: Any, check_problem: Any) -> None:
    with serving(locator) as url:
        check_problem(httpx.get(f"{url}/healthz", headers={"Host": "evil.example"}), 421, "unknown-host")


def test_full_service_is_503(serving: Any, locator: Any, check_problem: Any) -> None:
    with serving(locator, max_uploads=1) as url:
        host, port = url.removeprefix("http://").split(":")
        with closing(socket.create_connection((host, int(port)), timeout=30)) as busy:
            busy.sendall(UPLOAD.replace(b"Host: a", b"Host: localhost") + b"\r\na")
            send = lambda: httpx.post(f"{url}/locate", content=png(), headers={"Content-Type": "image/png"}, timeout=60)  # noqa: E731
            answers = (send() for _ in range(200))  # the upload may not have begun when the first one is sent
            full = next(answer for answer in answers if answer.status_code != 200)
    check_problem(full, 503, "overloaded")
    assert int(full.headers["retry-after"]) > 0


def test_slow_service_is_503(serving: Any, stepped: Any, check_problem: Any) -> None:
    with serving(stepped, request_timeout_s=0.5) as url:  # its encoder waits for a permission that does not come
        slow = httpx.post(f"{url}/locate", content=png(), headers={"Content-Type": "image/png"}, timeout=60)
    check_problem(slow, 503, "too-slow")


@pytest.mark.parametrize("path", ["/no", "/locate/", "/static/no.js", "/static/%00", "/static/../routes.py", "/%ff"])
def test_unknown_path_is_404_from_the_framework(site: Site, path: str) -> None:
    answer = httpx.get(site.url + path)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert (answer.json()["type"], answer.json()["title"]) == ("about:blank", "Not Found")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/locate"), ("PUT", "/index"), ("DELETE", "/"), ("POST", "/static/page.js")]
)
def test_unknown_method_is_405_from_the_framework(site: Site, method: str, path: str) -> None:
    answer = httpx.request(method, site.url + path)
    assert (answer.status_code, answer.headers["content-type"]) == (405, "application/problem+json")
    assert (answer.json()["type"], answer.json()["title"]) == ("about:blank", "Method Not Allowed")
    assert "OPTIONS" in answer.headers["allow"]


@pytest.mark.parametrize("value", ["bytes=99999999-", "bytes=x", "bytes=5-3", "lines=1-2"])
def test_range_of_a_file_is_ignored(site: Site, value: str) -> None:
    """Starlette answers a wrong range in plain text."""
    for path in ("/", "/static/page.js"):
        assert httpx.get(site.url + path, headers={"Range": value}).status_code == 200


def test_every_problem_type_is_tried_here_or_there() -> None:
    every = {kind.slug for kind in PROBLEM_TYPES.values()} | {INTERNAL.slug}
    tried = set(CASES) | {"unknown-host", "overloaded", "too-slow"} | set(REACHED_ELSEWHERE)
    assert tried | CLIENT_ONLY == every
    for place in REACHED_ELSEWHERE.values():
        assert (DOCUMENT.parents[1] / place).exists()


def test_every_status_is_documented(site: Site) -> None:
    document = httpx.get(f"{site.url}/openapi.json").json()
    documented = {
        (slug, int(status))
        for path in document["paths"].values()
        for operation in path.values()
        for status, response in operation["responses"].items()
        for slug in response.get("content", {}).get("application/problem+json", {}).get("examples", ())
    }
    rows = re.findall(r"^\| (\d{3}) \| `([\w-]+)` \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    for kind in (*PROBLEM_TYPES.values(), INTERNAL):
        assert (str(kind.status), kind.slug) in rows
        about = document["info"]["description"]
        assert (kind.slug, kind.status) in documented or kind.slug in about or kind.slug in CLIENT_ONLY, kind.slug
    for status in ("404", "405", "400"):
        assert status in document["info"]["description"]


def test_every_operation_documents_what_any_request_can_get(site: Site) -> None:
    for path, operations in httpx.get(f"{site.url}/openapi.json").json()["paths"].items():
        for operation in operations.values():
            assert {"408", "421", "431", "500", "503"} <= set(operation["responses"]), path
