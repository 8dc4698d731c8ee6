"""The checks of benchmarks/hostile.py can fail: against small servers with one fault each, and against figures."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.hostile import same
from benchmarks.support.memory import Peak, anonymous, limited
from benchmarks.support.observer import Observer, Seen, Visit
from benchmarks.support.promises import LEAST_VISITS, MEMORY_BYTES, Phase, broken_promises, table
from benchmarks.support.trickles import ATTACKS, comb, star
from retrieval.geo.region import Region

PROBLEM = b'{"type": "urn:tilebeam:problem:overloaded"}'


class Server(BaseHTTPRequestHandler):
    """Reads heads of any size and bodies of any pace, and answers `/locate` with `status` and `body`."""

    protocol_version = "HTTP/1.1"
    status, body = 200, b"{}"

    def do_GET(self) -> None:
        """Answer `/healthz`."""
        self.answer(200, b"{}")

    def do_POST(self) -> None:
        """Read the body, then answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        batch = b'{"index": 0}\n{"index": 1}\n' if self.path.startswith("/locate/batch") else b"{}"
        self.answer(self.status, batch if self.status == 200 else self.body)

    def answer(self, status: int, body: bytes) -> None:
        """Send status and body."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def serving(**attributes: Any) -> Iterator[str]:
    handler = type("Changed", (Server,), attributes)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def seen(locate_ms: float = 20, healthz_ms: float = 2, status: int = 200, batch: int = 200) -> Seen:
    rows = [("locate", locate_ms, status), ("healthz", healthz_ms, 200), ("batch", 50, batch)]
    return Seen([Visit(kind, number, code, took) for number in range(LEAST_VISITS) for kind, took, code in rows])


QUIET = Phase("quiet", seen(), 700_000_000)


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        (Phase("a", seen(locate_ms=61), 0), "took 61 ms (median of 12), and 60 are allowed"),
        (Phase("a", seen(healthz_ms=1_001), 0), "/healthz took 1,001 ms"),
        (Phase("a", seen(), MEMORY_BYTES + 1), "1,500,000,001 bytes of memory"),
        (Phase("a", seen(status=503), 0), "locate had statuses {503: 12}"),
        (Phase("a", seen(batch=503), 0, one_key=True), "batch had statuses {503: 12}"),
        (Phase("a", Seen([]), 0), "no locate was answered"),
        (Phase("a", seen(), 0, Counter({"200": 3, "431": 9}), frozenset({"431"})), "outcomes {'200': 3}"),
    ],
)
def test_each_broken_promise_is_said_with_its_phase(phase: Phase, words: str) -> None:
    assert list(broken_promises(QUIET, [QUIET])) == []
    faults = list(broken_promises(QUIET, [phase]))
    assert [fault for fault in faults if fault.startswith("a: ") and words in fault] != [], faults


def test_times_of_a_busy_machine_are_void_and_the_rest_counts() -> None:
    busy = ("other processes waited",)
    assert list(broken_promises(QUIET, [Phase("a", seen(locate_ms=900, healthz_ms=2_000), 0, busy=busy)])) == []
    assert "void (45.0)" in table(QUIET, [Phase("a", seen(locate_ms=900), 0, busy=busy)])
    assert len(list(broken_promises(QUIET, [Phase("a", seen(status=500), 0, busy=busy)]))) == 1


def test_batches_count_only_beside_attackers_with_one_key() -> None:
    assert list(broken_promises(QUIET, [Phase("a", seen(batch=503), 0)])) == []


def test_memory_is_reported_once() -> None:
    over = Phase("a", seen(), MEMORY_BYTES + 1)
    assert len(list(broken_promises(QUIET, [over, over, over]))) == 1


@pytest.mark.parametrize("name", ["headers of 1 MB", "2,000,000 headers"])
def test_server_that_answers_an_endless_head_is_seen(name: str) -> None:
    """Python's server answers too many headers with 431, so this one is made to read whatever comes."""

    def parse_request(self: Server) -> bool:
        self.requestline, self.request_version = "GET /", "HTTP/1.1"
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            del line
        self.answer(200, b"{}")
        self.close_connection = True
        return False

    run, right = ATTACKS[name]
    with serving(parse_request=parse_request) as url:
        outcomes = run(url, "key", 3)
    assert outcomes.keys() - right  # 200; or open, where the machine is too slow for the whole head


def test_outcomes_tell_a_problem_document_from_a_bare_error() -> None:
    run, right = ATTACKS["regions of spikes"]
    with serving(status=503, body=b"busy") as url:
        assert set(run(url, "key", 0.5)) - right == {"no problem document"}
    with serving(status=503, body=PROBLEM) as url:
        assert set(run(url, "key", 0.5)) == {"503"}
    with serving(status=500, body=PROBLEM) as url:
        assert set(run(url, "key", 0.5)) - right == {"500"}


def test_regions_of_spikes_are_valid() -> None:
    for text in (comb(270), comb(1_100), star(130), star(1_100)):
        assert len(text) < 40_000  # the service accepts addresses of 64 kB
        assert Region.of_geojson(text) is not None


def test_observer_sees_statuses_and_slow_answers() -> None:
    def slow(self: Server) -> None:
        time.sleep(0.3)
        self.answer(200, b"{}")

    with serving(do_GET=slow, status=503, body=PROBLEM) as url, Observer(url, "key") as observer:
        begin = time.monotonic()
        time.sleep(1)
        sight = observer.between(begin, time.monotonic())
    assert set(sight.statuses("locate")) == {503}
    assert max(sight.took_ms("healthz")) >= 300
    with serving(status=503, body=b"busy") as url, Observer(url, "key") as observer:
        begin = time.monotonic()
        time.sleep(1)
        sight = observer.between(begin, time.monotonic())
    assert set(sight.statuses("locate")) == {1}  # a 503 that is no problem document
    faults = list(broken_promises(QUIET, [Phase("bare", sight, 0, busy=["busy"])]))
    assert "bare: the other caller's locate had statuses {1:" in faults[0]


def test_observer_sees_a_service_that_has_ended() -> None:
    with serving() as url, Observer(url, "key") as observer:
        begin = time.monotonic()
        time.sleep(0.5)
        assert set(observer.between(begin, time.monotonic()).statuses("locate")) == {200}
    with Observer("http://127.0.0.1:9", "key") as observer:
        begin = time.monotonic()
        time.sleep(0.5)
        assert set(observer.between(begin, time.monotonic()).statuses("healthz")) == {0}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_of_children_counts() -> None:
    text = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'a = b\"x\" * 200_000_000; input()'])"
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE) as parent:
        with Peak(psutil.Process(parent.pid)) as peak:
            while peak.child < 200_000_000:
                assert parent.poll() is None
                time.sleep(0.01)
        parent.communicate(b"\n")
    assert peak.together > peak.child
    assert anonymous(parent.pid) == 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_pages_that_a_forked_child_shares_count_once() -> None:
    text = "import os; a = b'x' * 200_000_000; pid = os.fork(); print(pid, flush=True) if pid else None; input()"
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        with Peak(psutil.Process(parent.pid)) as peak:
            while not peak.together:
                time.sleep(0.01)
            time.sleep(0.1)
        psutil.Process(child).kill()
        parent.communicate(b"\n")
    assert 200_000_000 < peak.together < 300_000_000


def test_group_without_a_memory_controller_says_so(tmp_path: Path) -> None:
    with limited(1 << 30, tmp_path) as group:
        assert group.prefix == ()
        assert str(group).startswith("not enforced by Linux: ")


def test_group_is_a_child_of_the_own_one_and_limits_memory(tmp_path: Path) -> None:
    """A folder that looks like a group: what is written where."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if own is None:
        pytest.skip("Linux runs without control groups of version 2")
    parent = tmp_path / own.strip("/")
    parent.mkdir(parents=True, exist_ok=True)
    (parent / "cgroup.subtree_control").write_text("cpu memory\n")
    with limited(12_345, tmp_path) as group:
        assert group.folder is not None
        assert group.folder.parent == parent
        assert (group.folder / "memory.max").read_text() == "12345"
        printed = subprocess.run([*group.prefix, "echo", "a b"], capture_output=True, text=True, check=True).stdout
        assert printed == "a b\n"
        assert (group.folder / "cgroup.procs").read_text().strip().isdigit()


def test_answers_are_the_same_but_for_the_last_digit() -> None:
    answer = {"lat": 24.219625, "levels": [{"tile": {"z": 4, "x": 10}, "confidence": 0.4829}], "zoom": 8, "prior": None}
    rounded = {**answer, "levels": [{"tile": {"z": 4, "x": 10}, "confidence": 0.4830}]}
    assert same(answer, rounded)
    assert not same(answer, {**answer, "levels": [{"tile": {"z": 4, "x": 11}, "confidence": 0.4829}]})
    assert not same(answer, {**answer, "lat": 24.2296})
    assert not same(answer, {**answer, "more": 1})
    assert not same(answer, {**answer, "levels": []})


def test_median_of_few_visits_is_not_judged() -> None:
    few = Seen(seen(locate_ms=900).visits[: 3 * (LEAST_VISITS - 1)])
    assert list(broken_promises(QUIET, [Phase("a", few, 0)])) == []
