"""Connections before there is a request: their heads' size and time, their number, and who is closed first."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import httpx
import pytest

from benchmarks.support.trickles import reads_nothing
from retrieval.locator import Locator

Picture = Callable[..., bytes]
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /locate HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@contextmanager
def connected(url: str, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A connection from this loopback address."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20, source_address=(source, 0)) as connection:
        yield connection


def reply(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Everything that the service sends until it closes: status, headers, body. Status 0: nothing."""
    received = bytearray()
    try:
        while chunk := connection.recv(65_536):
            received += chunk
    except ConnectionResetError:
        pass
    if not received:
        return 0, {}, b""
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return int(first.split()[1]), headers, body


def refusal(connection: socket.socket, status: int, slug: str) -> str:
    """Assert that the service sends this problem and closes; returns its detail."""
    found, headers, body = reply(connection)
    assert (found, headers.get("content-type")) == (status, "application/problem+json"), body
    assert headers["connection"] == "close"
    problem = json.loads(body)
    assert set(problem) == {"type", "title", "status", "detail"}
    assert (problem["type"], problem["status"]) == (f"urn:tilebeam:problem:{slug}", status)
    return str(problem["detail"])


def is_open(connection: socket.socket) -> bool:
    """Whether the service has not closed the connection yet."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        connection.settimeout(20)


def refused(url: str, reason: str) -> float:
    text = httpx.get(f"{url}/metrics").text
    found = re.search(rf'^tilebeam_refused_connections_total{{reason="{reason}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        time.sleep(0.01)


def sent_until_refused(connection: socket.socket, piece: bytes, most: int) -> int:
    """Send a piece again and again; returns how many bytes went out before the connection broke."""
    sent = 0
    try:
        while sent < most:
            connection.sendall(piece)
            sent += len(piece)
    except OSError:
        pass
    return sent


@pytest.mark.parametrize(
    "head",
    [
        HEALTH + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
        HEALTH + b"a:b\r\n" * 200 + b"\r\n",
        HEALTH + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 1000) for n in range(80)) + b"\r\n",
        b"GET /healthz?" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["one long header", "many headers", "long in all", "long address"],
)
def test_large_head_is_refused_with_431(url: str, head: bytes) -> None:
    with connected(url) as connection:
        connection.sendall(head)
        assert "65,536 bytes or 100 headers" in refusal(connection, 431, "headers-too-large")
    assert httpx.get(f"{url}/healthz").status_code == 200


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (HEALTH + b"X: ", b"a" * 4096),
        (HEALTH, b"a:b\r\n" * 800),
        (b"GET /", b"a" * 4096),
        (b"", b"\r\n" * 2048),
        (CHUNKED + b"1;", b"a" * 4096),
        (CHUNKED + b"1\r\na\r\n0\r\nX: ", b"a" * 4096),
    ],
    ids=["header", "headers", "address", "blank lines", "chunk extension", "trailer"],
)
def test_endless_head_is_ended(url: str, start: bytes, piece: bytes) -> None:
    with connected(url) as connection:
        connection.sendall(start)
        # What the kernels buffer at both ends is sent, but not read.
        assert sent_until_refused(connection, piece, 64 << 20) < 32 << 20
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_head_within_the_limits_is_served(url: str) -> None:
    head = HEALTH + b"X: " + b"a" * 60_000 + b"\r\n" + b"a:b\r\n" * 90 + b"Connection: close\r\n\r\n"
    with connected(url) as connection:
        for start in range(0, len(head), 7000):
            connection.sendall(head[start : start + 7000])
        assert reply(connection)[0] == 200


def test_what_is_not_http_is_refused_with_400_and_not_logged(url: str, caplog: pytest.LogCaptureFixture) -> None:
    for data in (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with connected(url) as connection:
            connection.sendall(data)
            refusal(connection, 400, "not-http")
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


@pytest.mark.parametrize(
    "rest",
    [
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n",
        b"Transfer-Encoding: identity\r\n\r\nhello",
        b"Transfer-Encoding: xchunked\r\n\r\nhello",
    ],
)
def test_a_body_that_is_not_http_is_answered(url: str, rest: bytes) -> None:
    with connected(url) as connection:
        connection.sendall(POST + rest)
        refusal(connection, 400, "not-http")


def test_nonsense_behind_a_request_takes_no_answers_place(serving: Any, stepped: Any, make_picture: Picture) -> None:
    """The client must not take the refusal of its second request for the answer to its first."""
    data = make_picture(1)
    with serving(stepped) as url, connected(url) as connection:
        stepped.encoder.steps.release()
        assert httpx.get(f"{url}/readyz").status_code == 200
        assert stepped.encoder.waiting.acquire(timeout=10)
        connection.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        assert stepped.encoder.waiting.acquire(timeout=10)
        connection.sendall(b"\0nonsense\r\n\r\n")
        assert reply(connection)[0] == 0
        stepped.encoder.steps.release()


def test_slow_head_is_ended(serving: Any, locator: Locator) -> None:
    with serving(locator, header_timeout_s=0.5) as url, ExitStack() as stack:
        silent, slow = stack.enter_context(connected(url)), stack.enter_context(connected(url))
        for byte in HEALTH[:8]:
            slow.sendall(bytes([byte]))
            time.sleep(0.02)
        assert "longer than 0.5 s" in refusal(slow, 408, "slow-upload")
        assert reply(silent)[0] == 0
        assert refused(url, "slow") == 2


def test_head_timeout_does_not_end_a_request_in_progress(serving: Any, stepped: Any, make_picture: Picture) -> None:
    """Nor one whose successor has begun to arrive in the meantime."""
    data = make_picture(1)
    head = b"POST /locate HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(
        data
    )
    with serving(stepped, header_timeout_s=0.3) as url, connected(url) as connection:
        stepped.encoder.steps.release()
        assert httpx.get(f"{url}/readyz").status_code == 200
        assert stepped.encoder.waiting.acquire(timeout=10)
        connection.sendall(head + data + HEALTH[:10])
        assert stepped.encoder.waiting.acquire(timeout=10)
        time.sleep(0.6)
        stepped.encoder.steps.release()
        connection.sendall(HEALTH[10:] + b"Connection: close\r\n\r\n")
        status, _, body = reply(connection)
        assert status == 200
        assert body.endswith(b'{"status":"alive"}')


def test_idle_connections_make_room_for_new_ones(serving: Any, locator: Locator) -> None:
    with serving(locator, max_connections=10) as url, ExitStack() as stack:
        idle = [stack.enter_context(connected(url)) for _ in range(30)]
        assert httpx.get(f"{url}/healthz").status_code == 200
        until(lambda: sum(map(is_open, idle)) <= 10)
        assert is_open(idle[-1])
        assert not is_open(idle[0])
        assert refused(url, "too-many") >= 20


def test_one_address_is_bounded_and_the_others_are_served(serving: Any, locator: Locator) -> None:
    with serving(locator, max_connections=20, max_connections_per_address=5) as url, ExitStack() as stack:
        greedy = [stack.enter_context(connected(url, "127.0.0.2")) for _ in range(15)]
        until(lambda: sum(map(is_open, greedy)) == 5)
        other = stack.enter_context(connected(url))
        other.sendall(HEALTH + b"\r\n")
        assert other.recv(4096).startswith(b"HTTP/1.1 200")


def test_connections_in_use_are_kept_and_a_new_one_gets_503(serving: Any, locator: Locator) -> None:
    with serving(locator, max_connections=3) as url, ExitStack() as stack:
        busy = [stack.enter_context(connected(url)) for _ in range(3)]
        for connection in busy:
            connection.sendall(
                b"POST /locate HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\na"
            )
        until(lambda: all(map(is_open, busy)))
        time.sleep(0.2)  # until the requests have begun
        with connected(url) as connection:
            assert "3 connections are open" in refusal(connection, 503, "overloaded")
        busy[0].sendall(b"a" * 8)
        assert busy[0].recv(4096).startswith(b"HTTP/1.1 400")


def test_client_that_reads_nothing_is_disconnected(
    serving: Any, locator: Locator, make_picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_picture(1)
    head = POST.replace(b"/locate", b"/locate?k=1024&trace=1") + b"Content-Length: %d\r\n\r\n"
    with serving(locator, client_timeout_s=0.3) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            connection.settimeout(5)
            with suppress(OSError):  # the service reads no further once the buffers of both ends are full
                for _ in range(2_000):
                    connection.sendall(head % len(data) + data)
            until(lambda: refused(url, "stalled") == 1)


def test_client_that_leaves_while_answers_are_due_is_no_error(
    serving: Any, locator: Locator, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(locator) as url:
        reads_nothing(url, "", 3.0)
        assert httpx.get(f"{url}/healthz").status_code == 200
        time.sleep(0.5)
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_request_to_change_the_protocol_is_answered_as_http_1(url: str) -> None:
    with connected(url) as connection:
        connection.sendall(HEALTH + b"Connection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n")
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")


def test_connections_are_few_where_few_files_may_be_open(serving: Any, locator: Locator) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        with serving(locator) as url, ExitStack() as stack:
            for _ in range(60):
                stack.enter_context(connected(url))
            assert httpx.get(f"{url}/healthz").status_code == 200
            open_now = re.search(r"^tilebeam_connections (\S+)$", httpx.get(f"{url}/metrics").text, re.MULTILINE)
            assert open_now is not None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
