"""A second caller of a service under attack, and a prober of `/healthz`, in a process of its own.

    with Observer(url, key) as observer:
        begin = time.monotonic(); ...; end = time.monotonic()
        seen = observer.between(begin, end)      # its locate and healthz: milliseconds and statuses

The caller sends the same small picture to `/locate` every 200 ms, or as soon as its last is answered, and a batch of
two every two seconds; the prober asks every 100 ms. Both use `http.client`, on persistent connections that are opened
again if the service has closed them while they were idle. No thread of the attackers delays a process of its own.
"""

import http.client
import json
import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import NamedTuple, Self
from urllib.parse import urlsplit

from benchmarks.support.mutations import originals

__all__ = ["Observer", "Seen", "Visit"]

TIMEOUT_S = 60.0
_LOCATE_EVERY_S, _HEALTH_EVERY_S, _BATCH_EVERY_S = 0.2, 0.1, 2.0
_BOUNDARY = "x"


class Visit(NamedTuple):
    """One request: what (`locate`, `batch` or `healthz`), when it began (time.monotonic), status, milliseconds.

    Status 0: no answer. 1: an error of 500 and more that is no problem document, or a batch without its results.
    """

    kind: str
    began: float
    status: int
    took_ms: float


@dataclass(frozen=True)
class Seen:
    """The requests that were under way in a phase."""

    visits: Sequence[Visit]

    def took_ms(self, kind: str) -> list[float]:
        """The milliseconds of all answers of this kind, whatever their status."""
        return [visit.took_ms for visit in self.visits if visit.kind == kind]

    def statuses(self, kind: str) -> Counter[int]:
        """How often each status was the answer."""
        return Counter(visit.status for visit in self.visits if visit.kind == kind)


class Observer:
    """Runs from entering the context to its end."""

    def __init__(self, url: str, key: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._end, child = context.Pipe()
        self._process = context.Process(target=_observe, args=(url, key, originals(0)[0].data, child), daemon=True)
        self._visits: list[Visit] = []

    def __enter__(self) -> Self:
        self._process.start()
        self._end.recv()  # its modules are loaded
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(OSError):
            self._end.send("stop")
        self._process.join(TIMEOUT_S)
        self._process.terminate()

    def between(self, begin: float, end: float) -> Seen:
        """What was under way between two times, once the requests that had begun by then are answered."""
        self._end.send(end)
        self._visits += self._end.recv()
        return Seen([v for v in self._visits if v.began < end and v.began + v.took_ms / 1e3 > begin])


class _Client:
    """A persistent connection."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        self._connection = http.client.HTTPConnection(address.hostname, address.port, timeout=TIMEOUT_S)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def visit(self, kind: str, path: str, body: bytes | None = None, content_type: str = "") -> Visit:
        """Send a request and read its answer."""
        began = time.monotonic()
        try:
            status = self._status(path, body, content_type)
        except (OSError, http.client.HTTPException):
            self._connection.close()
            status = 0
        return Visit(kind, began, status, (time.monotonic() - began) * 1e3)

    def _status(self, path: str, body: bytes | None, content_type: str) -> int:
        try:
            status, answer = self._answer(path, body, content_type)
        except (ConnectionError, http.client.RemoteDisconnected):  # closed while idle: HTTP lets a client try again
            self._connection.close()
            status, answer = self._answer(path, body, content_type)
        if status >= 500 and b"urn:tilebeam:problem:" not in answer and path != "/healthz":
            return 1
        if status == 200 and "batch" in path:
            lines = [json.loads(line) for line in answer.splitlines()]
            failed = [line["error"]["status"] for line in lines if "error" in line]
            return 1 if len(lines) != 2 else max(failed, default=200)
        return status

    def _answer(self, path: str, body: bytes | None, content_type: str) -> tuple[int, bytes]:
        headers = self._headers | ({"Content-Type": content_type} if body else {})
        self._connection.request("GET" if body is None else "POST", path, body, headers)
        response = self._connection.getresponse()
        return response.status, response.read()


def _observe(url: str, key: str, picture: bytes, parent: Connection) -> None:
    """The body of the process: three threads, and the answers to the parent's questions."""
    visits, lock, stop, finished_until = list[Visit](), threading.Lock(), threading.Event(), dict[str, float]()
    part = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="a.jpg"\r\n\r\n'.encode()
    batch = (part + picture + b"\r\n") * 2 + f"--{_BOUNDARY}--\r\n".encode()
    content_type = f"multipart/form-data; boundary={_BOUNDARY}"
    requests: list[tuple[float, Callable[[_Client], Visit]]] = [
        (_LOCATE_EVERY_S, lambda client: client.visit("locate", "/locate", picture, "image/jpeg")),
        (_BATCH_EVERY_S, lambda client: client.visit("batch", "/locate/batch", batch, content_type)),
        (_HEALTH_EVERY_S, lambda client: client.visit("healthz", "/healthz")),
    ]

    def repeat(name: str, every_s: float, request: Callable[[_Client], Visit]) -> None:
        client = _Client(url, key)
        while not stop.is_set():
            begin = time.monotonic()
            visit = request(client)
            with lock:
                visits.append(visit)
                finished_until[name] = time.monotonic()
            stop.wait(max(0.0, begin + every_s - time.monotonic()))

    threads = [
        threading.Thread(target=repeat, args=(str(number), *request), daemon=True)
        for number, request in enumerate(requests)
    ]
    for thread in threads:
        thread.start()
    parent.send("ready")
    with suppress(EOFError, OSError):
        while (message := parent.recv()) != "stop":
            while any(finished_until.get(str(number), 0.0) < message for number in range(len(requests))):
                time.sleep(0.02)
            with lock:
                parent.send(list(visits))
                visits.clear()
    stop.set()
