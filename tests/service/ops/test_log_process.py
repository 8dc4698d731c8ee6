"""A real process: what it writes to stderr, what it does where stderr is stuck or full, and how it stops."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.ops.line_writer import BackgroundLines, LineWriter

Picture = Callable[..., bytes]
ROOT = Path(__file__).parents[3]
PROGRAM = """
import logging, sys, threading, warnings
from pathlib import Path
from retrieval.locator import Locator
from retrieval.testing.fake import FakePhotoEncoder
from service.app import create_app
from service.ops.logs import capture_everything, configure, say_started
from service.serving import listen, run
from service.settings import Settings

settings = Settings.from_env()
configure(settings.log_level)
library = logging.getLogger("a_library")
library.addHandler(logging.StreamHandler())
listener = listen("127.0.0.1", 0)
app = create_app(settings, Locator.open(Path(sys.argv[1]), encoder=FakePhotoEncoder()))
capture_everything()
library.warning("a library's warning")
warnings.warn("a warning of NumPy, say")
broken = threading.Thread(target=lambda: 1 / 0)
broken.start()
broken.join()
say_started(f"serves at http://127.0.0.1:{listener.getsockname()[1]} (Ctrl-C)", audit_is_kept=False)
print(listener.getsockname()[1], flush=True)
run(app, listener, settings)
"""


@contextmanager
def process(
    index: Path, stderr: Any, limit: str = "", **settings: str
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """The service in a process of its own. `limit`: options of `ulimit`."""
    command = [sys.executable, "-c", PROGRAM, str(index)]
    if limit:
        command = ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", *command]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | {f"TILEBEAM_{name.upper()}": text for name, text in settings.items()}
    with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True) as running:
        try:
            assert running.stdout is not None
            url = f"http://127.0.0.1:{int(running.stdout.readline())}"
            assert httpx.get(f"{url}/readyz", timeout=60).status_code == 200
            yield running, url
        finally:
            running.kill()


def locate(url: str, data: bytes) -> httpx.Response:
    return httpx.post(f"{url}/locate", files={"image": data}, timeout=60)


def test_stderr_has_json_lines_only(index_dir: Path, tmp_path: Path, make_picture: Picture) -> None:
    file = tmp_path / "stderr"
    with file.open("wb") as stderr, process(index_dir, stderr) as (running, url):
        host, port = url.removeprefix("http://").split(":")
        for _ in range(20):
            with socket.create_connection((host, int(port)), timeout=20) as connection:
                connection.sendall(b"garbage\r\n\r\n")
                connection.recv(4096)
        assert locate(url, make_picture()).status_code == 200
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    messages = [line["message"] for line in lines]
    assert messages.count("a library's warning") == 1
    assert any("a warning of NumPy" in message for message in messages)
    assert any("ZeroDivisionError" in line.get("exception", "") for line in lines)
    assert any(re.search(r"serves at http://[\d.:]+", message) for message in messages)
    assert any("TILEBEAM_AUDIT_FILE" in message for message in messages)
    assert not any("Invalid HTTP" in message for message in messages)
    assert messages[-2:] == ["picture", "request"]


def test_audit_is_written_whatever_the_level_of_the_log(index_dir: Path, tmp_path: Path, make_picture: Picture) -> None:
    file = tmp_path / "stderr"
    with file.open("wb") as stderr, process(index_dir, stderr, log_level="error") as (_, url):
        assert [locate(url, make_picture(seed)).status_code for seed in range(3)] == [200] * 3
    assert [json.loads(line)["logger"] for line in file.read_text().splitlines()].count("tilebeam.audit") == 3


def test_no_answer_without_its_audit_line_where_the_log_is_full(
    index_dir: Path, tmp_path: Path, make_picture: Picture
) -> None:
    file = tmp_path / "stderr"
    with file.open("wb") as stderr, process(index_dir, stderr, limit="-f 8") as (_, url):
        statuses = [locate(url, make_picture(seed)).status_code for seed in range(30)]
        assert httpx.get(f"{url}/healthz").status_code == 200
    assert set(statuses) == {200, 503}
    audited = [line for line in file.read_text().splitlines() if '"tilebeam.audit"' in line and line.endswith("}")]
    assert len(audited) == statuses.count(200)


def test_stderr_that_nobody_reads_stops_nothing_but_answers(index_dir: Path, make_picture: Picture) -> None:
    reader, writer = os.pipe()
    with process(index_dir, writer) as (_, url):
        os.close(writer)
        with httpx.Client(base_url=url, timeout=60) as http:
            for _ in range(800):
                assert http.get("/no/such/route").status_code == 404
            assert locate(url, make_picture()).status_code == 503
            received: list[bytes] = []
            drain = threading.Thread(target=lambda: received.extend(iter(lambda: os.read(reader, 65_536), b"")))
            drain.start()
            while (status := locate(url, make_picture()).status_code) == 503:
                time.sleep(0.1)
            assert status == 200
            assert http.get("/healthz").status_code == 200
    drain.join(20)
    os.close(reader)
    lines = [json.loads(line) for line in b"".join(received).split(b"\n")[:-1]]  # what follows the last end is cut off
    assert sum(line["message"] == "request" for line in lines) >= 800
    assert sum(line["message"] == "picture" and "tile" in line for line in lines) == 1


def test_stalled_upload_gets_a_problem_document_after_the_shutdown_timeout(index_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "stderr"
    with file.open("wb") as stderr, process(index_dir, stderr, shutdown_timeout_s="1") as (running, url):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            head = (
                "POST /locate HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 9000\r\n\r\n"
            )
            connection.sendall(head.encode() + b"a")
            while "tilebeam_requests_in_flight 2.0" not in httpx.get(f"{url}/metrics").text:
                time.sleep(0.02)
            running.send_signal(signal.SIGTERM)
            answer = b"".join(iter(lambda: connection.recv(65_536), b""))
        assert running.wait(30) == 0
    assert answer.startswith(b"HTTP/1.1 503")
    assert b"application/problem+json" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["type"].endswith("not-ready")
    assert "CancelledError" not in file.read_text()


def test_writer_finishes_a_line_before_the_next_one() -> None:
    reader, descriptor = os.pipe()
    writer = LineWriter(descriptor)
    filler = b"f" * 4095 + b"\n"
    while True:
        try:
            writer.write(filler)
        except BlockingIOError:
            break
    with pytest.raises(BlockingIOError):
        writer.write(b"none of it\n")
    os.read(reader, 4096)
    assert writer.write(b"long" * 3000 + b"\n") is False  # a piece of it fits
    with pytest.raises(BlockingIOError):
        writer.write(b"next\n")
    received = bytearray()
    while not writer.finish():
        received += os.read(reader, 4096)
    received += os.read(reader, 4096)
    assert writer.write(b"last\n") is True
    os.close(descriptor)
    while piece := os.read(reader, 65_536):
        received += piece
    os.close(reader)
    assert received.splitlines()[-2:] == [b"long" * 3000, b"last"]


def test_dropped_lines_are_counted() -> None:
    reader, descriptor = os.pipe()
    lines = BackgroundLines(LineWriter(descriptor), lambda count: b"dropped %d\n" % count)
    for _ in range(6000):
        lines.put(b"x" * 999 + b"\n")
    received = bytearray()
    drain = threading.Thread(target=lambda: [received.extend(p) for p in iter(lambda: os.read(reader, 65_536), b"")])
    drain.start()
    lines.close(seconds=60)
    os.close(descriptor)
    drain.join(60)
    os.close(reader)
    whole = received.splitlines()
    counted = sum(int(line.split()[1]) for line in whole if line.startswith(b"dropped"))
    assert counted + sum(line.startswith(b"x") for line in whole) == 6000
    assert counted > 0
