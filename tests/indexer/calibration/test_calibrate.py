"""`tilebeam calibrate` as a command: a small index and photos on disk, what it writes and what it leaves unchanged."""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from benchmarks.support.noise_prior import NOISE, NOISE_KIND
from indexer.calibration.fit import MIN_PICTURES
from indexer.calibration.run import families_of, halves_of
from indexer.photos.read import ReadOptions, read_photos
from retrieval import locator
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.index.calibration import Calibration
from retrieval.locator import LocateQuery, Locator
from retrieval.priors.registry import KINDS
from retrieval.testing.fake import FakeLevel, FakePhotoEncoder, unit_rows, write_fake_index
from tile_cache.addressing import centres_of_codes
from tilebeam import app

K, DIM, SIDE, COUNT = 8, 16, 16, 340


@pytest.fixture(autouse=True, scope="module")
def encoded() -> Iterator[None]:
    """Open the fake encoder for every index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhotoEncoder, "load", lambda *_, **__: pytest.fail("a real encoder"))
        patch.setattr(locator, "_load_encoder", lambda *_: FakePhotoEncoder(DIM))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiles of zooms 2 and 4, photos that look like the tile they were taken in, and four families that look odd."""
    folder, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    tiles = rng.integers(0, 256, (256, SIDE, SIDE, 3)).astype(np.float32)
    _index(folder / "index", tiles)
    (folder / "photos").mkdir()
    codes = rng.integers(0, 256, COUNT).astype(np.uint64)
    lng, lat = centres_of_codes(codes, 4)
    with open(folder / "photos.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "latitude", "longitude"])
        for i, code in enumerate(codes.tolist()):
            _save(folder / "photos" / f"{i}.png", tiles[code] + rng.normal(0, 150, tiles[code].shape))
            writer.writerow([f"photos/{i}.png", lat[i], lng[i]])
    for number in range(4):
        (folder / "odd" / f"family {number}").mkdir(parents=True)
        for i in range(12):
            picture = np.full((SIDE, SIDE, 3), 60.0 * number) + rng.normal(0, 30, (SIDE, SIDE, 3))
            _save(folder / "odd" / f"family {number}" / f"{i}.png", picture)
    return folder


def _save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path)


def _index(folder: Path, tiles: np.ndarray) -> None:
    photo = FakePhotoEncoder(DIM)
    vectors = photo.encode(tiles.transpose(0, 3, 1, 2) / np.float32(255))
    parents = unit_rows(vectors.reshape(16, 16, DIM).mean(1))
    levels = [
        FakeLevel(2, np.arange(16, dtype=np.uint64), np.ones(16, bool), parents),
        FakeLevel(4, np.arange(256, dtype=np.uint64), np.ones(256, bool), vectors),
    ]
    write_fake_index(folder, levels, photo=photo)


def run(*arguments: str | Path | int) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def calibrate(place: Path, index: Path, *more: str | Path | int) -> tuple[int, str, str]:
    asked = ("--photos", place / "photos.csv", "--index", index, "--k", K, "--bootstrap", 30)
    return run("calibrate", *asked, *more)


def digests(folder: Path) -> dict[str, str]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "calibration.json")
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def copied(place: Path, folder: Path) -> Path:
    return Path(shutil.copytree(place / "index", folder / "index", ignore=shutil.ignore_patterns("calibration.json")))


@pytest.fixture(scope="module")
def done(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A calibrated index, the report's folder, and what was printed."""
    folder = tmp_path_factory.mktemp("done")
    index = copied(place, folder)
    code, out, err = calibrate(place, index, "--elsewhere", place / "odd", "--out", folder / "report")
    assert code == 0, err
    assert f"calibration {str(Calibration.read(index).id)[:12]} stored" in err
    return index, folder / "report", out


def test_calibrate_changes_no_other_file_of_the_index(place: Path, done: tuple[Path, Path, str]) -> None:
    index, _, _ = done
    assert digests(index) == digests(place / "index")
    assert (index / "calibration.json").exists()
    code, _, err = run("inspect", index, "--verify")
    assert code == 0, err


def test_answers_are_calibrated_at_the_fitted_beam_width_only(place: Path, done: tuple[Path, Path, str]) -> None:
    opened = Locator.open(done[0])
    rows = opened.encoder.encode(opened.encoder.prepare(Image.open(place / "photos" / "0.png"))[None])
    for k, expected in ((K, True), (K * 2, False), (64, False)):
        (answer,) = opened.locate(rows, LocateQuery(k=k))
        assert (answer.calibrated, answer.calibration_id) == (expected, Calibration.read(done[0]).id)


def test_report_has_page_json_and_pictures(done: tuple[Path, Path, str]) -> None:
    index, report, out = done
    names = "calibration-report.json calibration.md reliability-calibrated.png reliability-raw.png risk-coverage.png"
    assert sorted(p.name for p in report.iterdir()) == names.split()
    for picture in report.glob("*.png"):
        with Image.open(picture) as opened:
            assert min(opened.size) > 300
    report_json = json.loads((report / "calibration-report.json").read_text(), parse_constant=pytest.fail)
    assert report_json["calibration_id"] == Calibration.read(index).id
    assert report_json["photos"]["fitted"] + report_json["photos"]["measured"] == COUNT
    assert min(report_json["photos"]["fitted"], report_json["photos"]["measured"]) > MIN_PICTURES
    for zoom in ("2", "4"):
        raw, fitted = (report_json["zooms"][zoom][name] for name in ("raw", "calibrated"))
        assert fitted["nll"]["value"] < raw["nll"]["value"]
        assert fitted["ece"]["value"] < 0.12
    assert report_json["elsewhere"]["no place"]["not_answerable"] == 12  # one family of four is only measured on
    page = (report / "calibration.md").read_text()
    assert page == out
    for word in ("| zoom |", "| fitted |", "| circle |", "AUROC of elsewhere", "| no place |"):
        assert word in page
    for line in page.splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_calibrating_again_gives_the_same_bytes(place: Path, done: tuple[Path, Path, str], tmp_path: Path) -> None:
    first, index = Calibration.read(done[0]), copied(place, tmp_path)
    assert first.elsewhere is not None
    code, out, err = calibrate(place, index, "--elsewhere", place / "odd", "--json")
    assert code == 0, err
    assert json.loads(out, parse_constant=pytest.fail)["calibration_id"] == first.id
    assert (index / "calibration.json").read_bytes() == (done[0] / "calibration.json").read_bytes()


def test_unreadable_calibration_is_replaced(place: Path, tmp_path: Path) -> None:
    """As the error message says, for one of another format or a damaged one."""
    index = copied(place, tmp_path)
    (index / "calibration.json").write_text('{"format": "tilebeam-calibration", "version": 1, "id": "x"}')
    code, _, err = run("inspect", index)
    assert (code, "run `tilebeam calibrate`" in err) == (1, True)
    assert calibrate(place, index)[0] == 0
    again = Calibration.read(index)
    assert (sorted(again.zooms), again.k, again.elsewhere) == ([2, 4], K, None)


@pytest.mark.parametrize("old", [None, Calibration(k=3)], ids=["none", "old"])
def test_too_few_photos_end_in_one_error_line_and_change_nothing(
    place: Path, tmp_path: Path, old: Calibration | None
) -> None:
    index = copied(place, tmp_path)
    if old is not None:
        old.write(index)
    before = {p.name: p.read_bytes() for p in index.iterdir() if p.is_file()}
    code, out, err = calibrate(place, index, "--limit", MIN_PICTURES, "--elsewhere", place / "odd")
    assert (code, out) == (1, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("tilebeam: only ")
    assert f"{MIN_PICTURES} are needed: give more photos" in last
    assert {p.name: p.read_bytes() for p in index.iterdir() if p.is_file()} == before


def test_what_would_fail_at_the_end_fails_before_any_work(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = copied(place, tmp_path)
    monkeypatch.setattr("indexer.calibration.run.embed_photos", lambda *_, **__: pytest.fail("photos were embedded"))
    code, _, err = calibrate(place, index, "--limit", MIN_PICTURES)
    assert code == 1
    assert f"{MIN_PICTURES} are needed: give more photos" in err
    (tmp_path / "far.csv").write_text(
        "path,latitude,longitude\n" + "".join(f"{place}/photos/{i}.png,{80 - i / 100},{i / 10}\n" for i in range(3))
    )
    code, _, err = run("calibrate", "--photos", tmp_path / "far.csv", "--index", index)
    assert code == 1
    assert "than the 3 of" in err
    monkeypatch.setattr(Locator, "open", lambda *_, **__: pytest.fail("the index was opened"))
    for prior, words in {
        "geocells=nowhere": "no prior at nowhere",
        "geocells": "--prior geocells=DIR",
        "astrology": "neither a prior of the index nor a kind",
    }.items():
        code, _, err = calibrate(place, index, "--prior", prior)
        assert code == 1
        assert words in err


def test_zoom_with_too_few_photos_is_reported_and_not_fitted(place: Path, tmp_path: Path) -> None:
    index = copied(place, tmp_path)
    code, out, err = calibrate(place, index, "--k", 1)  # the last --k counts: half the photos lose their tile at once
    assert code == 0, err
    assert "**Zoom 4 is not calibrated**: only " in out
    assert list(Calibration.read(index).zooms) == [2]
    opened = Locator.open(index)
    rows = opened.encoder.encode(opened.encoder.prepare(Image.open(place / "photos" / "0.png"))[None])
    assert not opened.locate(rows, LocateQuery(k=1))[0].calibrated


def test_full_disk_ends_in_one_error_line(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = copied(place, tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Calibration, "write", full)
    code, out, err = calibrate(place, index)
    assert (code, out) == (1, "")
    assert "No space left on device" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("--k", 0), 2, "k is 0"),
        (("--elsewhere-share", 1), 2, "between 0 and 1"),
        (("--split", "validation"), 1, "split"),
        (("--elsewhere", "/nowhere/at/all"), 1, "/nowhere/at/all"),
        (("--limit", 0), 2, "limit"),
    ],
)
def test_invalid_options_are_refused(place: Path, arguments: tuple[str | int, ...], code: int, word: str) -> None:
    ended, out, err = calibrate(place, place / "index", *arguments)
    assert (ended, out) == (code, "")
    assert word in err
    assert not (place / "index" / "calibration.json").exists()


def test_half_of_a_photo_depends_on_no_other_photo() -> None:
    names = [f"{i}.jpg" for i in range(1000)]
    first, second = halves_of(names, 0)
    assert sorted([*first, *second]) == list(range(1000))
    assert 400 < len(first) < 600
    assert halves_of(names[:100], 0)[0].tolist() == [i for i in first if i < 100]
    assert halves_of(names, 1)[0].tolist() != first.tolist()


def test_whole_families_are_only_measured_on(place: Path) -> None:
    pictures = read_photos(place / "odd", ReadOptions(need_place=False))
    fit, test = families_of(pictures)
    families = np.array(pictures.families)
    assert (len(fit), len(test)) == (36, 12)
    assert not set(families[fit]) & set(families[test])


def test_prior_is_fitted_installed_and_used(
    place: Path, done: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, NOISE, NOISE_KIND)
    index = Path(shutil.copytree(done[0], tmp_path / "index"))
    code, out, err = calibrate(place, index, "--prior", "noise", "--elsewhere", place / "odd")
    assert code == 0, err
    assert "with the prior noise" in out
    plain, noisy = Calibration.read(index), Calibration.read(index, "noise")
    assert (noisy.zooms, noisy.elsewhere) == (plain.zooms, plain.elsewhere)  # its weight is 0
    assert (index / "calibration.json").read_bytes() == (done[0] / "calibration.json").read_bytes()
    code, _, err = run("inspect", index, "--verify")
    assert code == 0, err
    opened = Locator.open(index)
    rows = opened.encoder.encode(opened.encoder.prepare(Image.open(place / "photos" / "0.png"))[None])
    for asked, calibration, prior in (
        (None, Calibration.read(index, "noise"), "noise"),
        ("none", Calibration.read(index), None),
    ):
        (answer,) = opened.locate(rows, LocateQuery(k=K, prior=asked))
        assert (answer.calibrated, answer.calibration_id, answer.prior) == (True, calibration.id, prior)
    ways = ("--prior", "none,noise", "--scoring", "posterior,paper,bolted", "--method", "beam,noise", "--exhaustive")
    asked_of = ("--index", index, "--photos", place / "photos.csv", "--k", K, "--bootstrap", 0, "--limit", 20)
    code, out, err = run("evaluate", *asked_of, *ways, "--json")
    assert code == 0, err
    found = [(row["k"], row["scoring"], row["prior"]) for row in json.loads(out)["rows"]]
    assert found == [
        (K, "posterior", None),
        (K, "posterior", "noise"),
        (K, "paper", None),
        (K, "bolted", "noise"),
        (None, "posterior", None),
        (None, "posterior", "noise"),
        (None, "paper", None),
        (None, None, "noise"),
    ]
    code, _, err = run("evaluate", *asked_of, "--prior", "none", "--scoring", "bolted")
    assert code == 2
    assert "name a prior with --prior" in err


def test_invalid_prior_changes_nothing(place: Path, done: tuple[Path, Path, str], tmp_path: Path) -> None:
    index = Path(shutil.copytree(done[0], tmp_path / "index"))
    before = digests(index)
    for prior in (f"geocells={tmp_path}", "geocells", "Upper=x", "oracle"):
        code, _, err = calibrate(place, index, "--prior", prior)
        assert code == (2 if "=x" in prior else 1), prior
        assert "prior" in err
    assert digests(index) == before
