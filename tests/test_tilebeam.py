"""Tests of the program: its commands, its public names, a client's install, and when the demo passes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import tilebeam
from retrieval.pictures.photo import decode_photo
from tilebeam import GOOD_KM, LocatedSample, Sample, app, builtin_index, bundled_samples, show

ROOT = Path(__file__).parents[1]
VERBS = ("demo", "plan", "fetch", "index", "train", "serve", "locate", "register", "inspect")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def in_a_process(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_help_lists_every_command() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert [verb for verb in VERBS if verb not in result.stdout.split()] == []
    assert run().exit_code == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_its_own_help(verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0, result.stderr
    assert verb in result.stdout


def test_version_is_printed_and_public() -> None:
    assert run("--version").stdout == f"tilebeam {tilebeam.__version__}\n"


def test_public_names_load_on_first_use_and_the_client_stays_light() -> None:
    code = "import sys; from tilebeam import AsyncClient, Client; print('numpy' in sys.modules, 'torch' in sys.modules)"
    assert in_a_process(code).stdout == "False False\n"
    names = "LocateQuery, Locator, locate_picture"
    done = in_a_process(f"from tilebeam import {names}; print(*(each.__module__ for each in ({names})))")
    assert done.stdout == "retrieval.search.query retrieval.locator retrieval.pipeline\n", done.stderr
    with pytest.raises(ImportError, match="cannot import name 'Locater'"):
        from tilebeam import Locater  # type: ignore[attr-defined]  # noqa: F401


def test_unknown_command_is_wrong_usage() -> None:
    result = run("lokate")
    assert result.exit_code == 2
    assert "No such command 'lokate'" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [("demo", "--port", "65536"), ("train",), ("train", "--preset", "none")])
def test_wrong_usage_exits_with_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_import_loads_no_heavy_library() -> None:
    heavy = ("torch", "numpy", "faiss", "PIL", "fastapi", "open_clip", "safetensors", "shapely")
    done = in_a_process(f"import sys, tilebeam; print([m for m in {heavy!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def answer(lat: float, lon: float, *confidences: float) -> dict[str, Any]:
    """Build an answer with one level per confidence, in an index of three zooms."""
    levels = [{"zoom": 4 + 2 * i, "confidence": c} for i, c in enumerate(confidences)]
    return {"lat": lat, "lon": lon, "levels": levels, "index": {"zooms": [4, 6, 8]}}


def located(error_km: float, *confidences: float) -> LocatedSample:
    return LocatedSample(Sample(Path("/x/sample-1.jpg"), -12.5, 48.25), answer(-0.5, 179.999, *confidences), error_km)


def test_table_shows_places_error_and_confidence_per_zoom(capsys: pytest.CaptureFixture[str]) -> None:
    show([located(123.4, 0.987, 0.5, 0.011), located(9876.5, 0.2)])
    header, first, second = capsys.readouterr().out.splitlines()
    assert " ".join(header.split()) == "picture true place answer error km zoom 4 zoom 6 zoom 8"
    assert " ".join(first.split()) == "sample-1.jpg 48.25 N 12.50 W 0.50 S 180.00 E 123 99% 50% 1%"
    assert second.split()[-4:] == ["9876", "20%", "-", "-"]


@pytest.mark.parametrize(("good", "code"), [(8, 0), (6, 0), (5, 1), (0, 1)])
def test_demo_check_needs_six_of_eight_samples(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, good: int, code: int
) -> None:
    answers = [located(GOOD_KM, 0.9)] * good + [located(GOOD_KM + 0.1, 0.9)] * (8 - good)
    monkeypatch.setattr(tilebeam, "build_builtin", lambda out: None)
    monkeypatch.setattr(tilebeam, "locate_samples", lambda index: answers)
    result = run("demo", "--check", "--index", tmp_path)
    assert result.exit_code == code
    assert f"{good} of 8 samples within 300 km; 6 are needed." in result.stderr
    assert len(result.stdout.splitlines()) == 9


def test_bundled_samples_are_pictures_with_valid_places() -> None:
    samples = bundled_samples()
    assert len({s.path.name for s in samples}) == 8
    for sample in samples:
        assert -180 <= sample.lng <= 180
        assert -60 <= sample.lat <= 78
        assert decode_photo(sample.path.read_bytes()).size == (320, 320)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replace the package `indexer.builtin` by an empty folder."""
    monkeypatch.setattr(tilebeam.resources, "files", lambda name: tmp_path)
    return tmp_path


def test_builtin_index_folder_is_named_after_encoder_and_calibration(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new model or a new calibration must not reuse an old index."""
    (package / "photo.json").write_text(json.dumps({"fingerprint": "0123456789abcdef"}))
    (package / "calibration.json").write_text(json.dumps({"id": "fedcba9876543210"}))
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert builtin_index() == Path("/caches/tilebeam/builtin-earth-0123456789ab-fedcba")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert builtin_index() == Path("/home/somebody/.cache/tilebeam/builtin-earth-0123456789ab-fedcba")


@pytest.mark.parametrize("text", [None, "", "{}", "not json"])
def test_demo_reports_missing_or_damaged_builtin_encoders(
    package: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (package / "photo.json").write_text(text)
    with pytest.raises(typer.Exit) as caught:
        builtin_index()
    assert caught.value.exit_code == 1
    assert "the built-in encoders are missing or damaged" in capsys.readouterr().err
