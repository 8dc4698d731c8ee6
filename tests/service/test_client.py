"""The client against a real service, against none, and against something else that speaks HTTP."""

import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from indexer.retrieval.locator import Locator
from service.client import Client, ClientError, ProblemError
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


def test_one_picture_by_path_or_bytes(client: Client, photos: list[Path]) -> None:
    by_path = client.locate(photos[0], k=16, alternatives=2, bbox=(-170.0, -80.0, 170.0, 80.0), trace=True)
    by_bytes = client.locate(photos[0].read_bytes(), k=16, alternatives=2, bbox=(-170, -80, 170, 80), trace=True)
    assert place(by_path) == place(by_bytes)
    assert len(by_path["alternatives"]) == 2
    assert "trace" in by_path
    assert "trace" not in client.locate(photos[0])


def test_a_batch_in_order_with_a_file_that_is_missing(client: Client, photos: list[Path], tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    asked = [photos[0], tmp_path / "missing.jpg", text, tmp_path, photos[1]]
    lines = list(client.locate_batch(asked, k=8))
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
    assert [line["error"]["type"].rsplit(":", 1)[1] for line in lines[1:4]] == [
        "unreadable-file", "unreadable-photo", "unreadable-file",
    ]  # fmt: skip
    assert "missing.jpg" in lines[1]["error"]["detail"]
    assert place(lines[4]["result"]) == place(client.locate(photos[1], k=8))
    assert list(client.locate_batch([])) == []


def test_index(client: Client, locator: Locator) -> None:
    assert client.describe()["id"] == locator.describe()["id"]


def test_a_refusal_carries_its_problem(client: Client, photos: list[Path]) -> None:
    with pytest.raises(ProblemError, match="k='0'") as caught:
        client.locate(photos[0], k=0)
    assert caught.value.problem["status"] == 422
    with pytest.raises(ProblemError, match="k='0'"):
        list(client.locate_batch(photos, k=0))


def test_a_local_file_that_is_missing(client: Client, tmp_path: Path) -> None:
    with pytest.raises(LocalFileError, match=r"gone\.jpg: No such file"):
        client.locate(tmp_path / "gone.jpg")


def test_no_service_there(photos: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(ClientError, match=f"no answer from http://127.0.0.1:{port}.*tilebeam serve"):
            client.locate(photos[0])
        with pytest.raises(ClientError, match="no answer"):
            list(client.locate_batch(photos))


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost", "http://", "", "http://[::1", "http://a b"])
def test_an_address_that_is_none(url: str, photos: list[Path]) -> None:
    with Client(url) as client, pytest.raises(ClientError, match=r"http://127|no answer"):
        client.locate(photos[0])


class _Elsewhere(http.server.BaseHTTPRequestHandler):
    """Some other server: HTML for /index, 404 as text for what is posted."""

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


def test_another_kind_of_server(photos: list[Path]) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Elsewhere) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}") as client:
            with pytest.raises(ClientError, match="is it a Tilebeam service"):
                client.describe()
            with pytest.raises(ClientError, match="answered 404"):
                client.locate(photos[0])
            with pytest.raises(ClientError, match="answered 1 of 3 pictures"):
                list(client.locate_batch(photos))
        server.shutdown()


def test_a_service_that_hangs(photos: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        with Client(url, timeout_s=0.2) as client, pytest.raises(ClientError, match="in time"):
            client.locate(photos[0])


def test_files_are_read_as_they_are_sent(serving: Any, locator: Locator, make_picture: Picture, tmp_path: Path) -> None:
    """A thousand files do not mean a thousand open files."""
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
