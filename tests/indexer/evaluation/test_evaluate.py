"""The command `evaluate`, from photo files to tables, with two indexes and two encoders; its output and its errors."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from indexer.cli.evaluate import register
from indexer.evaluation import plots
from indexer.evaluation.write import file_names
from retrieval import locator
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.testing.fake import FakeLevel, FakePhotoEncoder, write_fake_index
from tile_cache.addressing import centre, tile_of_code

PARENTS = np.array([3, 5, 9, 12], dtype=np.uint64)
CHILDREN = np.sort(np.concatenate([PARENTS * 16 + i for i in (1, 6, 11)])).astype(np.uint64)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures, one per tile of zoom 4; index `good` has the right vectors, `shuffled` has them permuted."""
    folder, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    pixels = rng.integers(0, 256, (len(CHILDREN), 16, 16, 3), dtype=np.uint8)
    (folder / "photos").mkdir()
    with open(folder / "photos.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "latitude", "longitude", "split"])
        for i, (code, picture) in enumerate(zip(CHILDREN.tolist(), pixels, strict=True)):
            Image.fromarray(picture).save(folder / "photos" / f"{i}.png")
            lng, lat = centre(tile_of_code(code, 4))
            writer.writerow([f"photos/{i}.png", lat, lng, "train" if i == 11 else "test"])
        writer.writerow(["photos/gone.png", 1, 2, "test"])
    _index(folder / "good", FakePhotoEncoder(16), pixels)
    _index(folder / "shuffled", FakePhotoEncoder(16), pixels[::-1])
    _index(folder / "other", FakePhotoEncoder(16, seed=1), pixels)
    for family in ("noise", "flat"):
        (folder / "odd" / family).mkdir(parents=True)
        for i in range(4):
            picture = (
                rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) if family == "noise" else np.full((16, 16, 3), i)
            )
            Image.fromarray(picture.astype(np.uint8)).save(folder / "odd" / family / f"{i}.png")
    return folder


def _index(folder: Path, photo: FakePhotoEncoder, pixels: np.ndarray) -> None:
    embedded = photo.encode(np.stack([photo.prepare(Image.fromarray(p)) for p in pixels]))
    parents = np.stack([embedded[CHILDREN >> np.uint64(4) == parent].mean(0) for parent in PARENTS])
    parents /= np.linalg.norm(parents, axis=1, keepdims=True)
    levels = [
        FakeLevel(2, PARENTS, np.ones(len(PARENTS), bool), parents.astype(np.float32)),
        FakeLevel(4, CHILDREN, np.ones(len(CHILDREN), bool), embedded),
    ]
    write_fake_index(folder, levels, photo=photo, codec="fp32")


@pytest.fixture(autouse=True)
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Indexes open the fake encoders; returns (fingerprint, batch size) of every call of `encode`."""
    calls: list[tuple[str, int]] = []

    class Counting(FakePhotoEncoder):
        def encode(self, batch: np.ndarray) -> np.ndarray:
            calls.append((self.fingerprint, len(batch)))
            return super().encode(batch)

    opened = {encoder.fingerprint: encoder for encoder in (Counting(16, 0), Counting(16, 1))}
    monkeypatch.setattr(PhotoEncoder, "load", lambda *_, **__: pytest.fail("a real encoder was loaded"))
    monkeypatch.setattr(locator, "_load_encoder", lambda _, description, *__: opened[description["fingerprint"]])
    return calls


def run(*arguments: str | Path) -> tuple[int, str, str]:
    app = typer.Typer()
    register(app)
    app.command("other")(lambda: None)  # with two commands, `evaluate` must be named
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def evaluated(place: Path, *arguments: str | Path) -> dict:
    code, out, err = run("--photos", place / "photos.csv", "--json", "--bootstrap", "40", *arguments)
    assert code == 0, err
    return json.loads(out, parse_constant=pytest.fail)


def test_better_index_wins_with_disjoint_intervals(place: Path, encoded: list[tuple[str, int]]) -> None:
    report = evaluated(place, "--index", place / "good", "--index", place / "shuffled", "--index", place / "other")
    assert (report["split"], report["photos"]["n"], report["photos"]["rejected"]) == ("test", 11, {"missing file": 1})
    good, shuffled, other = report["rows"]
    assert [row["index"] for row in report["rows"]] == ["good", "shuffled", "other"]
    assert good["errors"]["median_km"]["value"] < 200 < shuffled["errors"]["median_km"]["low"]
    for row in (good, other):
        assert row["zooms"]["4"]["recall_at_1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert shuffled["zooms"]["4"]["recall_at_1"]["high"] < 0.5
    assert shuffled["differences_from_row_1"]["median_km"]["low"] > 0
    assert report["retrieval"]["good"]["4"]["recall_at_1"]["value"] == 1
    assert report["retrieval"]["shuffled"]["4"]["recall_at_10"]["value"] > 0.5
    batches = [(f, n) for f, n in encoded if n > 1]  # single photos are encoded for timing
    assert sum(n for _, n in batches) <= 2 * 16
    assert len({f for f, _ in batches}) == 2


def test_each_way_of_searching_gives_a_row(place: Path) -> None:
    report = evaluated(place, "--index", place / "good", "--k", "1,2", "--k", "64", "--scoring", "posterior",
                     "--scoring", "paper", "--exhaustive", "--split", "train")  # fmt: skip
    ways = [(row["k"], row["scoring"]) for row in report["rows"]]
    assert ways == [(k, s) for s in ("posterior", "paper") for k in (1, 2, 64)] + [(None, "posterior"), (None, "paper")]
    assert report["photos"]["n"] == 1
    beams = {(row["k"], row["scoring"]): row for row in report["rows"]}
    for scoring, number in (("posterior", 7), ("paper", 8)):
        assert beams[64, scoring]["exhaustive"] == {"row": number, "same_tile": 1.0}
        assert beams[64, scoring]["errors"] == beams[None, scoring]["errors"]
    assert beams[64, "paper"]["errors"]["median_km"]["value"] == pytest.approx(0, abs=1e-6)


def test_out_folder_holds_answers_json_page_and_plots(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = evaluated(place, "--index", place / "good", "--elsewhere", place / "odd", "--limit", "7", "--out", out)
    names = "answers-k64-posterior.csv errors.png evaluation.json evaluation.md map-k64-posterior.png rejected.csv "
    names += "reliability-k64-posterior.png risk-coverage-elsewhere.png risk-coverage.png"
    assert sorted(p.name for p in out.iterdir()) == names.split()
    assert list(tmp_path.iterdir()) == [out]
    assert json.loads((out / "evaluation.json").read_text()) == report
    with open(out / "answers-k64-posterior.csv", newline="") as stream:
        answers = list(csv.DictReader(stream))
    assert len(answers) == report["photos"]["n"] == 7
    assert np.median([float(a["km"]) for a in answers]) == pytest.approx(
        report["rows"][0]["errors"]["median_km"]["value"], abs=1e-3
    )
    assert {a["right_4"] for a in answers} == {"1"}
    elsewhere = report["rows"][0]["elsewhere"]
    assert {name: f["pictures"] for name, f in elsewhere["families"].items()} == {"flat": 4, "noise": 4}
    assert elsewhere["groups"]["no place"]["not_answerable"] == 8
    page = (out / "evaluation.md").read_text()
    for heading in ("Errors", "Zooms", "Retrieval among all tiles", "Abstaining", "Elsewhere"):
        assert f"## {heading}\n" in page
    for line in page.splitlines():
        assert not line.startswith("|") or line.endswith("|")
    assert "| # |" not in page
    assert report["rows"][0]["name"] == "k=64 posterior"
    assert page.count("| k=64 posterior |") >= 5


def test_file_names_are_distinct_and_say_the_row() -> None:
    names = [
        "k=64 posterior",
        "maps/v1 k=all paper",
        "k=64 posterior + geocells",
        "k=64 posterior (geocells)",
        "ü " * 99,
    ]
    files = file_names(names)
    assert list(files.values())[:4] == [
        "k64-posterior",
        "maps-v1-kall-paper",
        "k64-posterior-geocells",
        "k64-posterior-geocells-2",
    ]
    odd = file_names(["x" * 99, "x" * 98, "?", "!", "ü"])
    assert len(set(odd.values())) == 5
    assert all(odd.values())


def test_earlier_evaluation_is_replaced_whole_or_not_at_all(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, arguments = tmp_path / "out", ("--photos", place / "photos.csv", "--index", place / "good", "--bootstrap", 0)
    assert run(*arguments, "--out", out)[0] == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(plots, "error_map", full)
        code, _, err = run(*arguments, "--k", 1, "--out", out)
    assert code == 1
    assert "No space left" in err
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]
    assert run(*arguments, "--k", 1, "--out", out)[0] == 0
    assert json.loads((out / "evaluation.json").read_text())["rows"][0]["k"] == 1


def test_foreign_out_folder_is_refused_before_any_work(
    place: Path, tmp_path: Path, encoded: list[tuple[str, int]]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for out, word in ((tmp_path, "other files"), (tmp_path / "mine.txt", "file"), (tmp_path / "a" / "b", "no folder")):
        code, _, err = run("--photos", place / "photos.csv", "--index", place / "good", "--out", out)
        assert (code, word in err) == (1, True)
    assert encoded == []
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("--k", "many"), 2, "whole numbers"),
        (("--k", "0"), 2, "k is 0"),
        (("--scoring", "best"), 2, "best"),
        (("--split", "weird"), 1, "weird"),
    ],
)
def test_wrong_arguments_exit_with_a_message(place: Path, arguments: tuple[str, ...], code: int, word: str) -> None:
    ended, out, err = run("--photos", place / "photos.csv", "--index", place / "good", *arguments)
    assert (ended, out) == (code, "")
    assert word in err


def test_same_index_twice_is_refused_and_equal_names_get_folders(place: Path, tmp_path: Path) -> None:
    code, _, err = run("--photos", place / "photos.csv", "--index", place / "good", "--index", place / "good")
    assert (code, "twice" in err) == (1, True)
    (tmp_path / "good").symlink_to(place / "good")
    report = evaluated(place, "--index", place / "good", "--index", tmp_path / "good")
    assert [row["index"] for row in report["rows"]] == [f"{place.name}/good", f"{tmp_path.name}/good"]
