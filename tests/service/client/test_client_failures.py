"""The client when things go wrong on the way: refusals, dropped connections, proxies, and addresses that are none."""

import asyncio
import http.server
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client.client import AsyncClient, Client
from service.client.failures import Attempts, Failure
from service.errors import ClientError, ProblemError, ProxyAnswerError

Picture = Callable[..., bytes]
OK = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{"answer":1}'
DROP, RESET = b"", b"\0"


@pytest.fixture
def photos(tmp_path: Path, make_picture: Picture) -> list[Path]:
    paths = [tmp_path / f"{number}.jpg" for number in range(4)]
    for seed, path in enumerate(paths):
        path.write_bytes(make_picture(seed))
    return paths


class RawServer:
    """Answers the n-th request with `answers[n]`, the later ones with the last; DROP closes, RESET resets."""

    def __init__(self, answers: list[bytes]) -> None:
        self.answers, self.requests = answers, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._read(connection)
                answer = self.answers[min(self.requests, len(self.answers) - 1)]
                self.requests += 1
                if answer == RESET:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                elif answer:
                    connection.sendall(answer.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))

    def _read(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields.get(b"content-length", b"0")):
            body += connection.recv(65536)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def raw(*answers: bytes) -> Iterator[RawServer]:
    server = RawServer(list(answers))
    yield server
    server.close()


def line(index: int) -> bytes:
    return json.dumps({"index": index, "name": "x", "result": {"number": index}}).encode() + b"\n"


def chunked(*parts: bytes, whole: bool) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + (b"0\r\n\r\n" if whole else b"")


def page(status: int, title: str = "", **headers: str) -> bytes:
    body = f"<html><head><title>{title}</title></head></html>".encode()
    fields = {"Server": "nginx/1.26.0", "Content-Type": "text/html", "Content-Length": str(len(body))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body


@pytest.mark.parametrize("broken", [DROP, RESET, b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"])
def test_a_dropped_connection_is_tried_again(broken: bytes, photos: list[Path]) -> None:
    with raw(broken, broken, OK) as server, Client(server.url) as client:
        assert client.locate(photos[0]) == {"answer": 1}
        assert server.requests == 3

    async def ask(url: str) -> Any:
        async with AsyncClient(url) as client:
            return await client.locate(photos[0])

    with raw(broken, broken, OK) as server:
        assert asyncio.run(ask(server.url)) == {"answer": 1}


def test_a_connection_that_is_always_dropped_ends_after_the_retries(photos: list[Path]) -> None:
    with raw(DROP) as server, Client(server.url, retries=2) as client:
        with pytest.raises(ClientError, match=f"no answer from {server.url}: the connection broke"):
            client.locate(photos[0])
        assert server.requests == 3


def test_a_batch_that_is_dropped_goes_on_with_the_pictures_that_have_no_answer(photos: list[Path]) -> None:
    first = chunked(line(0), line(1), whole=False)
    second = chunked(line(0), whole=False)
    with raw(first, DROP, second, chunked(line(0), whole=True)) as server, Client(server.url) as client:
        lines = list(client.locate_batch(photos))
    assert server.requests == 4
    assert [each["index"] for each in lines] == [0, 1, 2, 3]
    assert [each["name"] for each in lines] == [path.name for path in photos]
    assert [each["result"]["number"] for each in lines] == [0, 1, 0, 0]  # type: ignore[typeddict-item]


def test_a_service_that_starts_late_is_reached(photos: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(ClientError, match="no answer"):
        client.locate(photos[0])


class _TwoSlots(http.server.BaseHTTPRequestHandler):
    """Two requests at a time, each takes 50 ms; more get 503 and `Retry-After: 1`."""

    slots: threading.Semaphore
    requests: list[int]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.requests.append(1)
        if self.slots.acquire(blocking=False):
            time.sleep(0.05)
            self.slots.release()
            self._say(200, b"{}")
        else:
            problem = {"type": "urn:tilebeam:problem:overloaded", "title": "", "status": 503, "detail": "busy"}
            self._say(503, json.dumps(problem).encode())

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status == 503:
            self.send_header("Retry-After", "1")
            self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


class _Threads(http.server.ThreadingHTTPServer):
    request_queue_size = 64


def test_thirty_callers_of_two_slots_are_all_answered() -> None:
    """Without jitter they come back together, and all but two are refused each time."""
    _TwoSlots.slots, _TwoSlots.requests = threading.Semaphore(2), []
    with _Threads(("127.0.0.1", 0), _TwoSlots) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}") as client, ThreadPoolExecutor(30) as executor:
            answers = list(executor.map(client.locate, [b"x"] * 30))
        server.shutdown()
    assert answers == [{}] * 30
    assert 30 <= len(_TwoSlots.requests) <= 150


def test_waits_are_random_on_top_of_retry_after_and_end_at_the_deadline() -> None:
    busy = Failure(ClientError("busy"), True, 3.0)
    first = [Attempts(8, 60).wait_s(busy) for _ in range(200)]
    assert 3.0 <= min(first) < max(first) <= 6.0
    assert len({round(wait, 6) for wait in first}) > 150
    with pytest.raises(ClientError, match="busy"):
        Attempts(8, 2.0).wait_s(busy)  # the service asks for more time than there is
    broken = Failure(ClientError("broken"), True)
    attempts = Attempts(3, 60)
    assert [attempts.wait_s(broken) <= 0.25 * 2**n for n in range(3)] == [True] * 3
    with pytest.raises(ClientError, match="broken"):
        attempts.wait_s(broken)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (page(413, "413 Request Entity Too Large"), ["413", "nginx/1.26.0", "client_max_body_size", "0.jpg"]),
        (page(502, "502 Bad Gateway"), ["502", "nginx/1.26.0", "does not reach the service"]),
        (page(504, "504 Gateway Time-out"), ["504", "proxy_read_timeout"]),
        (page(302, Location="https://login.example/?token=secret"), ["302", "https://login.example/?token=***"]),
        (page(401, "Authorization Required"), ["401", "wants a login"]),
        (page(400, "The plain HTTP request was sent to HTTPS port"), ["400", "sent to HTTPS port"]),
        (page(200, "Sign in"), ["a web page", "Sign in", "a Tilebeam service"]),
        (page(418), ["418", "is it a Tilebeam service"]),
        (page(599), ["599"]),
    ],
)
def test_answers_of_a_proxy_are_one_line_with_the_way_out(answer: bytes, words: list[str], photos: list[Path]) -> None:
    with raw(answer) as server, Client(server.url, retries=1) as client, pytest.raises(ClientError) as caught:
        client.locate(photos[0])
    assert [word for word in [server.url, *words] if word not in str(caught.value)] == []
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_proxy_that_recovers_is_tried_again(photos: list[Path]) -> None:
    with raw(page(502), page(503), OK) as server, Client(server.url) as client:
        assert client.locate(photos[0]) == {"answer": 1}


class _Limited(http.server.BaseHTTPRequestHandler):
    """As a proxy that takes bodies of at most `limit` bytes, before a service that answers a line a picture."""

    limit = 0
    sizes: list[int]

    def do_POST(self) -> None:
        size = int(self.headers["content-length"])
        body = self.rfile.read(size)
        self.sizes.append(size)
        if size > self.limit:
            self.send_response(413)
            answer = b"<html><head><title>413 Request Entity Too Large</title></head></html>"
            self.send_header("Content-Type", "text/html")
        else:
            self.send_response(200)
            answer = b"".join(line(index) for index in range(body.count(b'name="images"')))
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        pass


def test_a_batch_that_is_too_large_is_split_and_only_the_large_file_is_refused(tmp_path: Path) -> None:
    sizes = [1000, 1000, 9000, 1000, 1000, 1000, 1000]
    paths = [tmp_path / f"{number}.jpg" for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        path.write_bytes(b"x" * size)
    _Limited.limit, _Limited.sizes = 3000, []
    with _Threads(("127.0.0.1", 0), _Limited) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}") as client:
            lines = list(client.locate_batch(paths))
            first = len(_Limited.sizes)
            again = list(client.locate_batch(paths))

        async def ask() -> list[Any]:
            async with AsyncClient(f"http://127.0.0.1:{server.server_port}") as other:
                return [each async for each in other.locate_batch(paths)]

        awaited = asyncio.run(ask())
        server.shutdown()
    assert ["error" in each for each in lines] == [False, False, True, False, False, False, False]
    assert lines == again == awaited
    assert len(_Limited.sizes[first:]) > 0
    problem = lines[2]["error"]
    assert (problem["status"], problem["type"]) == (413, "about:blank")
    assert "2.jpg" in problem["detail"]
    assert "client_max_body_size" in problem["detail"]
    assert [each["name"] for each in lines] == [path.name for path in paths]


@pytest.fixture
def nginx(url: str, tmp_path: Path) -> Iterator[str]:
    """A real nginx with its default limit on bodies, 1 MB, before the service."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"{'user root; ' if os.getuid() == 0 else ''}daemon off; pid {tmp_path}/pid; worker_processes 1;\n"
        f"error_log {tmp_path}/error.log; events {{}}\n"
        f"http {{ access_log off; {temporary} server {{ listen 127.0.0.1:{port};"
        f" location /beam/ {{ proxy_pass {url}/; }} location /dead/ {{ proxy_pass http://127.0.0.1:9/; }} }} }}\n"
    )
    with subprocess.Popen([program, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]) as process:
        for _ in range(200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def test_nginx_with_its_default_limit_loses_only_the_large_file(nginx: str, photos: list[Path], tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(photos[0].read_bytes() + bytes(1_500_000))
    padded = []
    for path in photos:
        padded.append(path.with_suffix(".jpeg"))
        padded[-1].write_bytes(path.read_bytes() + bytes(400_000))
    with Client(f"{nginx}/beam/") as client:
        with pytest.raises(ProxyAnswerError, match=r"413 .*\(nginx.*large\.jpg, 1\.5 MB.*client_max_body_size"):
            client.locate(large)
        lines = list(client.locate_batch([*padded, large, photos[0]]))
        assert ["error" in each for each in lines] == [False] * 4 + [True, False]
        assert "large.jpg" in lines[4]["error"]["detail"]
        region = {
            "type": "MultiPolygon",
            "coordinates": [[[[x, 0], [x + 1, 0], [x, 1], [x, 0]]] for x in range(170)] * 2,
        }
        with pytest.raises(ProxyAnswerError, match="large_client_header_buffers"):
            client.locate(photos[0], within=region)
    with Client(f"{nginx}/dead", retries=1) as client, pytest.raises(ProxyAnswerError, match=r"502 .*does not reach"):
        client.locate(photos[0])


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://::1:8000", r"http://\[::1\]:8000"), ("https://fe80::1", r"https://\[fe80::1\]"),
        ("::1", r"http://\[::1\]"), ("localhost:8000", "http://localhost:8000"), ("", "http://127.0.0.1:8000"),
        ("http://a.example/?key=secret", "ends in a query"), ("http://user:secret@", "write it like"),
        ("http://host:99999", "write it like"),
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_one_line_with_the_way_out(url: str, words: str, photos: list[Path]) -> None:
    for call in (lambda c: c.locate(photos[0]), lambda c: list(c.locate_batch(photos)), lambda c: c.describe()):
        with Client(url) as client, pytest.raises(ClientError, match=words) as caught:
            call(client)
        assert "secret" not in str(caught.value)


def test_a_password_in_the_address_is_never_shown(photos: list[Path]) -> None:
    with (
        raw(page(401)) as server,
        Client(server.url.replace("//", "//user:secret@"), api_key="tb_x") as client,
        pytest.raises(ClientError, match="401") as caught,
    ):
        client.locate(photos[0])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["two words", "k3y\n", "schlüssel", "\udce9"])
def test_a_key_that_no_header_can_hold_is_refused_without_showing_it(key: str, photos: list[Path]) -> None:
    with (
        Client("http://127.0.0.1:1", api_key=key) as client,
        pytest.raises(ClientError, match="copy it again") as caught,
    ):
        client.locate(photos[0])
    assert key.strip() not in str(caught.value)


@pytest.mark.parametrize(
    "variables",
    [
        {"NO_PROXY": "localhost,fe80::/10,127.0.0.0/8", "HTTP_PROXY": "http://127.0.0.1:1"},
        {"NO_PROXY": "*,[::1],fe80::/10", "ALL_PROXY": "socks5h://127.0.0.1:1"},
        {"NO_PROXY": "127.0.0.1", "HTTP_PROXY": "not a proxy"},
    ],
)
def test_no_proxy_of_every_form_is_understood(
    url: str, photos: list[Path], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_proxies(monkeypatch, variables)
    with Client(url) as client:
        assert client.locate(photos[0])["levels"]

    async def ask() -> Any:
        async with AsyncClient(url) as other:
            return await other.locate(photos[0])

    assert asyncio.run(ask())["levels"]


@pytest.mark.parametrize("proxy", ["socks5h://user:secret@127.0.0.1:1", "ftp://secret@proxy", "http://", "::secret"])
def test_a_proxy_that_cannot_be_used_is_one_line_with_the_variable(
    proxy: str, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _set_proxies(monkeypatch, {"ALL_PROXY": proxy})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with Client("http://192.0.2.1:8000") as client, pytest.raises(ClientError, match="ALL_PROXY") as caught:
        client.locate(photos[0])
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def _set_proxies(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_a_certificate_file_that_is_none_is_one_line(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with Client("https://127.0.0.1:1") as client, pytest.raises(ClientError, match="SSL_CERT_FILE"):
        client.locate(photos[0])


def test_a_service_that_speaks_no_tls_is_named_at_once(url: str, photos: list[Path]) -> None:
    with Client(url.replace("http:", "https:")) as client, pytest.raises(ClientError, match="write http://"):
        client.locate(photos[0])


def test_a_problem_document_is_still_raised_as_one(url: str, photos: list[Path]) -> None:
    with Client(url) as client, pytest.raises(ProblemError, match="k='0'"):
        client.locate(photos[0], k=0)
