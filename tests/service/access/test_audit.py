"""The audit log and the request log: their content, what they never contain, and failures to write."""

import hashlib
import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import ExifTags, Image

from retrieval.locator import Locator
from service.access.audit import Audit, coarse_tile
from service.access.keys import add_key
from service.errors import SettingsError
from service.ops.logs import JsonLines

Problem = Callable[[httpx.Response, int, str], str]
Picture = Callable[..., bytes]


def audited(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def with_gps(data: bytes, lat: float, lon: float) -> bytes:
    """The same pixels, with a camera name and a location in EXIF."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "Secret Camera"
    gps = {1: "N", 2: (lat, 0.0, 0.0), 3: "E", 4: (lon, 0.0, 0.0)}
    exif.get_ifd(ExifTags.IFD.GPSInfo).update(gps)
    out = BytesIO()
    Image.open(BytesIO(data)).save(out, "PNG", exif=exif)
    return out.getvalue()


def test_audit_has_one_line_per_picture_without_its_content(
    serving: Any, locator: Locator, tmp_path: Path, make_picture: Picture
) -> None:
    file, keys = tmp_path / "audit.jsonl", tmp_path / "keys.json"
    key = add_key(keys, "alice", 0, admin=False)
    picture = with_gps(make_picture(1, "PNG"), 48.0, 2.0)
    with serving(locator, audit_file=str(file), keys_file=str(keys)) as url:
        http = httpx.Client(base_url=url, headers={"X-API-Key": key}, timeout=20)
        single = http.post("/locate", files={"image": ("holiday-at-home.png", picture)})
        http.post("/locate", files={"image": b"no picture"})
        files = [("images", ("a.png", picture)), ("images", ("b.png", b"")), ("images", ("c.png", make_picture(2)))]
        many = http.post("/locate/batch", files=files)
        http.get("/index")
        http.post("/locate")
        http.close()
    lines = audited(file)
    assert [line.get("problem") for line in lines] == [None, "unreadable-photo", None, "unreadable-photo", None]
    assert {line["key"] for line in lines} == {"alice"}
    assert lines[0]["sha256"] == lines[2]["sha256"] == hashlib.sha256(picture).hexdigest()
    assert lines[0]["tile"] == lines[2]["tile"] == single.json()["levels"][-1]["tile"]
    assert lines[0]["request_id"] == single.headers["x-request-id"]
    assert {line["request_id"] for line in lines[2:]} == {many.headers["x-request-id"]}
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:.]+\+00:00", line["time"]) for line in lines)
    for line in lines:
        assert set(line) - {"tile", "problem"} == {"time", "request_id", "key", "route", "sha256"}
    text = file.read_text()
    for secret in ("holiday", "Secret", "48.0", key, "lat"):
        assert secret not in text
    assert file.stat().st_mode & 0o777 == 0o600


def test_exif_location_does_not_change_answer(http: httpx.Client, make_picture: Picture) -> None:
    plain = make_picture(3, "PNG")
    answers = []
    for data in (plain, with_gps(plain, 1.0, 100.0), with_gps(plain, 60.0, 5.0)):
        answer = http.post("/locate?alternatives=5&trace=1", files={"image": data}).json()
        del answer["timing_ms"]
        answers.append(answer)
    assert answers[0] == answers[1] == answers[2]


def test_audit_lines_go_to_log_without_file(
    serving: Any, locator: Locator, make_picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "tilebeam"), serving(locator) as url:
        httpx.post(f"{url}/locate", files={"image": make_picture()}, headers={"X-Request-ID": "abc-1"})
    [record] = [record for record in caplog.records if record.name == "tilebeam.audit"]
    line = json.loads(JsonLines().format(record))
    assert line.items() >= {"logger": "tilebeam.audit", "key": "anonymous", "client_request_id": "abc-1"}.items()
    assert set(line["tile"]) == {"z", "x", "y"}


def test_answer_is_withheld_if_audit_cannot_be_written(
    serving: Any, locator: Locator, check_problem: Problem, make_picture: Picture
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with serving(locator, audit_file="/dev/full") as url:
        refused = httpx.post(f"{url}/locate", files={"image": make_picture()})
        assert "the audit log cannot be written" in check_problem(refused, 503, "audit-unavailable")
        line = httpx.post(f"{url}/locate/batch", files=[("images", ("a", make_picture()))]).json()
        assert line["error"]["type"].endswith("audit-unavailable")
        assert set(line) == {"index", "name", "error"}
        check_problem(httpx.post(f"{url}/locate", files={"image": b"no"}), 400, "unreadable-photo")
        assert httpx.get(f"{url}/readyz").status_code == 200


def test_audit_file_is_created_again_after_rotation(tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "audit.jsonl"))
    audit.write({"n": 1})
    (tmp_path / "audit.jsonl").rename(tmp_path / "old")
    audit.write({"n": 2})
    audit.reopen()
    audit.write({"n": 3})
    audit.close()
    assert audited(tmp_path / "old") == [{"n": 1}, {"n": 2}]
    assert audited(tmp_path / "audit.jsonl") == [{"n": 3}]
    with pytest.raises(SettingsError, match="TILEBEAM_AUDIT_FILE="):
        Audit(str(tmp_path))


@pytest.mark.parametrize(
    ("zooms", "expected"),
    [
        ((4, 6, 8), (8, 200, 100)),
        ((4, 6), (6, 50, 25)),
        ((4, 8, 12, 16), (8, 200, 100)),
        ((7, 9), (7, 100, 50)),
        ((10, 12), (8, 200, 100)),
    ],
)
def test_audit_tile_is_at_most_zoom_8(zooms: tuple[int, ...], expected: tuple[int, int, int]) -> None:
    x, y = (200 << 12) + 77, (100 << 12) + 9  # a tile of zoom 20
    levels = [{"zoom": z, "tile": {"z": z, "x": x >> (20 - z), "y": y >> (20 - z)}} for z in zooms]
    assert coarse_tile({"levels": levels}) == dict(zip("zxy", expected, strict=True))


def test_audit_tile_of_missing_answer_is_none() -> None:
    assert coarse_tile({}) is None


def test_log_lines_are_json_with_request_id(
    serving: Any, locator: Locator, make_picture: Picture, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "tilebeam"), serving(locator) as url, httpx.Client(base_url=url) as http:
        client_id = http.get("/index?k=secret", headers={"X-Request-ID": "Trace.7_a-b"})
        generated = [http.get("/healthz", headers={"X-Request-ID": bad}) for bad in ("", "a b", "x" * 65, '"}')]
        missing = http.get("/no/such")
    assert client_id.headers["x-client-request-id"] == "Trace.7_a-b"
    assert all("x-client-request-id" not in answer.headers for answer in generated)
    ids = [answer.headers["x-request-id"] for answer in generated]
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in ids)
    assert len(set(ids)) == 4
    assert missing.json()["request_id"] == missing.headers["x-request-id"]
    records = [record for record in caplog.records if record.name == "tilebeam.request"]
    fields = [record.fields for record in records]  # type: ignore[attr-defined]
    assert [(f["route"], f["status"]) for f in fields] == [("/index", 200)] + 4 * [("/healthz", 200)] + [("other", 404)]
    assert [record.levelname for record in records] == ["INFO"] + 4 * ["DEBUG"] + ["INFO"]
    assert "secret" not in str(fields)


def test_requests_with_the_same_client_id_have_ids_of_their_own(
    serving: Any, locator: Locator, tmp_path: Path, make_picture: Picture
) -> None:
    file = tmp_path / "audit.jsonl"
    with serving(locator, audit_file=str(file)) as url:
        send = lambda: httpx.post(f"{url}/locate", files={"image": make_picture()}, headers={"X-Request-ID": "same"})  # noqa: E731
        answers = [send(), send()]
    lines = audited(file)
    assert [line["client_request_id"] for line in lines] == ["same", "same"]
    ids = [line["request_id"] for line in lines]
    assert ids == [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 2


def test_torn_audit_line_does_not_run_into_the_next_one(tmp_path: Path) -> None:
    """A disk that is full takes a part of a line; here the limit on file sizes is the disk."""
    file = tmp_path / "audit.jsonl"
    program = f"""
import resource
from service.access.audit import Audit
from service.errors import AuditError
audit = Audit({str(file)!r})
audit.write({{"n": 1}})
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
for number in (2, 3):
    try:
        audit.write({{"n": number, "text": "x" * 50}})
    except AuditError:
        print("withheld")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
audit.write({{"n": 4}})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "withheld\nwithheld\n"
    first, torn, last = file.read_text().splitlines()
    assert (json.loads(first), json.loads(last)) == ({"n": 1}, {"n": 4})
    assert torn.startswith('{"n": 2')
    file.write_text(first + "\n" + torn)  # as a crash leaves it
    audit = Audit(str(file))
    audit.write({"n": 5})
    audit.close()
    assert json.loads(file.read_text().splitlines()[-1]) == {"n": 5}


def test_log_record_with_line_breaks_is_one_line() -> None:
    try:
        raise ValueError('two\nlines and "quotes"')
    except ValueError as error:
        record = logging.getLogger("tilebeam.x").makeRecord("tilebeam.x", 40, "f", 1, "a\nb %s", ("\u2028",), None)
        record.exc_info = (ValueError, error, error.__traceback__)
    line = JsonLines().format(record)
    assert len(line.splitlines()) == 1
    parsed = json.loads(line)
    assert (parsed["level"], parsed["message"]) == ("error", "a\nb \u2028")
    assert "Traceback" in parsed["exception"]
