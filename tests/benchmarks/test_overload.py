"""Tests of the overload benchmark's parts against a small server."""

import asyncio
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import pytest

from benchmarks.overload import Load, _grown, bound, closed_loop, open_loop, percentiles, troubles
from benchmarks.support.loopback import Pool, request
from benchmarks.support.server import Server


class Busy(BaseHTTPRequestHandler):
    """Answer every third request with 503 and Retry-After: 7, and break the connection if the path says so."""

    protocol_version = "HTTP/1.1"
    seen = 0
    clients: ClassVar[set[tuple[str, int]]] = set()

    def do_POST(self) -> None:
        """Count the request, read its body, answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/broken":
            self.close_connection = True
            return
        Busy.seen += 1
        Busy.clients.add(self.client_address)
        self.send_response(503 if Busy.seen % 3 == 0 else 200)
        if Busy.seen % 3 == 0:
            self.send_header("Retry-After", "7")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    Busy.seen = 0
    Busy.clients.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_statuses_and_retry_after_are_read(port: int) -> None:
    async def ask() -> list[Any]:
        pool = Pool("127.0.0.1", port, 4)
        answered = [
            await pool.ask(request("/locate", b"x" * 5000, "image/jpeg"), time.perf_counter()) for _ in range(3)
        ]
        answered.append(await pool.ask(request("/broken", b"x", "image/jpeg"), time.perf_counter()))
        answered.append(await pool.ask(request("/locate", b"x", "image/jpeg"), time.perf_counter() - 5))
        pool.close()
        return answered

    first, second, third, broken, late = asyncio.run(ask())
    assert (first.status, second.status, third.status, broken.status) == (200, 200, 503, 0)
    assert (first.retry_after_s, third.retry_after_s) == (None, 7)
    assert late.took_s > 5


def test_open_loop_keeps_its_rate_and_counts_unsent_requests(port: int) -> None:
    messages = [request("/locate", b"x", "image/jpeg")]

    async def run(connections: int) -> Load:
        server = Server("", psutil.Process(), SimpleNamespace())  # type: ignore[arg-type]
        return await open_loop(server, Pool("127.0.0.1", port, connections), messages, 100, 0.5)

    load = asyncio.run(run(50))
    assert (len(load.answered), load.unsent) == (50, 0)
    assert len(load.took_ms(503)) == 16
    assert len(load.rss) >= 2
    none = asyncio.run(run(0))
    assert (none.answered, none.unsent) == ([], 50)


def test_long_idle_connection_is_not_reused(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> list[int]:
        pool, seen = Pool("127.0.0.1", port, 4), []
        for _ in range(2):
            await pool.ask(request("/locate", b"x", "image/jpeg"), time.perf_counter())
            seen.append(len(Busy.clients))
        monkeypatch.setattr("benchmarks.support.loopback._KEPT_S", 0)
        await pool.ask(request("/locate", b"x", "image/jpeg"), time.perf_counter())
        assert pool.open == 1
        return [*seen, len(Busy.clients)]

    assert asyncio.run(ask()) == [1, 1, 2]


def test_closed_loop_repeats_until_time_is_up(port: int) -> None:
    async def run() -> int:
        pool = Pool("127.0.0.1", port, 4)
        return len(await closed_loop(pool, [request("/locate", b"x", "image/jpeg")], 2, 0.3))

    assert asyncio.run(run()) == Busy.seen > 2


GOOD: dict[str, Any] = {
    "unloaded_ms": {"p99": 20.0},
    "bound_ms": 640.0,
    "accepted_ms": {"p99": 690.0},
    "statuses": {200: 100, 503: 90},
    "without_retry_after": 0,
    "unsent": 0,
    "rss_mib": [900, 1000, 1000, 1004, 1001, 1003],
    "batches": {"100": {"peak_mib": 1000, "results": 100}, "1000": {"peak_mib": 1010, "results": 1000}},
}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"accepted_ms": {"p99": 701.0}}, "p99"),
        ({"accepted_ms": percentiles([])}, "p99"),
        ({"statuses": {200: 1, 500: 1}}, "500"),
        ({"statuses": {200: 190}}, "no request was refused"),
        ({"without_retry_after": 1}, "Retry-After"),
        ({"unsent": 5}, "connection"),
        ({"rss_mib": [900, 1000, 1000, 1100, 1200, 1300]}, "memory grew"),
        ({"batches": {"100": GOOD["batches"]["100"], "1000": {"peak_mib": 1200, "results": 1000}}}, "1200 MiB"),
        ({"batches": {"100": GOOD["batches"]["100"], "1000": {"peak_mib": 1000, "results": 999}}}, "999 results"),
    ],
)
def test_each_trouble_is_reported(change: dict[str, Any], word: str) -> None:
    assert list(troubles(GOOD)) == []
    assert word in "".join(troubles(GOOD | change))


def test_bound_is_the_time_of_a_full_queue() -> None:
    found = bound(64.0, 32.0)
    assert (found["queue_images"], found["bound_ms"]) == (128, 2000.0)
    assert (found["singles"], found["singles_ms"], found["singles_kept_ms"]) == (64, 1000.0, 2000.0)


def test_allocator_noise_does_not_count_as_growth() -> None:
    assert _grown([1000, 1010, 1020, 1030]) is None
    assert _grown([100, 100, 120, 120]) is None  # a fifth, and 20 MiB
    assert _grown([1000] * 10 + [1100] * 10) == (1000, 1100)
