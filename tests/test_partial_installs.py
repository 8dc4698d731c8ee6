"""Installations with single extras: each command works, or ends with one line that names the extra it needs."""

import json
from pathlib import Path

import pytest
from installs import missing_modules, run_with_only

from tilebeam import COMMAND_EXTRAS

PROGRAM = "import tilebeam; tilebeam.main()"
EACH = """
import contextlib, io, json, sys, traceback
import tilebeam

outcomes = {}
for name, arguments in json.loads(sys.argv[1]).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            tilebeam.app(arguments)
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc()
    outcomes[name] = code, err.getvalue()
print(json.dumps(outcomes))
"""
"""Runs the program once for each list of arguments; torch is imported once."""


def outcomes(extras: tuple[str, ...], folder: Path) -> dict[str, tuple[int | str, str]]:
    """Exit code (or traceback) and stderr of every command, each with arguments that leave it little to do."""
    (folder / "photo.jpg").write_bytes(b"no picture")
    (folder / "photos.csv").write_text("path,latitude,longitude\nphoto.jpg,46.5,8.0\n")
    photos, out = ["--photos", str(folder / "photos.csv")], ["--out", str(folder / "out")]
    index, tiles = ["--index", str(folder / "no-index")], ["--source", "bluemarble", "--zooms", "4"]
    area = ["--bbox", "0", "0", "1", "1"]
    commands = {
        "demo": ["--index", str(folder / "demo")],
        "serve": [*index, "--port", "0"],
        "locate": [*index, str(folder / "photo.jpg")],
        "register": [str(folder / "photo.jpg")],
        "plan": [*tiles, *area],
        "fetch": [*tiles, *area],
        "index": [*tiles, *area, *out],
        "inspect": [str(folder / "no-index")],
        "prior": ["density", *photos, "--out", str(folder / "prior")],
        "train": [*photos, *tiles, "--out", str(folder / "run")],
        "calibrate": [*index, *photos, "--out", str(folder / "calibration")],
        "evaluate": [*index, *photos, "--out", str(folder / "evaluation")],
        "geocells": ["fit", *photos, "--out", str(folder / "cells")],
        "sample-data": ["elsewhere", "--out", str(folder / "elsewhere"), "--per-family", "1", "--size", "32"],
    }
    assert commands.keys() == COMMAND_EXTRAS.keys()
    calls = {name: [name, *arguments] for name, arguments in commands.items()}
    done = run_with_only(extras, EACH, json.dumps(calls))
    assert done.returncode == 0, done.stderr
    return {name: tuple(outcome) for name, outcome in json.loads(done.stdout.splitlines()[-1]).items()}


LACKING = {
    (): COMMAND_EXTRAS,
    ("engine",): {
        "demo": "index,service",
        "serve": "service",
        **dict.fromkeys(("register", "plan", "fetch", "index", "train"), "index"),
        **dict.fromkeys(("calibrate", "evaluate"), "learn"),
        "geocells": "geocells",
        "sample-data": "sample-data",
    },
    ("service",): {
        **dict.fromkeys(("demo", "register", "plan", "fetch", "index", "train"), "index"),
        **dict.fromkeys(("calibrate", "evaluate"), "learn"),
        "geocells": "geocells",
        "sample-data": "sample-data",
    },
    ("index",): {
        "demo": "index,service",
        "serve": "service",
        **dict.fromkeys(("calibrate", "evaluate"), "learn"),
        "geocells": "geocells",
        "sample-data": "sample-data",
    },
    ("learn",): {"demo": "index,service", "serve": "service", "geocells": "geocells", "sample-data": "sample-data"},
}
"""Installed extras, and for each command that must not work with them the extra that it names. `calibrate` and
`evaluate` work with the engine alone, but not with --out."""


@pytest.mark.parametrize("extras", list(LACKING), ids=lambda extras: ",".join(extras) or "client")
def test_every_command_names_the_extra_that_it_lacks(extras: tuple[str, ...], tmp_path: Path) -> None:
    found = outcomes(extras, tmp_path)
    assert {name: code for name, (code, _) in found.items() if code not in (0, 1, 2)} == {}
    refused = {name: said.splitlines() for name, (code, said) in found.items() if "pip install" in said and code == 1}
    assert {name: lines[-1].rpartition("pip install ")[2] for name, lines in refused.items()} == {
        name: f"'tilebeam[{extra}]'" for name, extra in LACKING[extras].items()
    }
    assert [
        name for name, lines in refused.items() if len(lines) > 1 and name != "demo"
    ] == []  # it says what it begins
    assert not (tmp_path / "evaluation").exists()


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
def test_missing_plots_are_reported_before_any_photo_is_read(command: str, tmp_path: Path) -> None:
    arguments = [command, "--index", tmp_path / "none", "--photos", tmp_path / "none.csv", "--out", tmp_path / "out"]
    done = run_with_only(("index",), PROGRAM, *arguments)
    assert done.returncode == 1
    assert done.stderr == "tilebeam: --out writes plots, which need matplotlib: pip install 'tilebeam[learn]'\n"


def test_client_help_lists_what_works() -> None:
    done = run_with_only((), PROGRAM, "--help")
    assert done.returncode == 0, done.stderr
    assert "locate" in done.stdout
    assert "inspect" not in done.stdout
    assert run_with_only((), PROGRAM, "lokate").returncode == 2


def test_client_install_says_what_the_locator_needs() -> None:
    done = run_with_only((), "from tilebeam import Client, Locator")
    assert done.stderr.splitlines()[-1] == "ImportError: Locator needs the module numpy: pip install 'tilebeam[engine]'"


def test_an_install_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    """A package that is there, and whose own import fails, as with a missing system library."""
    (tmp_path / "faiss.py").write_text("raise ImportError('libcublas.so.12: cannot open shared object file')")
    code = f"sys.path.insert(0, {str(tmp_path)!r})\n{PROGRAM}"
    done = run_with_only(("all",), code, "locate", "--index", tmp_path, tmp_path / "photo.jpg")
    assert done.returncode == 1
    assert done.stderr == (
        "tilebeam: `locate` cannot load a package (libcublas.so.12: cannot open shared object file): "
        "pip install 'tilebeam[engine]'\n"
    )


def test_a_mistake_of_our_own_keeps_its_traceback() -> None:
    code = f"sys.modules['service.reload'] = None\nimport tilebeam\n{PROGRAM}"
    done = run_with_only(("all",), code, "serve", "--index", "none", "--port", "0")
    assert "Traceback" in done.stderr
    assert "pip install" not in done.stderr


def test_a_client_installation_lacks_the_engine() -> None:
    assert {"torch", "numpy", "faiss", "PIL", "fastapi"} <= set(missing_modules())
    assert {"torch", "numpy"}.isdisjoint(missing_modules("engine"))
