"""A page of another site in a real Chromium: what it makes the browser send is refused before anything is decoded."""

import http.server
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from chromium import launched

PAGE = b"<!doctype html><title>evil</title><body>"
MAPPED = "--host-resolver-rules=MAP evil.example 127.0.0.1"
PLAIN_HTTP = "--disable-features=HttpsUpgrades,HttpsFirstBalancedMode,LocalNetworkAccessChecks"
"""The last feature would stop the page before the service is asked; older browsers do not have it."""


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *arguments: Any) -> None:
        """Silence."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched(MAPPED, PLAIN_HTTP) as browser:
        yield browser


@pytest.fixture(scope="module")
def evil() -> Iterator[str]:
    """The origin of another site, on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://evil.example:{server.server_port}"
    server.shutdown()
    server.server_close()


def decoded(url: str) -> str:
    """The lines of /metrics that count decoded and located pictures."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return "\n".join(line for line in lines if "_images_total" in line or 'stage="decode"' in line)


def refused(url: str) -> list[str]:
    """The lines of /metrics that count requests of other sites."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return [line for line in lines if line.startswith("tilebeam_rejections_total") and "cross-site" in line]


@pytest.mark.parametrize(
    "send",
    [
        """url => {
            const form = Object.assign(document.createElement("form"),
                {method: "post", action: url + "/locate", enctype: "multipart/form-data"});
            const input = Object.assign(document.createElement("input"), {type: "file", name: "image"});
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(100)], "a.jpg", {type: "image/jpeg"}));
            input.files = transfer.files;
            form.append(input);
            document.body.append(form);
            form.submit();
        }""",
        """url => { const form = new FormData(); form.append("image", new Blob([new Uint8Array(100)]), "a.jpg");
            fetch(url + "/locate", {method: "POST", mode: "no-cors", body: form}).catch(() => null); }""",
        """url => { const form = new FormData(); form.append("images", new Blob([new Uint8Array(100)]), "a.jpg");
            fetch(url + "/locate/batch", {method: "POST", mode: "no-cors", body: form}).catch(() => null); }""",
        """url => { fetch(url + "/index/reload", {method: "POST", mode: "no-cors"}).catch(() => null); }""",
        """url => { navigator.sendBeacon(url + "/locate/geojson", new Blob(["a"], {type: "text/plain"})); }""",
    ],
    ids=["form", "fetch", "batch", "reload", "beacon"],
)
def test_post_of_a_foreign_page_is_refused_and_nothing_is_decoded(browser: Any, evil: str, url: str, send: str) -> None:
    httpx.get(f"{url}/readyz")
    before, refusals = decoded(url), refused(url)
    page = browser.new_page()
    page.goto(evil)
    page.evaluate(send, url)
    # The browser hides some of these answers from the page and from Playwright.
    deadline = time.monotonic() + 20
    while refused(url) == refusals:
        assert time.monotonic() < deadline, "the service has not refused the request"
        page.wait_for_timeout(50)
    assert decoded(url) == before
    page.close()


def test_page_whose_name_was_rebound_reads_nothing(browser: Any, url: str) -> None:
    """The browser takes `evil.example` for the page's own origin, so only the service can refuse."""
    port = url.rsplit(":", 1)[1]
    page = browser.new_page()
    # The page itself came from the attacker's address, before the name was rebound to this machine.
    page.route("**/attack", lambda route: route.fulfill(body=PAGE.decode(), content_type="text/html"))
    page.goto(f"http://evil.example:{port}/attack")
    for path in ("/index", "/healthz", "/locate"):
        method = "POST" if path == "/locate" else "GET"
        read = page.evaluate("([path, method]) => fetch(path, {method}).then(r => r.status)", [path, method])
        assert read == 421
    assert "coverage" not in page.evaluate("fetch('/index').then(r => r.text())")
    page.close()
