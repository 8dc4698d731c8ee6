"""Pictures that cost a decoder gigabytes or minutes, sent to a real `tilebeam serve` with the built-in encoder.

Nothing but documented answers, the next picture is answered, its log is JSON lines only, and service and decoding
process together stay below the memory that docs/deployment.md names.
"""

import json
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from benchmarks.hostile import reference
from benchmarks.support.bombs import bombs, floats
from benchmarks.support.memory import Peak
from benchmarks.support.mutations import Hostile
from benchmarks.support.promises import MEMORY_BYTES
from benchmarks.support.server import Server, built_index, started

ALLOWED = {200, 400, 413, 415, 503}


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
    before, statuses = reference(server.url, {}), dict[str, int]()
    with Peak(server.process) as peak:
        for bomb in built:
            answer = httpx.post(f"{server.url}/locate", files={"image": bomb.data}, timeout=120)
            statuses[bomb.name] = answer.status_code
            assert answer.status_code == 200 or answer.json()["type"].startswith("urn:tilebeam:problem:"), answer.text
        assert {name: status for name, status in statuses.items() if status not in ALLOWED} == {}
        assert reference(server.url, {}) == before
        assert httpx.get(f"{server.url}/readyz", timeout=120).status_code == 200
    print(f"{peak.together:,} bytes together, {peak.child:,} of the decoding process")
    assert peak.child > 300_000_000  # the measurement has seen the large ones
    assert peak.together < MEMORY_BYTES


def test_a_batch_of_bombs_is_decoded_one_at_a_time(server: Server) -> None:
    with Peak(server.process) as peak:
        files = [("images", (f"{n}.tif", floats(5_000))) for n in range(8)]
        answer = httpx.post(f"{server.url}/locate/batch", files=files, timeout=300)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["index"] for line in lines] == list(range(8))
    assert all("result" in line or line["error"]["status"] in ALLOWED for line in lines)
    assert peak.together < MEMORY_BYTES


def test_clients_that_leave_hold_nothing(server: Server, built: list[Hostile]) -> None:
    """Pictures of many scans from clients that do not stay: the next one is answered in its time."""
    for bomb in (bomb for bomb in built if "scans" in bomb.name or "floats" in bomb.name):
        for _ in range(2):
            leave(server, bomb)
    before = reference(server.url, {})
    assert before["levels"]
    assert httpx.get(f"{server.url}/readyz", timeout=120).status_code == 200


def leave(server: Server, bomb: Hostile) -> None:
    """Send a picture and do not wait for its answer."""
    timeout = httpx.Timeout(60, read=0.0001)
    with suppress(httpx.TimeoutException):  # a picture that is refused by its header may be answered before that
        httpx.post(f"{server.url}/locate", files={"image": bomb.data}, timeout=timeout)


def test_the_log_is_lines_of_json_only(server: Server) -> None:
    """Last: no decoder of the pictures above has printed to it, nor was there an error."""
    lines = [line for line in list(server.log) if line.strip()]
    assert [line for line in lines if not line.startswith("{")] == []
    assert [line for line in lines if json.loads(line)["level"] in ("error", "critical")] == []
    assert len(lines) < 500
