"""Pictures that cost a decoder gigabytes or minutes, sent to a real `tilebeam serve` with the built-in encoder.

Nothing but documented answers, the next picture is answered, its log is JSON lines only, and service and decoding
process together stay below the memory that docs/deployment.md names.
"""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from benchmarks.hostile import reference
from benchmarks.support.bombs import bombs, floats
from benchmarks.support.mutations import Hostile
from benchmarks.support.server import Server, built_index, started

MEMORY_BYTES = 1_500_000_000
ALLOWED = {200, 400, 413, 415, 503}


class Peak:
    """The most memory that a service and the processes that it started have at one time, in bytes.

    Anonymous memory: the files of libraries, which a system can drop, do not count.
    """

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._over = process, threading.Event()
        self._highest = self._highest_child = 0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            own, child = anonymous(self._process.pid), sum(anonymous(each.pid) for each in self._process.children())
            self._highest = max(self._highest, own + child)
            self._highest_child = max(self._highest_child, child)

    def figures(self) -> tuple[int, int]:
        """That of all together, and that of the decoding process."""
        self._over.set()
        self._thread.join()
        return self._highest, self._highest_child


def anonymous(pid: int) -> int:
    """The anonymous memory of a process, in bytes; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("RssAnon")), 0)


@pytest.fixture(scope="module")
def built() -> list[Hostile]:
    return bombs()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    index = built_index(tmp_path_factory.mktemp("index"), 300)
    with started(index, threads="1", caller_share="1") as server:
        assert httpx.get(f"{server.url}/readyz", timeout=120).status_code == 200
        yield server


def test_no_bomb_ends_the_service_or_takes_its_memory(server: Server, built: list[Hostile]) -> None:
    before, peak = reference(server.url, {}), Peak(server.process)
    statuses: dict[str, int] = {}
    for bomb in built:
        answer = httpx.post(f"{server.url}/locate", files={"image": bomb.data}, timeout=120)
        statuses[bomb.name] = answer.status_code
        assert answer.status_code == 200 or answer.json()["type"].startswith("urn:tilebeam:problem:"), answer.text
    assert {name: status for name, status in statuses.items() if status not in ALLOWED} == {}
    assert reference(server.url, {}) == before
    assert httpx.get(f"{server.url}/readyz", timeout=120).status_code == 200
    together, child = peak.figures()
    print(f"{together:,} bytes together, {child:,} of the decoding process")
    assert child > 300_000_000  # the measurement has seen the large ones
    assert together < MEMORY_BYTES


def test_a_batch_of_bombs_is_decoded_one_at_a_time(server: Server) -> None:
    peak = Peak(server.process)
    files = [("images", (f"{n}.tif", floats(5_000))) for n in range(8)]
    answer = httpx.post(f"{server.url}/locate/batch", files=files, timeout=300)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["index"] for line in lines] == list(range(8))
    assert all("result" in line or line["error"]["status"] in ALLOWED for line in lines)
    assert peak.figures()[0] < MEMORY_BYTES


def test_clients_that_leave_hold_nothing(server: Server, built: list[Hostile]) -> None:
    """Pictures of many scans from clients that do not stay: the next one is answered in its time."""
    for bomb in (bomb for bomb in built if "scans" in bomb.name or "floats" in bomb.name):
        for _ in range(2):
            with pytest.raises(httpx.TimeoutException):
                leave(server, bomb)
    before = reference(server.url, {})
    assert before["levels"]
    assert httpx.get(f"{server.url}/readyz", timeout=120).status_code == 200


def leave(server: Server, bomb: Hostile) -> None:
    """Send a picture and do not wait for its answer."""
    timeout = httpx.Timeout(60, read=0.0001)
    httpx.post(f"{server.url}/locate", files={"image": bomb.data}, timeout=timeout)


def test_the_log_is_lines_of_json_only(server: Server) -> None:
    """Last: no decoder of the pictures above has printed to it, nor was there an error."""
    lines = [line for line in list(server.log) if line.strip()]
    assert [line for line in lines if not line.startswith("{")] == []
    assert [line for line in lines if json.loads(line)["level"] in ("error", "critical")] == []
    assert len(lines) < 500
