"""`tilebeam serve` and `tilebeam locate`: output, exit codes, signals, and no engine with --url."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import typer
from terminal import unwrapped
from typer.testing import CliRunner, Result

from service.cli import register

Picture = Callable[..., bytes]
ROOT = Path(__file__).parents[2]
FRONT = "import typer; from service.cli import register; app = typer.Typer(); register(app); app()"


def tilebeam(*arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def photos(tmp_path: Path, make_picture: Picture) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for seed, path in enumerate(paths):
        path.write_bytes(make_picture(seed, "PNG"))
    return paths


def test_key_is_printed_once_and_stored_as_hash(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    created = tilebeam("key", "new", "--file", file, "--name", "alice", "--rate", 5, "--admin")
    assert created.exit_code == 0, created.stderr
    text = created.stdout.strip()
    assert text.startswith("tilebeam_")
    assert text not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    again = tilebeam("key", "new", "--file", file, "--name", "alice")
    assert (again.exit_code, "already has a key 'alice'" in again.stderr, again.stdout) == (1, True, "")
    assert tilebeam("key", "remove", "--file", file, "--name", "alice").exit_code == 0
    assert tilebeam("key", "remove", "--file", file, "--name", "alice").exit_code == 1


def test_locate_with_index_prints_same_json_as_service(engine_index: Path, photos: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(photos[0].read_bytes()[:60])
    files = [photos[0], broken, tmp_path / "missing.png", photos[1]]
    result = tilebeam("locate", *files, "--index", engine_index, "--json", "--k", 16, "--alternatives", 2)
    assert result.exit_code == 1
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.get("error", {}).get("status") for line in lines] == [None, 400, 400, None]
    assert lines[0]["index"]["zooms"] == [4, 6]
    assert len(lines[0]["alternatives"]) <= 2
    assert set(lines[0]["timing_ms"]) == {"decode", "encode", "search"}
    assert "missing.png" in result.stderr
    assert "Traceback" not in result.stderr


def test_locate_without_json_prints_readable_text(engine_index: Path, photos: list[Path]) -> None:
    result = tilebeam("locate", photos[0], "--index", engine_index, "--scoring", "paper", "--bbox", "-90,-60,90,60")
    assert result.exit_code == 0, result.stderr
    assert f"{photos[0]}: " in result.stdout
    assert "zoom  4" in result.stdout
    assert "not calibrated" in result.stdout


def test_text_says_that_none_of_the_tiles_is_likelier_and_never_rounds_to_certainty(
    monkeypatch: pytest.MonkeyPatch, photos: list[Path]
) -> None:
    level = {"zoom": 4, "quadkey": "1230", "confidence": 0.9988}
    answer = {
        "lat": 1.0, "lon": 2.0, "confidence": 0.0012, "zoom": 4, "calibrated": True, "levels": [level],
        "radius_km": {"50": None, "90": None}, "elsewhere": 0.6123, "alternatives": [],
    }  # fmt: skip
    monkeypatch.setattr("service.cli._locate_by_index", lambda *given: iter([answer]))
    lines = tilebeam("locate", photos[0], "--index", "any").stdout.splitlines()
    assert lines[0].endswith("(<1% for the tile of zoom 4)")
    assert "probably none of the indexed tiles (61%)" in lines[1]
    assert lines[2].endswith(">99%")


def test_locate_with_url_prints_answers_of_service(url: str, photos: list[Path], tmp_path: Path) -> None:
    answers = [httpx.post(f"{url}/locate?k=64", files={"image": path.read_bytes()}).json() for path in photos]
    result = tilebeam("locate", *photos, tmp_path / "missing", "--url", url, "--json")
    assert result.exit_code == 1
    *answered, missing = (json.loads(line) for line in result.stdout.splitlines())
    assert missing["error"]["status"] == 400
    for printed, served in zip(answered, answers, strict=True):
        assert list(printed) == list(served)
        assert printed["levels"][-1]["tile"] == served["levels"][-1]["tile"]
    limited = tilebeam("locate", photos[0], "--url", url, "--json", "--bbox", "-170,-80,170,80")
    assert limited.exit_code == 0
    assert json.loads(limited.stdout)["index"]["zooms"] == [4, 6, 8]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--url", "http://x", "--index", "y"], "either"),
        ([], "either"),
        (["--url", "http://x", "--scoring", "paper"], "--scoring"),
        (["--index", "y", "--k", "0"], "--k"),
        (["--index", "y", "--k", "1025"], "1024"),
        (["--index", "y", "--alternatives", "21"], "20"),
        (["--index", "y", "--bbox", "1,2,3"], "3 values"),
        (["--index", "y", "--bbox", "0,50,10,40"], "south 50 is greater than north 40"),
        (["--index", "y", "--bbox", "0,88,10,89"], "covers no tile"),
        (["--index", "y", "--within", __file__], "is not JSON"),
        (["--index", "y", "--scoring", "best"], "best"),
        (["--index", "y", "--no-register", "--width-km", "300", "--gcps", "x.txt"], "--width-km and --gcps is given"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], named: str, photos: list[Path]) -> None:
    result = tilebeam("locate", photos[0], *arguments)
    assert result.exit_code == 2
    assert named in unwrapped(result.stderr)


def test_failure_prints_one_line_and_exits_with_1(photos: list[Path], tmp_path: Path, engine_index: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for arguments, named in (
        (["--url", f"http://127.0.0.1:{port}"], "no answer from"),
        (["--index", str(tmp_path)], str(tmp_path)),
        (["--index", str(tmp_path / "none")], "none"),
    ):
        result = tilebeam("locate", photos[0], *arguments)
        assert (result.exit_code, result.stdout) == (1, "")
        assert named in result.stderr
        assert result.stderr.startswith("tilebeam: ")
        assert result.stderr.count("\n") == 1


def test_locate_with_url_does_not_import_engine(url: str, photos: list[Path]) -> None:
    program = (
        "import sys, typer\n"
        "from service.cli import register\n"
        "app = typer.Typer(); register(app)\n"
        "try: app()\n"
        "finally: print(sorted({'torch', 'numpy', 'faiss', 'fastapi', 'open_clip', 'PIL', 'uvicorn', 'mercantile',"
        " 'starlette', 'prometheus_client'} & set(sys.modules)), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, "locate", *map(str, photos), "--url", url, "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == "[]\n"


@pytest.fixture
def served(engine_index: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`tilebeam serve` in its own process, on a free port."""
    command = [sys.executable, "-c", FRONT, "serve", "--index", str(engine_index), "--port", "0", "--device", "cpu"]
    env = os.environ | {"TILEBEAM_THREADS": "1", "TILEBEAM_CLIENT_TIMEOUT_S": "5"}
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=env) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert " at http://127.0.0.1:" in line, line + process.stderr.read()
        url = line.split(" at ")[1].split(" ")[0]
        yield process, url
        process.kill()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serve_answers_and_stops_without_traceback(
    served: tuple["subprocess.Popen[str]", str], make_picture: Picture, number: int, code: int
) -> None:
    process, url = served
    deadline = time.monotonic() + 30
    while httpx.get(f"{url}/readyz", timeout=30).status_code != 200:
        assert time.monotonic() < deadline
    assert httpx.post(f"{url}/locate", files={"image": make_picture()}).status_code == 200
    process.send_signal(number)
    assert process.wait(timeout=20) == code
    assert process.stderr is not None
    lines = [json.loads(line) for line in process.stderr]
    assert {line["message"] for line in lines} == {"picture", "request"}  # JSON, and no traceback
    assert lines[-1].items() >= {"route": "/locate", "status": 200, "level": "info", "key": "anonymous"}.items()


def test_serve_writes_an_ipv6_address_with_brackets(engine_index: Path) -> None:
    command = [sys.executable, "-c", FRONT, "serve", "--index", str(engine_index), "--host", "::1", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        process.kill()
    if "cannot be used" in line:
        pytest.skip("this machine has no IPv6")
    assert " at http://[::1]:" in line


def test_serve_reports_why_it_cannot_start(engine_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        in_use = tilebeam("serve", "--index", engine_index, "--port", port)
    assert in_use.exit_code == 1
    assert f"127.0.0.1:{port} cannot be used" in in_use.stderr
    assert "choose another --port" in in_use.stderr
    unknown = tilebeam("serve", "--index", engine_index, "--host", "no.such.host.invalid")
    assert (unknown.exit_code, "no.such.host.invalid" in unknown.stderr) == (1, True)
    open_to_all = tilebeam("serve", "--index", engine_index, "--host", "0.0.0.0", "--port", 0)
    assert (open_to_all.exit_code, "TILEBEAM_ALLOW_ANONYMOUS=1" in open_to_all.stderr) == (1, True)
    no_index = tilebeam("serve", "--index", tmp_path, "--port", 0)
    assert (no_index.exit_code, str(tmp_path) in no_index.stderr) == (1, True)
    monkeypatch.setenv("TILEBEAM_MAX_BATCHES", "few")
    setting = tilebeam("serve", "--index", engine_index)
    assert (setting.exit_code, "TILEBEAM_MAX_BATCHES='few'" in setting.stderr) == (1, True)
    for result in (in_use, unknown, open_to_all, no_index, setting):
        assert "Traceback" not in result.stderr
        assert result.stdout == ""


def test_a_missing_key_is_asked_for_by_the_commands_own_option(
    monkeypatch: pytest.MonkeyPatch, photos: list[Path]
) -> None:
    problem = {"type": "urn:tilebeam:problem:unauthorized", "status": 401, "detail": "this service needs a key"}
    monkeypatch.setattr("service.cli._locate_by_service", lambda *given: iter([{"error": problem}]))
    result = tilebeam("locate", photos[0], "--url", "http://127.0.0.1:1")
    assert (result.exit_code, "--api-key KEY or TILEBEAM_API_KEY" in result.stderr) == (1, True)


def test_text_of_a_picture_of_no_place_has_no_coordinates(monkeypatch: pytest.MonkeyPatch, photos: list[Path]) -> None:
    answer = {
        "outcome": "elsewhere", "lat": 1.25, "lon": 2.5, "confidence": 0.2, "zoom": 4, "calibrated": True,
        "levels": [{"zoom": 4, "quadkey": "1230", "confidence": 0.2}], "radius_km": {"50": None, "90": None},
        "elsewhere": 0.71, "alternatives": [], "registration": None, "index": {"pictures": "above"},
    }  # fmt: skip
    monkeypatch.setattr("service.cli._locate_by_index", lambda *given: iter([answer]))
    text = tilebeam("locate", photos[0], "--index", "any").stdout
    assert "does not look like a picture of the Earth from above" in text
    assert "1.25" not in text
    answer |= {"outcome": "uncertain", "elsewhere": 0.3}
    monkeypatch.setattr("service.cli._locate_by_index", lambda *given: iter([answer]))
    assert "uncertain, perhaps 1.2500, 2.5000" in tilebeam("locate", photos[0], "--index", "any").stdout
