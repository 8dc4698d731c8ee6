"""The front door: its commands, what a client's install can do, the table, and when the demonstration passes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

import tilebeam
from retrieval.encoders.photo import decode_photo
from tilebeam import GOOD_KM, Found, Sample, app, builtin_index, bundled_samples, show

ROOT = Path(__file__).parents[1]
VERBS = ("demo", "plan", "fetch", "index", "train", "serve", "locate", "inspect")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def in_a_process(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_help_names_every_verb() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert [verb for verb in VERBS if verb not in result.stdout.split()] == []
    assert run().exit_code == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_its_own_help(verb: str) -> None:
    result = run(verb, "--help")
    assert result.exit_code == 0, result.stderr
    assert verb in result.stdout


def test_an_unknown_verb_is_wrong_usage() -> None:
    result = run("lokate")
    assert result.exit_code == 2
    assert "No such command 'lokate'" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("arguments", [("demo", "--port", "65536"), ("train",), ("train", "--preset", "none")])
def test_wrong_usage_ends_with_2(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "faiss", "PIL", "fastapi", "open_clip", "safetensors", "shapely")
    done = in_a_process(f"import sys, tilebeam; print([m for m in {heavy!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_a_clients_install_says_what_the_rest_needs() -> None:
    """As on a machine without NumPy: the help names what is there, and a verb that is not there says how to get it."""
    without = (
        "import sys; sys.modules.update(dict.fromkeys(('numpy', 'mercantile', 'torch', 'PIL'))); import tilebeam; "
    )
    planned = in_a_process(without + "sys.argv = ['tilebeam', 'plan', '--world']; tilebeam.main()")
    assert (planned.returncode, planned.stdout) == (1, "")
    assert planned.stderr == "tilebeam: `plan` needs the engine: pip install 'tilebeam[all]'\n"
    helped = in_a_process(without + "sys.argv = ['tilebeam', '--help']; tilebeam.main()")
    assert helped.returncode == 0, helped.stderr
    assert "locate" in helped.stdout
    assert "inspect" not in helped.stdout


def answer(lat: float, lon: float, *confidences: float) -> dict[str, Any]:
    """An answer that got as deep as there are confidences, in an index of three zooms."""
    levels = [{"zoom": 4 + 2 * i, "confidence": c} for i, c in enumerate(confidences)]
    return {"lat": lat, "lon": lon, "levels": levels, "index": {"zooms": [4, 6, 8]}}


def found(error_km: float, *confidences: float) -> Found:
    return Found(Sample(Path("/x/sample-1.jpg"), -12.5, 48.25), answer(-0.5, 179.999, *confidences), error_km)


def test_the_table_shows_places_error_and_confidence_per_zoom(capsys: pytest.CaptureFixture[str]) -> None:
    show([found(123.4, 0.987, 0.5, 0.011), found(9876.5, 0.2)])
    header, first, second = capsys.readouterr().out.splitlines()
    assert " ".join(header.split()) == "picture true place answer error km zoom 4 zoom 6 zoom 8"
    assert " ".join(first.split()) == "sample-1.jpg 48.25 N 12.50 W 0.50 S 180.00 E 123 99% 50% 1%"
    assert second.split()[-4:] == ["9876", "20%", "-", "-"]


@pytest.mark.parametrize(("good", "code"), [(8, 0), (6, 0), (5, 1), (0, 1)])
def test_the_check_needs_six_of_eight(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, good: int, code: int) -> None:
    answers = [found(GOOD_KM, 0.9)] * good + [found(GOOD_KM + 0.1, 0.9)] * (8 - good)
    monkeypatch.setattr(tilebeam, "build_builtin", lambda out: None)
    monkeypatch.setattr(tilebeam, "locate_samples", lambda index: answers)
    result = run("demo", "--check", "--index", tmp_path)
    assert result.exit_code == code
    assert f"{good} of 8 samples within 300 km; 6 are needed." in result.stderr
    assert len(result.stdout.splitlines()) == 9


def test_the_bundled_samples_are_pictures_of_places() -> None:
    samples = bundled_samples()
    assert len({s.path.name for s in samples}) == 8
    for sample in samples:
        assert -180 <= sample.lng <= 180
        assert -60 <= sample.lat <= 78
        assert decode_photo(sample.path.read_bytes()).size == (320, 320)


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder in place of `indexer.builtin`."""
    monkeypatch.setattr(tilebeam.resources, "files", lambda name: tmp_path)
    return tmp_path


def test_the_built_in_index_lies_in_the_users_cache_by_encoder_and_calibration(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new model, or new confidences, do not meet an old index."""
    (package / "photo.json").write_text(json.dumps({"fingerprint": "0123456789abcdef"}))
    (package / "calibration.json").write_text(json.dumps({"id": "fedcba9876543210"}))
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert builtin_index() == Path("/caches/tilebeam/builtin-earth-0123456789ab-fedcba")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert builtin_index() == Path("/home/somebody/.cache/tilebeam/builtin-earth-0123456789ab-fedcba")


@pytest.mark.parametrize("text", [None, "", "{}", "not json"])
def test_without_built_in_encoders_the_demo_says_so(
    package: Path, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (package / "photo.json").write_text(text)
    with pytest.raises(typer.Exit) as caught:
        builtin_index()
    assert caught.value.exit_code == 1
    assert "the built-in encoders are not there or damaged" in capsys.readouterr().err
