"""The program at the edges of its environment: standard output, names of files, folders that are missing, proxies."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from terminal import unwrapped
from typer.testing import CliRunner, Result

from service.access.keys import KeyRing
from tilebeam import app

Picture = Callable[..., bytes]
ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, str(ROOT / "tilebeam.py")]
NOBODY = """
import os, pwd, sys

def unnamed(uid):
    raise KeyError(uid)

pwd.getpwuid = unnamed  # as for a user of a container that has a number only
os.environ.pop("HOME", None), os.environ.pop("XDG_CACHE_HOME", None)
sys.path.insert(0, sys.argv.pop(1))
import tilebeam
tilebeam.main()
"""


def tilebeam(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def process(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    command = [*PROGRAM, *(os.fsencode(a) if isinstance(a, Path) else str(a) for a in arguments)]
    options = {"stdout": subprocess.PIPE} | options
    return subprocess.run(command, stderr=subprocess.PIPE, timeout=600, **options)


def one_line(stderr: bytes) -> str:
    text = stderr.decode()
    assert text.startswith("tilebeam: "), text
    assert text.count("\n") == 1, text
    return text


@pytest.fixture
def photo(tmp_path: Path, make_picture: Picture) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(make_picture(1, "PNG"))
    return path


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["key", "new", "--file", "{}", "--name", "a"]])
def test_output_that_cannot_be_written_is_one_line_and_exit_code_1(arguments: list[str], tmp_path: Path) -> None:
    arguments = [argument.format(tmp_path / "keys.json") for argument in arguments]
    with open("/dev/full", "wb") as full:
        on_full = process(*arguments, stdout=full)
    reader, writer = os.pipe()
    os.close(reader)
    on_pipe = process(*arguments, stdout=writer)
    os.close(writer)
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, *arguments], stderr=subprocess.PIPE, timeout=600
    )
    for done, reason in ((on_full, "No space left"), (on_pipe, "Broken pipe"), (closed, "Bad file descriptor")):
        assert done.returncode == 1
        assert f"standard output cannot be written ({reason}" in one_line(done.stderr)
    assert not (tmp_path / "keys.json").exists() or KeyRing.read(tmp_path / "keys.json").keys == ()


def test_answers_that_cannot_be_written_are_one_line_and_exit_code_1(url: str, photo: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = process("locate", photo, "--url", url, "--json", stdout=full)
    assert (done.returncode, "standard output cannot be written" in one_line(done.stderr)) == (1, True)


@pytest.mark.parametrize("stdout", ["ascii", "latin-1", "utf-8"])
def test_any_name_prints_in_any_encoding(url: str, photo: Path, stdout: str) -> None:
    path = Path(os.fsdecode(os.fsencode(photo.parent) + "/é\n".encode() + b"\xe9.png"))
    shutil.copy(photo, path)
    done = process("locate", path, path, "--url", url, env=os.environ | {"PYTHONIOENCODING": stdout})
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(rb"\n\xe9.png: ") == 2


def test_names_that_are_not_utf8_are_located_with_url_and_index(
    url: str, photo: Path, engine_index: Path, tmp_path: Path
) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(photo, path)
    for way in (["--url", url], ["--index", engine_index]):
        plain = process("locate", path, *way)
        assert (plain.returncode, plain.stderr) == (0, b"")
        assert rb"caf\xe9.png: " in plain.stdout
        result = process("locate", path, tmp_path / os.fsdecode(b"gone\xff.png"), *way, "--json")
        located, gone = (json.loads(line) for line in result.stdout.decode("utf-8").splitlines())
        assert (result.returncode, located["levels"][0]["zoom"]) == (1, 4)
        assert r"gone\xff.png: No such file" in gone["error"]["detail"]


def test_a_missing_file_is_named_once(url: str, engine_index: Path, tmp_path: Path) -> None:
    for way in (["--url", url], ["--index", engine_index]):
        result = tilebeam("locate", tmp_path / "missing.jpg", *way)
        assert result.exit_code == 1
        assert result.stderr.count("missing.jpg") == 1, result.stderr


def test_files_are_looked_at_before_the_index_is_opened(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "zero.jpg").touch()
    names = ("text.jpg", "gone.jpg", "zero.jpg")
    result = tilebeam("locate", *(tmp_path / name for name in names), "--index", tmp_path / "no-index", "--json")
    assert (result.exit_code, "no-index" in result.stderr) == (1, False)
    problems = [json.loads(line)["error"] for line in result.stdout.splitlines()]
    assert [problem["status"] for problem in problems] == [400, 400, 400]
    assert "is empty (0 bytes)" in problems[2]["detail"]


def test_a_folder_stands_for_its_pictures(url: str, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("deep/b.PNG", "deep/c.AVIF", "deep/notes.txt"):
        shutil.copy(photo, tmp_path / name)
    result = tilebeam("locate", tmp_path, "--url", url, "--json")
    assert (result.exit_code, len(result.stdout.splitlines())) == (0, 3)
    (tmp_path / "empty").mkdir()
    empty = tilebeam("locate", tmp_path / "empty", "--url", url)
    assert (empty.exit_code, "no picture lies below" in empty.stderr) == (1, True)


BOXES = [
    ["--bbox", "-170,-80,170,80"], ["--bbox", "-170", "-80", "170", "80"], ["--bbox=-170,-80,170,80"],
    ["--bbox", "-170 -80 170 80"], ["--bbox", "-170,", "-80,", "170,", "80"], ["--bbox", "-170, -80, 170, 80"],
]  # fmt: skip


@pytest.mark.parametrize("box", BOXES)
def test_a_box_is_written_either_way_in_every_command(box: list[str], url: str, photo: Path) -> None:
    for arguments in ([*box, photo], [photo, *box]):
        located = tilebeam("locate", *arguments, "--url", url, "--json")
        assert located.exit_code == 0, located.stderr
        assert json.loads(located.stdout)["levels"]
    planned = tilebeam("plan", "--source", "bluemarble", "--zooms", "4", *box, "--json")
    expected = tilebeam("plan", "--source", "bluemarble", "--zooms", "4", "--bbox", -170, -80, 170, 80, "--json")
    assert (planned.exit_code, planned.stdout) == (0, expected.stdout)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        (["--bbox", "1,2,3"], "3 values instead of 4"), (["--bbox", "1,2,3,x"], "'x' is not a number"),
        (["--bbox", "1,2,3,4,5"], "5 values"), (["--bbox", "1", "2", "3"], "bbox"), (["--bbox"], "--bbox"),
    ],
)  # fmt: skip
def test_a_box_that_is_none_is_wrong_usage_in_every_command(box: list[str], words: str, photo: Path) -> None:
    for command in (["locate", photo, "--index", "x"], ["plan", "--source", "bluemarble", "--zooms", "4"]):
        result = tilebeam(*command, *box)
        assert result.exit_code == 2
        if box[1:] != ["1", "2", "3"] or command[0] == "locate":
            assert words in unwrapped(result.stderr)


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        (["locate", "x.jpg", "--index", "y", "--k", "5000"], "'5000'"),
        (["locate", "x.jpg", "--index", "y", "--alternatives", "-1"], "'-1'"),
        (["locate", "x.jpg", "--index", "y", "--k", "many"], "'many'"),
        (["key", "new", "--file", "k.json", "--name", "a", "--rate", "-5"], "'-5'"),
        (["serve", "--index", "y", "--port", "99999"], "'99999'"), (["demo", "--port", "-1"], "'-1'"),
        (["serve", "--index", "y", "--device", "tpu"], "'tpu'"),
    ],
)  # fmt: skip
def test_a_value_out_of_range_is_named(arguments: list[str], value: str) -> None:
    result = tilebeam(*arguments)
    assert (result.exit_code, value in unwrapped(result.stderr)) == (2, True), result.stderr


@pytest.mark.parametrize("file", [".", "/", "/sys/keys.json", "/proc/none/keys.json", "x" * 300, "/dev/null"])
def test_a_key_file_that_cannot_be_written_is_one_line(file: str, tmp_path: Path) -> None:
    for arguments in (["new", "--file", file, "--name", "a"], ["remove", "--file", file, "--name", "a"]):
        done = process("key", *arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, b"")
        assert file in one_line(done.stderr)


def test_a_user_without_home_gets_one_line(tmp_path: Path, photo: Path, url: str) -> None:
    command = [sys.executable, "-c", NOBODY, str(ROOT)]
    done = subprocess.run([*command, "demo", "--check"], cwd=tmp_path, stderr=subprocess.PIPE, timeout=600)
    assert done.returncode == 1
    assert "set HOME or XDG_CACHE_HOME" in one_line(done.stderr)
    assert not (tmp_path / "~").exists()
    located = subprocess.run(
        [*command, "locate", str(photo), "--url", url], cwd=tmp_path, capture_output=True, timeout=600
    )
    assert located.returncode == 0, located.stderr


def test_a_region_goes_with_url_or_is_refused_in_one_line(url: str, photo: Path, tmp_path: Path) -> None:
    ring = [[-170 + i * 0.1, -80 + (i % 7) * 0.0123456789] for i in range(3000)] + [[130, 80], [-170, -80]]
    small, long = tmp_path / "small.geojson", tmp_path / "long.geojson"
    long.write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    points = [ring[0], ring[2999], ring[3000], ring[0]]
    small.write_text("\ufeff" + json.dumps({"type": "Polygon", "coordinates": [points]}), encoding="utf-8")
    located = tilebeam("locate", photo, "--url", url, "--within", small)
    assert located.exit_code == 0, located.stderr
    refused = tilebeam("locate", photo, "--url", url, "--within", long)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "characters and a service takes 16,000; simplify it" in one_line(refused.stderr.encode())
    assert "address" not in refused.stderr
    text = tmp_path / "notes.txt"
    text.write_text("hello, this is a note")
    wrong = tilebeam("locate", photo, "--url", url, "--within", text)
    assert (
        wrong.exit_code,
        "notes.txt: no GeoJSON object (it begins with 'hello" in one_line(wrong.stderr.encode()),
    ) == (1, True)


def test_a_long_region_is_no_problem_for_an_index(engine_index: Path, photo: Path, tmp_path: Path) -> None:
    ring = [[-170 + i * 0.02, -80.0] for i in range(15_000)] + [[130, 80], [-170, -80]]
    (tmp_path / "long.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    result = tilebeam("locate", photo, "--index", engine_index, "--within", tmp_path / "long.geojson")
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"ALL_PROXY": "socks5h://user:secret@127.0.0.1:1"}, "ALL_PROXY"), ({"HTTP_PROXY": "::"}, "HTTP_PROXY"),
        ({"NO_PROXY": "localhost,fe80::/10", "HTTP_PROXY": "http://127.0.0.1:1"}, "no answer from"),
    ],
)  # fmt: skip
def test_bad_proxy_variables_are_one_line(
    variables: dict[str, str], words: str, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = tilebeam("locate", photo, "--url", "http://192.0.2.1:8000")
    assert result.exit_code == 1
    assert words in one_line(result.stderr.encode())
    assert "secret" not in result.stderr
