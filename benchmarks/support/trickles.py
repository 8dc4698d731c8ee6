"""Clients that hold connections, send heads without end, trickle bodies or read nothing; and costly regions.

    outcomes = slow_headers("http://127.0.0.1:8000", key, seconds=25)     # Counter({"408": 50, "open": 50})

Each runs for `seconds` with a fixed number of connections to loopback, opens those again that the service closes, and
returns counts of outcomes: a status (`"408"`), `closed` without an answer, `open` at the end, `no problem document` for
an error of 500 and more without one. `ATTACKS` says for each which outcomes are right. None reads a picture's answer.
"""

import asyncio
import json
import math
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from benchmarks.support.mutations import originals

__all__ = [
    "ATTACKS",
    "Attack",
    "comb",
    "endless_header",
    "idle",
    "large_headers",
    "many_headers",
    "reads_nothing",
    "slow_batches",
    "slow_bodies",
    "slow_headers",
    "spikes",
    "star",
]

CLOSED, OPEN, NO_PROBLEM = "closed", "open", "no problem document"
_PROBLEM = b"urn:tilebeam:problem:"
_PAUSE_S = 0.25
"""Between the end of a connection and the next one in its place."""
_MOST_ATTEMPTS = 1_000
"""Connections that one attack opens, one after the other, in each place."""
_BLOCK = 1 << 16
_BATCH = 40


@dataclass(frozen=True)
class Trickle:
    """What one connection sends: `head` at once, then `piece` every `every_s` seconds, `pieces` times at most."""

    head: bytes
    piece: bytes = b""
    every_s: float = 1.0
    pieces: int = 1 << 30
    tail: bytes = b""


class Attack(NamedTuple):
    """An attack, and the outcomes that a service may give it."""

    run: Callable[[str, str, float], Counter[str]]
    right: frozenset[str]


def slow_headers(url: str, key: str, seconds: float) -> Counter[str]:
    """50 connections that send a header line a second and never the last one."""
    return _hold(url, Trickle(_head("GET", "/healthz", key), b"X-Slow: a\r\n"), 50, seconds)


def endless_header(url: str, key: str, seconds: float) -> Counter[str]:
    """4 connections with one header that does not end; 168 MB each at most."""
    return _hold(url, Trickle(_head("GET", "/healthz", key) + b"X: ", b"a" * _BLOCK, 0.0, 2_600), 4, seconds)


def large_headers(url: str, key: str, seconds: float) -> Counter[str]:
    """A connection that sends 300 headers of 1 MB each, then the end of the head."""
    header = b"X-Large: " + b"a" * 1_000_000 + b"\r\n"
    return _hold(url, Trickle(_head("GET", "/healthz", key), header, 0.0, 300, b"\r\n"), 1, seconds)


def many_headers(url: str, key: str, seconds: float) -> Counter[str]:
    """A connection that sends 2,000,000 headers of three bytes each, then the end of the head."""
    lines = b"a:b\r\n" * 20_000
    return _hold(url, Trickle(_head("GET", "/healthz", key), lines, 0.0, 100, b"\r\n"), 1, seconds)


def idle(url: str, key: str, seconds: float) -> Counter[str]:
    """240 connections that send nothing."""
    return _hold(url, Trickle(b""), 240, seconds)


def slow_bodies(url: str, key: str, seconds: float) -> Counter[str]:
    """64 pictures to `/locate` at a byte a second."""
    head = _head("POST", "/locate", key) + b"Content-Type: image/jpeg\r\nContent-Length: 1000000\r\n\r\n"
    return _hold(url, Trickle(head, b"a"), 64, seconds)


def slow_batches(url: str, key: str, seconds: float) -> Counter[str]:
    """4 batches at a byte a second."""
    head = _head("POST", "/locate/batch", key) + b"Content-Type: multipart/form-data; boundary=x\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    return _hold(url, Trickle(head + b"Content-Length: 1000000\r\n\r\n" + part, b"a"), 4, seconds)


def reads_nothing(url: str, key: str, seconds: float) -> Counter[str]:
    """50 connections that ask for the API's description, again and again, and never read; with small buffers."""
    message = _head("GET", "/openapi.json", key) + b"\r\n"
    return _hold(url, Trickle(b"", message, 0.02, 2_000), 50, seconds, reads=False)


def spikes(url: str, key: str, seconds: float) -> Counter[str]:
    """Batches of 40 pictures with `within` of 1,100 spikes and k=1024, one after the other, by two connections.

    Also counts the lines of the answers, as `line 200` or `line 422`.
    """
    regions = [comb(270), comb(1_100), star(1_100), star(130)]
    return asyncio.run(_batches(url, key, seconds, regions))


ATTACKS = {
    "slow headers": Attack(slow_headers, frozenset({"408", CLOSED, OPEN})),
    "an endless header": Attack(endless_header, frozenset({"400", "431", CLOSED})),
    "headers of 1 MB": Attack(large_headers, frozenset({"400", "431", CLOSED})),
    "2,000,000 headers": Attack(many_headers, frozenset({"400", "431", CLOSED})),
    "idle connections": Attack(idle, frozenset({"503", CLOSED, OPEN})),
    "slow bodies": Attack(slow_bodies, frozenset({"408", "503", CLOSED, OPEN})),
    "slow batches": Attack(slow_batches, frozenset({"408", "503", CLOSED, OPEN})),
    "clients that read nothing": Attack(reads_nothing, frozenset({CLOSED, OPEN})),
    "regions of spikes": Attack(
        spikes, frozenset({"200", "413", "422", "503", OPEN, "line 200", "line 422", "line 503"})
    ),
}


def comb(teeth: int) -> str:
    """A valid GeoJSON polygon over half the world with long, narrow teeth: 12 bytes a tooth and more."""
    step = 150 / teeth
    corners = [[round(-75 + step * n / 2, 2), 70 if n % 2 else -60] for n in range(2 * teeth)]
    return _polygon([[-75, -70], *corners, [75, -70], [-75, -70]])


def star(points: int) -> str:
    """A valid GeoJSON polygon: a star of long, narrow points around 0, 0."""
    reach = [(70.0 if n % 2 else 10.0, math.pi * n / points) for n in range(2 * points)]
    corners = [[round(radius * math.cos(angle), 2), round(radius * math.sin(angle), 2)] for radius, angle in reach]
    return _polygon([*corners, corners[0]])


def _polygon(ring: list[list[float]]) -> str:
    return json.dumps({"type": "Polygon", "coordinates": [ring]}, separators=(",", ":"))


def _head(method: str, path: str, key: str) -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n".encode()


def _hold(url: str, trickle: Trickle, count: int, seconds: float, reads: bool = True) -> Counter[str]:
    return asyncio.run(_held(url, trickle, count, seconds, reads))


async def _held(url: str, trickle: Trickle, count: int, seconds: float, reads: bool) -> Counter[str]:
    """Keep `count` connections in use until time is up."""
    outcomes, end = Counter[str](), time.monotonic() + seconds

    async def place() -> None:
        for _ in range(_MOST_ATTEMPTS):
            outcomes[await _outcome(url, trickle, end, reads)] += 1
            if time.monotonic() + _PAUSE_S > end:
                return
            await asyncio.sleep(_PAUSE_S)

    await asyncio.gather(*(place() for _ in range(count)))
    return outcomes


async def _outcome(url: str, trickle: Trickle, end: float, reads: bool) -> str:
    """Use one connection until it ends or time is up."""
    try:
        reader, writer = await _connected(url)
    except OSError:
        return CLOSED
    answer = asyncio.create_task(_status(reader) if reads else _nothing(writer, end))
    sending = asyncio.create_task(_send(writer, trickle))
    try:
        done, _ = await asyncio.wait({answer}, timeout=max(0, end - time.monotonic()))
        return answer.result() if done else OPEN
    finally:
        for task in (answer, sending):
            task.cancel()
        await asyncio.gather(answer, sending, return_exceptions=True)
        writer.transport.abort()


async def _connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BLOCK)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (address.hostname, address.port))
    except BaseException:
        connection.close()
        raise
    return await asyncio.open_connection(sock=connection, limit=_BLOCK)


async def _send(writer: asyncio.StreamWriter, trickle: Trickle) -> None:
    with suppress(OSError):
        writer.write(trickle.head)
        for _ in range(trickle.pieces if trickle.piece else 0):
            writer.write(trickle.piece)
            await writer.drain()
            await asyncio.sleep(trickle.every_s)
        writer.write(trickle.tail)
        await writer.drain()


async def _nothing(writer: asyncio.StreamWriter, end: float) -> str:
    """Stop the reading, so that the service's answers fill the buffers; `closed` when the service gives up."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket can
    while time.monotonic() < end:
        if writer.transport.is_closing():
            return CLOSED
        await asyncio.sleep(0.1)
    return OPEN


async def _status(reader: asyncio.StreamReader) -> str:
    """The outcome that an answer stands for; `closed` if there is none."""
    try:
        status, body = await _answer(reader)
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
        return CLOSED
    return NO_PROBLEM if status >= 500 and _PROBLEM not in body else str(status)


async def _answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body, which has a length, is in chunks, or ends with the connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    _, has_length, rest = head.partition(b"content-length:")
    if has_length:
        return status, await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
    if b"transfer-encoding: chunked" not in head:
        return status, await reader.read()
    body = bytearray()
    while size := int(await reader.readline(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    return status, bytes(body)


async def _batches(url: str, key: str, seconds: float, regions: Sequence[str]) -> Counter[str]:
    outcomes, end = Counter[str](), time.monotonic() + seconds
    body = _batch_body()

    async def client(first: int) -> None:
        for number in range(_MOST_ATTEMPTS):
            region = quote(regions[(first + number) % len(regions)], safe="[],:")
            head = _head("POST", f"/locate/batch?k=1024&within={region}", key)
            head += b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n" % len(body)
            outcomes.update(await _lines(url, head + body, end))
            if time.monotonic() + _PAUSE_S > end:
                return
            await asyncio.sleep(_PAUSE_S)

    await asyncio.gather(*(client(2 * number) for number in range(2)))
    return outcomes


async def _lines(url: str, message: bytes, end: float) -> list[str]:
    """Send a batch; its outcome and those of its lines. `open` if it is not answered when time is up."""
    try:
        reader, writer = await _connected(url)
        writer.write(message)
        status, body = await asyncio.wait_for(_answer(reader), max(0.1, end - time.monotonic()))
    except TimeoutError:
        return [OPEN]
    except (OSError, asyncio.IncompleteReadError, ValueError):
        return [CLOSED]
    finally:
        with suppress(UnboundLocalError):
            writer.transport.abort()
    if status != 200:
        return [NO_PROBLEM if status >= 500 and _PROBLEM not in body else str(status)]
    lines = [json.loads(line) for line in body.splitlines()]
    return ["200", *(f"line {line.get('error', {'status': 200})['status']}" for line in lines)]


def _batch_body() -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'
    picture = originals(0)[0].data
    return (head + picture + b"\r\n") * _BATCH + b"--x--\r\n"
