"""POST /locate/batch: order, streaming, unreadable pictures, limits, and cleanup."""

import contextlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from retrieval.locator import LocateQuery, Locator
from retrieval.pictures.photo import decode_photo

Problem = Callable[[httpx.Response, int, str], str]
Picture = Callable[..., bytes]


def parts(pictures: list[bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [("images", (f"{number}.jpg", data)) for number, data in enumerate(pictures)]


def lines(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def spooled(directory: Path) -> int:
    """Number of unnamed files that this process has open in the directory: spooled batches."""
    count = 0
    for handle in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += os.readlink(handle).startswith(str(directory))
    return count


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_batch_answers_are_in_order_and_equal_locator(
    http: httpx.Client, locator: Locator, make_picture: Picture
) -> None:
    pictures = [make_picture(seed) for seed in range(21)]  # more than two groups of the encoder's 8
    answered = lines(http.post("/locate/batch?k=32", files=parts(pictures)))
    assert [(line["index"], line["name"]) for line in answered] == [(i, f"{i}.jpg") for i in range(21)]
    pixels = np.stack([locator.encoder.prepare(decode_photo(data)) for data in pictures])
    expected = locator.locate(locator.encoder.encode(pixels), LocateQuery(k=32))
    for line, answer in zip(answered, expected, strict=True):
        result, direct = line["result"], answer.to_json()
        assert [level["tile"] for level in result["levels"]] == [level["tile"] for level in direct["levels"]]
        for name in ("lat", "lon", "confidence"):  # another batch shape may change an embedding's last bits
            assert result[name] == pytest.approx(direct[name], rel=1e-4)
        assert set(result) == {*direct, "registration", "registration_reason", "timing_ms"}


def test_batch_continues_after_unreadable_image(serving: Any, locator: Locator, make_picture: Picture) -> None:
    good = make_picture(1)
    sent = [good, b"", b"text", good[: len(good) // 2], b"8BPS" + good, good + b"\0" * 10_000, good]
    with serving(locator, max_image_bytes=5000, max_image_pixels=10_000) as url:
        files = parts([*sent, make_picture(2, size=(200, 200)), good])
        answered = lines(httpx.post(f"{url}/locate/batch", files=files))
    kinds = [line["error"]["type"].rsplit(":", 1)[1] if "error" in line else "ok" for line in answered]
    assert kinds == [
        "ok", "unreadable-photo", "unreadable-photo", "unreadable-photo", "unsupported-photo", "photo-too-large",
        "ok", "photo-too-large", "ok",
    ]  # fmt: skip
    assert set(answered[1]["error"]) == {"type", "title", "status", "detail"}
    assert all(("result" in line) != ("error" in line) for line in answered)


def test_batch_line_reports_query_without_answer(http: httpx.Client, make_picture: Picture) -> None:
    answered = lines(http.post("/locate/batch?bbox=-150,83,-145,84", files=parts([make_picture(1), b"no"])))
    assert [line["error"]["status"] for line in answered] == [422, 400]


def test_batch_keeps_file_names(http: httpx.Client, make_picture: Picture) -> None:
    names = ["ünï 北京.jpg", 'quo"te.jpg', "", "../../etc/passwd"]
    files = [("images", (name, make_picture())) for name in names]
    answered = lines(http.post("/locate/batch", files=[f for f in files if f[1][0]]))
    assert [line["name"] for line in answered] == [names[0], "quo%22te.jpg", names[3]]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([("image", ("a.jpg", b"1"))], "unknown form field 'image'"),
        ([("images", (None, b"text"))], "'images' is text"),
        ([("images", ("a.jpg", b"1")), ("note", (None, b"text"))], "unknown form field 'note'"),
    ],
)
def test_batch_rejects_invalid_form(http: httpx.Client, check_problem: Problem, files: Any, expected: str) -> None:
    assert expected in check_problem(http.post("/locate/batch", files=files), 422, "invalid-request")


def test_batch_rejects_form_without_pictures(http: httpx.Client, check_problem: Problem) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = http.post("/locate/batch", content=b"--x--\r\n", headers=headers)
    assert "no picture" in check_problem(response, 422, "invalid-request")


def test_batch_rejects_too_many_pictures(
    serving: Any, locator: Locator, check_problem: Problem, make_picture: Picture, tmp_path: Path
) -> None:
    with serving(locator, max_batch_images=3, spool_dir=str(tmp_path)) as url:
        assert len(lines(httpx.post(f"{url}/locate/batch", files=parts([make_picture()] * 3)))) == 3
        response = httpx.post(f"{url}/locate/batch", files=parts([make_picture()] * 4))
        assert "over 3 pictures" in check_problem(response, 413, "body-too-large")
        assert spooled(tmp_path) == 0


def test_batch_lines_arrive_while_later_pictures_are_located(serving: Any, stepped: Any, make_picture: Picture) -> None:
    with serving(stepped) as url, httpx.Client(base_url=url, timeout=20) as http:
        stepped.encoder.steps.release()  # the readiness inference
        assert http.get("/readyz").status_code == 200
        files = parts([make_picture(seed) for seed in range(6)])  # three groups of two
        with http.stream("POST", "/locate/batch", files=files) as response:
            arriving = response.iter_lines()
            for first in (0, 2, 4):
                stepped.encoder.steps.release()  # let one more group pass
                assert [json.loads(next(arriving))["index"] for _ in range(2)] == [first, first + 1]
            assert next(arriving, None) is None


def test_batch_work_starts_during_upload(serving: Any, locator: Locator, make_picture: Picture) -> None:
    # The encoder takes 8 pictures at a time, and the spool writes 1 MB at a time.
    pictures = [make_picture(seed) + b"\0" * 400_000 for seed in range(12)]
    head = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'

    with serving(locator) as url:

        def located() -> bool:
            return "tilebeam_images_total 9.0" in httpx.get(f"{url}/metrics").text

        def sent() -> Iterator[bytes]:
            assert httpx.get(f"{url}/readyz").status_code == 200  # one picture
            for number, picture in enumerate(pictures):
                yield head + picture + b"\r\n"
                if number == 10:
                    assert until(located, 20)
            yield b"--x--\r\n"

        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        answered = lines(httpx.post(f"{url}/locate/batch", content=sent(), headers=headers, timeout=60))
    assert [line["index"] for line in answered] == list(range(12))
    assert all("result" in line for line in answered)


def test_batch_work_pauses_while_client_does_not_read(serving: Any, locator: Locator, make_picture: Picture) -> None:
    """The client sends everything before it reads. Finished lines are held up to a limit; in the end all arrive."""
    count = 200  # about 65 kB of answer each, far more than is held and buffered
    body = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + make_picture() + b"\r\n"

    with serving(locator) as url, socket.socket() as connection:

        def located() -> int:
            sample = re.search(r"^tilebeam_images_total (\d+)", httpx.get(f"{url}/metrics").text, re.M)
            return int(sample[1]) if sample else 0

        host, port = url.removeprefix("http://").split(":")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((host, int(port)))
        connection.sendall(
            b"POST /locate/batch?k=1024&trace=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"
            % (count * len(body) + 7)
            + count * body
            + b"--x--\r\n"
        )
        seen = [located()]
        while len(seen) < 8 or seen[-1] != seen[-8]:  # until the count is stable
            time.sleep(0.1)
            seen.append(located())
        assert 20 < seen[-1] < count
        answer = b"".join(iter(lambda: connection.recv(1 << 20), b""))
        assert re.findall(rb'"index":(\d+),"name"', answer) == [b"%d" % number for number in range(count)]


def test_disconnect_while_reading_frees_slots_and_disk(
    serving: Any, stepped: Any, make_picture: Picture, tmp_path: Path
) -> None:
    with (
        serving(stepped, max_batches=1, spool_dir=str(tmp_path)) as url,
        httpx.Client(base_url=url, timeout=20) as http,
    ):
        stepped.encoder.steps.release()
        assert http.get("/readyz").status_code == 200
        files = parts([make_picture(seed) for seed in range(6)])
        with http.stream("POST", "/locate/batch", files=files) as response:
            stepped.encoder.steps.release()
            arriving = response.iter_lines()  # hold a reference: httpx closes the response with its iterator
            assert json.loads(next(arriving))["index"] == 0
            assert spooled(tmp_path) == 1
            refused = httpx.post(f"{url}/locate/batch", files=files[:1])
            assert refused.status_code == 503
            assert 1 <= int(refused.headers["retry-after"]) <= 60  # depends on the pace of the held encoder
        assert until(lambda: spooled(tmp_path) == 0)
        stepped.encoder.steps.release(100)
        assert len(lines(http.post("/locate/batch", files=files))) == 6


def test_disconnect_while_sending_frees_slots_and_disk(
    serving: Any, locator: Locator, make_picture: Picture, tmp_path: Path
) -> None:
    with serving(locator, max_batches=1, spool_dir=str(tmp_path)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /locate/batch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
                b'Content-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + b"\0" * 2000
            )
            assert until(lambda: spooled(tmp_path) == 1)
        assert until(lambda: spooled(tmp_path) == 0)
        assert len(lines(httpx.post(f"{url}/locate/batch", files=parts([make_picture()])))) == 1


def test_batch_is_cancelled_if_client_never_reads(
    serving: Any, locator: Locator, make_picture: Picture, tmp_path: Path
) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + make_picture() + b"\r\n"
    with serving(locator, max_batches=1, spool_dir=str(tmp_path), client_timeout_s=0.3) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            # About 90 kB of answer per picture, more than all buffers together.
            connection.sendall(
                b"POST /locate/batch?k=1024&trace=1 HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n"
                % (80 * len(body) + 7)
                + 80 * body
                + b"--x--\r\n"
            )
            assert until(lambda: spooled(tmp_path) == 1)
            assert until(lambda: spooled(tmp_path) == 0)
            assert len(lines(httpx.post(f"{url}/locate/batch", files=parts([make_picture()])))) == 1


def test_unwritable_spool_is_503(
    serving: Any, locator: Locator, check_problem: Problem, make_picture: Picture, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    with serving(locator, spool_dir=str(spool), retry_after_s=7) as url:
        spool.rmdir()
        response = httpx.post(f"{url}/locate/batch", files=parts([make_picture()]))
        assert "temporary store" in check_problem(response, 503, "store-unavailable")


def test_memory_does_not_grow_with_batch_size(serving: Any, locator: Locator, make_picture: Picture) -> None:
    """60 MB pass through. Twice the groups in progress (16 pictures of 300 kB) and the spool's buffer are allowed."""
    data = make_picture(1) + b"\0" * 300_000
    body = b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + data + b"\r\n"
    process = psutil.Process()

    def sent() -> Iterator[bytes]:
        for _ in range(200):
            yield body
        yield b"--x--\r\n"

    with serving(locator) as url:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        httpx.post(f"{url}/locate", files={"image": data})
        before, maximum, count = process.memory_info().rss, 0, 0
        with httpx.stream("POST", f"{url}/locate/batch", content=sent(), headers=headers, timeout=30) as response:
            for _ in response.iter_lines():
                count += 1
                maximum = max(maximum, process.memory_info().rss)
    assert count == 200
    assert maximum - before < 25_000_000
