"""The client with a real service, without a service, and with a different HTTP server."""

import asyncio
import http.server
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from retrieval.locator import Locator
from service.client.client import AsyncClient, Client, ClientError, ProblemError
from service.errors import LocalFileError

Picture = Callable[..., bytes]


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url + "/") as client:
        yield client


@pytest.fixture
def photos(tmp_path: Path, make_picture: Picture) -> list[Path]:
    paths = [tmp_path / name for name in ("a.jpg", 'quo"te é.jpg', "c.jpg")]
    for seed, path in enumerate(paths):
        path.write_bytes(make_picture(seed))
    return paths


def place(answer: dict[str, Any]) -> tuple[float, float]:
    return round(answer["lat"], 3), round(answer["lon"], 3)


def test_locate_accepts_path_and_bytes(client: Client, photos: list[Path]) -> None:
    by_path = client.locate(photos[0], k=16, alternatives=2, bbox=(-170.0, -80.0, 170.0, 80.0), trace=True)
    by_bytes = client.locate(photos[0].read_bytes(), k=16, alternatives=2, bbox=(-170, -80, 170, 80), trace=True)
    assert place(by_path) == place(by_bytes)
    assert len(by_path["alternatives"]) == 2
    assert "trace" in by_path
    assert "trace" not in client.locate(photos[0])


def test_batch_is_in_order_and_reports_missing_file(client: Client, photos: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    files = [photos[0], tmp_path / "missing.jpg", text, tmp_path, photos[1]]
    lines = list(client.locate_batch(files, k=8))
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["error"]["type"].rsplit(":", 1)[1] for line in lines[1:4]] == [
        "unreadable-file", "unreadable-photo", "unreadable-file",
    ]  # fmt: skip
    assert "missing.jpg" in lines[1]["error"]["detail"]
    assert place(lines[4]["result"]) == place(client.locate(photos[1], k=8))
    assert list(client.locate_batch([])) == []


def test_describe_returns_index(client: Client, locator: Locator) -> None:
    assert client.describe()["id"] == locator.describe()["id"]


def test_refused_request_raises_problem_error(client: Client, photos: list[Path]) -> None:
    with pytest.raises(ProblemError, match="k='0'") as caught:
        client.locate(photos[0], k=0)
    assert caught.value.problem["status"] == 422
    with pytest.raises(ProblemError, match="k='0'"):
        list(client.locate_batch(photos, k=0))


def test_missing_local_file_raises(client: Client, tmp_path: Path) -> None:
    with pytest.raises(LocalFileError, match=r"gone\.jpg: No such file"):
        client.locate(tmp_path / "gone.jpg")


def test_no_service_at_address_raises(photos: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ClientError, match=f"no answer from http://127.0.0.1:{port}.*tilebeam serve"):
            client.locate(photos[0])
        with pytest.raises(ClientError, match="no answer"):
            list(client.locate_batch(photos))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost", "http://", "", "http://[::1", "http://a b"])
def test_invalid_address_raises(url: str, photos: list[Path]) -> None:
    with Client(url) as client, pytest.raises(ClientError, match=r"http://127|no answer"):
        client.locate(photos[0])


class _OtherServer(http.server.BaseHTTPRequestHandler):
    """A different server: HTML for GET, 404 as text for POST."""

    def do_GET(self) -> None:
        self._say(200, b"<html>hello</html>")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if "batch" in self.path:  # a service that dies after its first line
            self._say(200, b'{"index": 0, "name": "a", "result": {}}\n')
        else:
            self._say(404, b"not here")

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


def test_other_http_server_raises(photos: list[Path]) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _OtherServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}") as client:
            with pytest.raises(ClientError, match="is it a Tilebeam service"):
                client.describe()
            with pytest.raises(ClientError, match="answered 404"):
                client.locate(photos[0])
            with pytest.raises(ClientError, match="answered 1 of 3 pictures"):
                list(client.locate_batch(photos))
        server.shutdown()


def test_timeout_raises(photos: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        with Client(url, timeout_s=0.2) as client, pytest.raises(ClientError, match="in time"):
            client.locate(photos[0])


def test_batch_does_not_open_all_files_at_once(
    serving: Any, locator: Locator, make_picture: Picture, tmp_path: Path
) -> None:
    """300 files are sent while the process may open only 200."""
    import resource

    paths = [tmp_path / f"{number}.jpg" for number in range(300)]
    data = make_picture(1)
    for path in paths:
        path.write_bytes(data)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with serving(locator) as url, Client(url) as client:
            assert sum("result" in line for line in client.locate_batch(paths)) == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_images_and_arrays_are_accepted(client: Client, make_picture: Picture) -> None:
    data = make_picture(5, kind="PNG")
    image = Image.open(io.BytesIO(data))
    expected = place(client.locate(data))
    assert place(client.locate(image)) == expected
    assert place(client.locate(np.asarray(image))) == expected
    lines = list(client.locate_batch([data, image, np.asarray(image), b""]))
    assert [place(line["result"]) for line in lines[:3]] == [expected] * 3
    assert lines[3]["error"]["status"] == 400


def test_locate_folder_finds_pictures_recursively(client: Client, photos: list[Path]) -> None:
    folder = photos[0].parent
    (folder / "notes.txt").write_text("no picture")
    (folder / "deep").mkdir()
    (folder / "deep" / "d.PNG").write_bytes(photos[0].read_bytes())
    lines = dict(client.locate_folder(folder, k=8))
    assert set(lines) == {*photos, folder / "deep" / "d.PNG"}
    assert all("result" in line for line in lines.values())


def test_async_client_gives_same_answers(url: str, photos: list[Path], client: Client, tmp_path: Path) -> None:
    async def ask() -> tuple[Any, Any, list[Any]]:
        async with AsyncClient(url) as async_client:
            answers = await asyncio.gather(*(async_client.locate(photo) for photo in photos))
            files = [*photos, tmp_path / "gone.jpg", b""]
            return (
                await async_client.describe(),
                answers,
                [line async for line in async_client.locate_batch(files, k=8)],
            )

    about, answers, lines = asyncio.run(ask())
    assert about["id"] == client.describe()["id"]
    assert [place(answer) for answer in answers] == [place(client.locate(photo)) for photo in photos]
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert ["error" in line for line in lines] == [False, False, False, True, True]


class _Busy(http.server.BaseHTTPRequestHandler):
    """Refuses according to `refusals`, then answers; `seen` has the key and size of each request."""

    refusals: ClassVar[list[tuple[int, str | None]]] = []
    seen: ClassVar[list[tuple[str | None, int]]] = []

    def do_POST(self) -> None:
        body = self._body()
        self.seen.append((self.headers.get("authorization"), len(body)))
        status, retry_after = self.refusals.pop(0) if self.refusals else (200, None)
        line = b'{"index": 0, "name": "a", "result": {}}\n'
        problem = {"type": "urn:tilebeam:problem:overloaded", "title": "Busy", "status": status, "detail": "busy"}
        sent = line if status == 200 else json.dumps(problem).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(sent)))
        if status != 200:
            self.send_header("Content-Type", "application/problem+json")
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(sent)

    def _body(self) -> bytes:
        if "content-length" in self.headers:
            return self.rfile.read(int(self.headers["content-length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def busy() -> Iterator[str]:
    _Busy.seen, _Busy.refusals = [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_retry_sends_whole_body_and_key_again(busy: str, photos: list[Path]) -> None:
    _Busy.refusals = [(503, "0"), (429, "0")]
    with Client(busy, api_key="tb_key") as client:
        assert client.locate(photos[0])["index"] == 0
        assert [key for key, _ in _Busy.seen] == ["Bearer tb_key"] * 3
        _Busy.refusals = [(503, "0")]
        assert len(list(client.locate_batch(photos[:1]))) == 1
    assert _Busy.seen[3][1] == _Busy.seen[4][1] > photos[0].stat().st_size


def test_async_client_retries(busy: str, photos: list[Path]) -> None:
    async def ask() -> int:
        async with AsyncClient(busy) as async_client:
            await async_client.locate(photos[0])
            return len([line async for line in async_client.locate_batch(photos[:1])])

    _Busy.refusals = [(503, "0"), (503, "0")]
    assert asyncio.run(ask()) == 1
    assert len(_Busy.seen) == 4


@pytest.mark.parametrize(
    ("refusals", "retries", "requests"),
    [([(503, "0")] * 9, 2, 3), ([(503, None)], 3, 1), ([(503, "0")], 0, 1), ([(422, "0")], 3, 1)],
)
def test_client_stops_after_its_retries(
    busy: str, photos: list[Path], refusals: Any, retries: int, requests: int
) -> None:
    _Busy.refusals = list(refusals)
    with Client(busy, retries=retries) as client, pytest.raises(ProblemError, match="busy"):
        client.locate(photos[0])
    assert len(_Busy.seen) == requests
