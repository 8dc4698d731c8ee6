"""Readiness, request limits, metrics, shutdown, and internal errors."""

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from retrieval.locator import Locator

Problem = Callable[[httpx.Response, int, str], str]
Picture = Callable[..., bytes]


def test_index_route_describes_loaded_index(http: httpx.Client, locator: Locator) -> None:
    body = http.get("/index").json()
    assert body["id"] == locator.describe()["id"]
    assert [zoom["zoom"] for zoom in body["zooms"]] == [4, 6, 8]
    assert body["coverage"]["geometry"]["type"] == "Polygon"


def test_alive_at_once_and_ready_after_first_inference(serving: Any, stepped: Any, check_problem: Problem) -> None:
    with serving(stepped) as url, httpx.Client(base_url=url, timeout=20) as http:
        assert stepped.encoder.waiting.acquire(timeout=10)  # the warm-up inference is held in the encoder
        assert http.get("/healthz").json() == {"status": "alive"}
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(http.get, "/readyz")
            stepped.encoder.failing = True
            stepped.encoder.steps.release(2)  # the warm-up fails, and so does the inference that /readyz tries
            detail = check_problem(asked.result(), 503, "not-ready")
        assert "secret" not in detail
        stepped.encoder.failing = False
        stepped.encoder.steps.release()
        assert http.get("/readyz").json() == {"status": "ready"}


def test_internal_error_is_500_without_details_and_ends_readiness(
    serving: Any, stepped: Any, check_problem: Problem, make_picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(stepped) as url, httpx.Client(base_url=url, timeout=20) as http:
        stepped.encoder.steps.release()
        assert http.get("/readyz").status_code == 200
        stepped.encoder.failing = True
        stepped.encoder.steps.release(10)
        with caplog.at_level(logging.ERROR):
            answer = http.post("/locate", files={"image": make_picture()})
        assert "secret" not in check_problem(answer, 500, "internal")
        while not any("secret internals" in str(record.exc_info) for record in caplog.records):
            time.sleep(0.01)  # the log line is written after the answer
        line = http.post("/locate/batch", files=[("images", ("a", make_picture()))]).json()
        assert line["error"]["status"] == 500
        assert http.get("/readyz").status_code == 503
        stepped.encoder.failing = False
        assert http.get("/readyz").status_code == 200


def test_unreadable_picture_does_not_end_readiness(http: httpx.Client) -> None:
    assert http.post("/locate", files={"image": b"no"}).status_code == 400
    assert http.post("/locate?bbox=-150,83,-145,84", files={"image": b"no"}).status_code == 400
    assert http.get("/readyz").status_code == 200


def test_requests_over_limit_are_rejected_before_upload(
    serving: Any, stepped: Any, check_problem: Problem, make_picture: Picture
) -> None:
    with serving(stepped, max_in_flight=2, caller_share=1.0, retry_after_s=3) as url, ThreadPoolExecutor(2) as pool:
        assert stepped.encoder.waiting.acquire(timeout=10)
        stepped.encoder.steps.release()  # the readiness inference
        assert httpx.get(f"{url}/readyz").status_code == 200
        ask = lambda: httpx.post(f"{url}/locate", files={"image": make_picture()}, timeout=20)  # noqa: E731
        asked = [pool.submit(ask) for _ in range(2)]
        assert stepped.encoder.waiting.acquire(timeout=10)
        while "tilebeam_requests_in_flight 3.0" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.01)  # two running requests, and this one
        refused = ask()
        assert "2 requests are in progress" in check_problem(refused, 503, "overloaded")
        assert refused.headers["retry-after"] == "3"
        stepped.encoder.steps.release(10)
        assert [answer.result().status_code for answer in asked] == [200, 200]
        assert ask().status_code == 200


SLOW = """
import sys, time
from pathlib import Path
from retrieval.testing.fake import FakePhotoEncoder
from retrieval.locator import Locator
from service.app import create_app
from service.serving import listen, run
from service.settings import Settings

class Slow(FakePhotoEncoder):
    def encode(self, batch):
        time.sleep(1.0)
        return super().encode(batch)

listener = listen("127.0.0.1", 0)
app = create_app(Settings(), Locator.open(Path(sys.argv[1]), encoder=Slow()))
print(listener.getsockname()[1], flush=True)
run(app, listener, Settings())
"""


def test_sigterm_waits_for_running_requests(index_dir: Path, make_picture: Picture) -> None:
    command = [sys.executable, "-c", SLOW, str(index_dir)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            assert httpx.get(f"{url}/readyz", timeout=30).status_code == 200
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(httpx.post, f"{url}/locate", files={"image": make_picture()}, timeout=30)
                while "tilebeam_requests_in_flight 2.0" not in httpx.get(f"{url}/metrics").text:
                    time.sleep(0.02)
                process.send_signal(signal.SIGTERM)
                assert asked.result().status_code == 200
            assert process.wait(timeout=20) == 0
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/healthz")
        finally:
            process.kill()


def test_metrics_count_requests_by_route_and_status(serving: Any, locator: Locator, make_picture: Picture) -> None:
    with serving(locator) as url, httpx.Client(base_url=url) as http:
        http.get("/readyz")
        before = http.get("/metrics").text
        assert "tilebeam_images_total 1.0" in before  # the readiness inference
        http.post("/locate", files={"image": make_picture()})
        http.post("/locate", files={"image": b"no"})
        http.post("/locate/batch", files=[("images", ("a", make_picture())), ("images", ("b", b""))])
        http.get("/no/such/" + "x" * 50)
        text = http.get("/metrics").text
    for line in (
        'tilebeam_requests_total{route="/locate",status="200"} 1.0',
        'tilebeam_requests_total{route="/locate",status="400"} 1.0',
        'tilebeam_requests_total{route="/locate/batch",status="200"} 1.0',
        'tilebeam_requests_total{route="other",status="404"} 1.0',
        'tilebeam_rejections_total{problem="unreadable-photo"} 2.0',
        "tilebeam_images_total 3.0",
        'tilebeam_stage_seconds_count{stage="encode"} 3.0',
        'tilebeam_request_seconds_count{route="/locate"} 2.0',
        "tilebeam_requests_in_flight 1.0",
    ):
        assert line in text, line
    assert "no/such" not in text


def test_page_and_docs_are_served(http: httpx.Client) -> None:
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert 'type="file" name="image"' in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert http.get("/docs").status_code == 200
    paths = http.get("/openapi.json").json()["paths"]
    about = {"/index", "/index/reload", "/healthz", "/readyz", "/metrics", "/tiles", "/tiles/{z}/{x}/{y}"}
    assert set(paths) == {"/locate", "/locate/geojson", "/locate/batch"} | about
    body = paths["/locate"]["post"]["requestBody"]["content"]
    assert set(body) == {"multipart/form-data", "image/*"}
    assert {p["name"] for p in paths["/locate"]["post"]["parameters"]} == {
        "k", "alternatives", "bbox", "trace", "prior", "within", "register", "width_km", "heading",
    }  # fmt: skip


def test_plain_browser_form_is_accepted(http: httpx.Client, make_picture: Picture) -> None:
    assert (
        http.post("/locate", files={"image": ("photo.png", make_picture(kind="PNG"), "image/png")}).status_code == 200
    )
    assert http.post("/locate", files={"image": ("x", b"", "application/octet-stream")}).status_code == 400


def test_pillow_warnings_are_not_logged() -> None:
    """They are not JSON, they quote the picture, and Python would remember each distinct text."""
    program = """
import warnings
from service.ops.logs import configure
configure("info")
registry = {}
warnings.warn_explicit("tag 259 had too many entries", UserWarning, "x.py", 1, "PIL.TiffImagePlugin", registry)
print([key for key in registry if key != "version"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
