"""Invalid input: the answer is a problem document that names the fault, never a 500."""

import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from retrieval.locator import Locator

Problem = Callable[[httpx.Response, int, str], str]
Picture = Callable[..., bytes]


def encoded(image: Image.Image, kind: str) -> bytes:
    out = BytesIO()
    image.save(out, kind)
    return out.getvalue()


def form(*parts: bytes, boundary: bytes = b"x", end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + end


PART = b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("data", "status", "slug"),
    [
        (b"", 400, "unreadable-photo"),
        (b"just text", 400, "unreadable-photo"),
        (b"<html><body>Not found</body></html>", 400, "unreadable-photo"),
        (b"\xff\xd8\xff\xe0 cut", 400, "unreadable-photo"),
        (encoded(Image.new("RGB", (8, 8)), "ICO"), 415, "unsupported-photo"),
        (b"%PDF-1.7", 415, "unsupported-photo"),
        (b"GIF89a" + b"\xff" * 100, 413, "photo-too-large"),
    ],
)
def test_bytes_that_are_not_a_picture_are_rejected(
    http: httpx.Client, check_problem: Problem, data: bytes, status: int, slug: str
) -> None:
    check_problem(http.post("/locate", files={"image": data}), status, slug)
    if data:
        check_problem(http.post("/locate", content=data, headers={"Content-Type": "image/jpeg"}), status, slug)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"just text", "it begins with 'just text'"),
        (b"\x00\x01\x02", "it begins with the bytes 00 01 02"),
        (b"\0\0\0\x18ftypmp42" + bytes(12), "a media file of the brand 'mp42' is not supported"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + b"\0\0\0\x08" * 2 + b"\x08\x02\0\0\0" + b"bad!" * 9, "damaged"),
    ],
)
def test_problems_show_bytes_as_people_write_them(http: httpx.Client, data: bytes, words: str) -> None:
    detail = http.post("/locate", files={"image": data}).json()["detail"]
    assert words in detail
    assert "b'" not in detail
    assert "\\x" not in detail


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "I;16", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (20_000, 2), (300, 200)])
def test_unusual_pictures_get_an_answer(http: httpx.Client, mode: str, size: tuple[int, int]) -> None:
    assert http.post("/locate", files={"image": encoded(Image.new(mode, size), "TIFF")}).status_code == 200


def lying_png(width: int, height: int) -> bytes:
    """A PNG of 8 by 8 pixels whose header claims another size, with a valid checksum."""
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def lying_jpeg(width: int, height: int) -> bytes:
    data = bytearray(encoded(Image.new("RGB", (8, 8)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def several(kind: str, count: int = 3) -> bytes:
    frames = [Image.new("RGB", (8, 8), (80 * number, 0, 0)) for number in range(count)]
    out = BytesIO()
    frames[0].save(out, kind, save_all=True, append_images=frames[1:])
    return out.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    out = BytesIO()
    Image.new("RGB", (30, 10)).save(out, "JPEG", exif=exif)
    return out.getvalue()


ODD: dict[str, tuple[bytes, int]] = {
    "png that claims 10 gigapixels": (lying_png(100_000, 100_000), 413),
    "png that claims 2**31": (lying_png(2**31 - 1, 2**31 - 1), 413),
    "png that claims nothing": (lying_png(0, 8), 400),
    "png that claims 90 megapixels and has 64": (lying_png(9000, 9990), 400),
    "jpeg that claims 4 gigapixels": (lying_jpeg(65_535, 65_535), 413),
    "png bomb": (encoded(Image.new("1", (20_000, 20_000)), "PNG"), 413),
    "jpeg cut off": (encoded(Image.new("RGB", (200, 200), "red"), "JPEG")[:-200], 400),
    "webp cut off": (encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "WEBP")[:-100], 400),
    "gif animated": (several("GIF"), 200),
    "webp animated": (several("WEBP"), 200),
    "png animated": (several("PNG"), 200),
    "tiff of pages": (several("TIFF"), 200),
    "jpeg cmyk": (encoded(Image.new("CMYK", (8, 8)), "JPEG"), 200),
    "png 16 bit": (encoded(Image.new("I;16", (8, 8), 40_000), "PNG"), 200),
    "png palette": (encoded(Image.new("RGB", (8, 8)).quantize(4), "PNG"), 200),
    "png transparent": (encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "PNG"), 200),
    "png 1x1": (encoded(Image.new("RGB", (1, 1)), "PNG"), 200),
    "jpeg 1x1": (encoded(Image.new("L", (1, 1)), "JPEG"), 200),
    "jpeg turned by exif": (turned(), 200),
}


@pytest.mark.parametrize("name", ODD)
def test_unusual_pictures_over_http(http: httpx.Client, name: str) -> None:
    data, status = ODD[name]
    answer = http.post("/locate", files={"image": data})
    assert answer.status_code == status, answer.text
    line = http.post("/locate/batch", files=[("images", ("odd", data))]).json()
    assert line.get("error", {"status": 200})["status"] == status
    assert http.get("/readyz").status_code == 200


def test_formats_setting_restricts_accepted_formats(
    serving: Any, locator: Locator, check_problem: Problem, make_picture: Picture
) -> None:
    with serving(locator, formats="png, jpeg") as url, httpx.Client(base_url=url, timeout=20) as http:
        for kind in ("JPEG", "PNG"):
            assert http.post("/locate", files={"image": make_picture(kind=kind)}).status_code == 200
        refused = http.post("/locate", files={"image": make_picture(kind="WEBP")})
        assert "WebP is not accepted here" in check_problem(refused, 415, "unsupported-photo")
        assert http.get("/readyz").status_code == 200


def test_slow_but_steady_upload_is_stopped_at_its_time_limit(
    serving: Any, locator: Locator, check_problem: Problem
) -> None:
    limits = {"request_timeout_s": 0.5, "batch_upload_timeout_s": 0.5, "max_in_flight": 1, "max_batches": 1}

    def steady() -> Iterator[bytes]:
        yield b"--x\r\n" + PART
        for _ in range(200):
            time.sleep(0.01)
            yield b"\0"

    with serving(locator, **limits) as url, httpx.Client(base_url=url, timeout=20) as http:
        for route in ("/locate", "/locate/batch"):
            body = (part.replace(b"image", b"images", 1) if route != "/locate" else part for part in steady())
            for _ in range(2):  # the second request shows that the slot was freed
                refused = http.post(route, content=body, headers=FORM)
                assert "longer than 0.5 s" in check_problem(refused, 503, "too-slow")
                body = (part.replace(b"image", b"images", 1) if route != "/locate" else part for part in steady())


def test_empty_raw_body_is_rejected(http: httpx.Client, check_problem: Problem) -> None:
    response = http.post("/locate", content=b"", headers={"Content-Type": "image/jpeg"})
    assert "0 bytes" in check_problem(response, 400, "unreadable-photo")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (form(PART + b"1", PART + b"2"), "several files 'image'"),
        (form(b'Content-Disposition: form-data; name="image"\r\n\r\ntext'), "'image' is text"),
        (form(PART.replace(b"image", b"photo") + b"1"), "unknown form field 'photo'"),
        (form(PART + b"1", b'Content-Disposition: form-data; name="k"\r\n\r\n5'), "'k' is a query parameter"),
        (form(b"Content-Type: image/jpeg\r\n\r\n1"), "no field name"),
        (form(PART + b"1", end=b""), "ends before its closing boundary"),
        (form(PART + b"1")[:30], "ends before its closing boundary"),
        (b"--x--\r\n", "no file 'image'"),
        (b"", "closing boundary"),
        (b"no form at all", "malformed"),
        (form(b"A" * 9000 + b": b\r\n\r\n"), "malformed"),
    ],
)
def test_invalid_form_is_rejected_with_reason(
    http: httpx.Client, check_problem: Problem, body: bytes, expected: str
) -> None:
    assert expected in check_problem(http.post("/locate", content=body, headers=FORM), 422, "invalid-request")


def test_form_without_usable_boundary_is_rejected(http: httpx.Client, check_problem: Problem) -> None:
    for boundary, expected in (("", "has no boundary"), ("; boundary=" + "b" * 3000, "cannot be used")):
        response = http.post("/locate", content=b"--x", headers={"Content-Type": "multipart/form-data" + boundary})
        assert expected in check_problem(response, 422, "invalid-request")


@pytest.mark.parametrize(
    "content_type", ["", "application/json", "text/plain", "application/x-www-form-urlencoded", "video/mp4"]
)
def test_other_content_type_is_rejected_with_accepted_types(
    http: httpx.Client, check_problem: Problem, make_picture: Picture, content_type: str
) -> None:
    for route in ("/locate", "/locate/batch"):
        response = http.post(route, content=make_picture(), headers={"Content-Type": content_type})
        assert "multipart/form-data" in check_problem(response, 415, "unsupported-body")


@pytest.mark.parametrize("coding", ["gzip", "GZIP, gzip", "br", "deflate" * 100])
def test_a_packed_body_is_rejected_by_name(
    http: httpx.Client, check_problem: Problem, make_picture: Picture, coding: str
) -> None:
    for route in ("/locate", "/locate/batch"):
        headers = {"Content-Type": "image/png", "Content-Encoding": coding}
        detail = check_problem(http.post(route, content=make_picture(), headers=headers), 415, "unsupported-body")
        assert coding[:20].lower() in detail
        assert len(detail) < 200
    headers = {"Content-Type": "image/png", "Content-Encoding": "identity"}
    assert http.post("/locate", content=make_picture(), headers=headers).status_code == 200


def endless() -> Iterator[bytes]:
    """A body of 40 MB, sent slowly: the server answers long before its end."""
    for _ in range(40_000):
        yield b"\0" * 1000
        time.sleep(0.0002)


def test_size_limits_apply_while_streaming(serving: Any, locator: Locator, check_problem: Problem) -> None:
    limits = {"max_image_bytes": 100_000, "max_batch_bytes": 200_000}
    with serving(locator, **limits) as url, httpx.Client(base_url=url, timeout=20) as http:
        raw = {"Content-Type": "image/jpeg"}
        check_problem(http.post("/locate", content=b"\0" * 100_001, headers=raw), 413, "body-too-large")
        assert http.post("/locate", content=b"\0" * 100_000, headers=raw).status_code == 400
        check_problem(http.post("/locate", content=endless(), headers=raw), 413, "body-too-large")
        big = form(PART + b"\0" * 100_001)
        check_problem(http.post("/locate", content=big, headers=FORM), 413, "photo-too-large")
        check_problem(http.post("/locate", content=endless(), headers=FORM), 422, "invalid-request")
        batch = form(PART.replace(b"image", b"images") + b"\0" * 200_001)
        check_problem(http.post("/locate/batch", content=batch, headers=FORM), 413, "body-too-large")
        check_problem(http.post("/locate/batch", content=iter([batch]), headers=FORM), 413, "body-too-large")


def talk(url: str, request: bytes) -> bytes:
    """Send raw bytes and read until the server closes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
    return answer


def test_wrong_content_length_is_handled(serving: Any, locator: Locator) -> None:
    with serving(locator, max_image_bytes=1000, client_timeout_s=0.3) as url:
        head = b"POST /locate HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: image/jpeg\r\n"
        head += b"Content-Length: "
        assert b"413 " in talk(url, head + b"99999999999\r\n\r\n" + b"\0" * 10)[:20]  # announces much, sends little
        assert b"408 " in talk(url, head + b"900\r\n\r\n" + b"\0" * 10)[:20]  # announces more than it sends
        assert b"400 " in talk(url, head + b"10\r\n\r\n" + b"\0" * 100)[:20]  # sends more than it announces
        assert b"400 " in talk(url, head + b"-5\r\n\r\n")[:20]


def test_unknown_paths_and_methods_are_problem_documents(http: httpx.Client) -> None:
    for response, status in ((http.get("/nothing"), 404), (http.get("/locate"), 405), (http.put("/index"), 405)):
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["type"] == "about:blank"
        assert "/docs" in response.json()["detail"]
    assert http.get("/locate").headers["allow"] == "POST, OPTIONS"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    edits=st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=5),
    route=st.sampled_from(["/locate", "/locate/batch"]),
)
def test_damaged_requests_never_cause_500(
    http: httpx.Client, make_picture: Picture, edits: list[tuple[int, bytes]], route: str
) -> None:
    field = b"image" if route == "/locate" else b"images"
    body = bytearray(form(PART.replace(b"image", field, 1) + make_picture(5)))
    for at, value in edits:
        start = at % len(body)
        body[start : start + len(value)] = value
    response = http.post(route, content=bytes(body), headers=FORM)
    assert response.status_code in (200, 400, 413, 415, 422), response.text


def test_answer_does_not_repeat_long_input(http: httpx.Client, make_picture: Picture) -> None:
    """60 kB of unknown parameters were once answered with 454 kB."""
    files, long = {"image": make_picture()}, "a" * 50_000
    unknown = http.post("/locate?" + "&".join(f"p{number}=1" for number in range(6000)), files=files)
    assert "unknown query parameter 'p0'" in unknown.json()["detail"]
    assert unknown.json()["detail"].endswith("; and 5,997 more")
    answers = [unknown, http.get(f"/{long}"), http.post("/locate", params={"within": long}, files=files)]
    answers += [http.post(f"/locate?{long}=1", files=files), http.post("/locate", params={"bbox": long}, files=files)]
    answers += [http.post("/locate", params={"prior": long}, files=files), http.get(f"/tiles/1/2/{long}")]
    answers += [http.post("/locate", content=b"a", headers={"Content-Type": long})]
    for answer in answers:
        assert answer.status_code in (404, 415, 422), answer.text[:200]
        assert len(answer.content) < 2000, answer.text[:200]
