"""`tilebeam train`, `calibrate` and `evaluate` in sequence, on a table of photos and a tile source."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from indexer.sample_data.photos import write_photos
from indexer.sample_data.settings import PhotoSet

COUNT = 1000


def tilebeam(*arguments: object) -> Any:
    """Run a command as a user does, and read the JSON that it prints."""
    words = [sys.executable, "-m", "tilebeam", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder of photos of the Earth from above, and the output of training on them."""
    folder = tmp_path_factory.mktemp("three")
    write_photos(PhotoSet(count=COUNT, seed=303, style="clean"), folder / "earth", lambda done, total: None)
    learn = ("--photos", folder / "earth/photos.csv", "--source", "bluemarble", "--zooms", "4,6", "--lr", "1e-3")
    quick = ("--epochs", 1, "--split-ratio", "4:4:2", "--out", folder / "run", "--index", folder / "index", "--world")
    return folder, tilebeam("train", *learn, *quick)


@pytest.mark.slow
def test_train_calibrate_evaluate(made: tuple[Path, dict[str, Any]]) -> None:
    folder, trained = made
    assert sum(trained["splits"].values()) == COUNT
    for zoom in trained["zooms"].values():
        assert zoom["recall"]["recall@1"] >= zoom["recall_before"]["recall@1"]

    photos = ("--photos", folder / "run/photos.csv", "--cache", folder / "run/cache/photos")
    report = tilebeam("calibrate", "--index", folder / "index", *photos, "--json", "--bootstrap", 0)
    for zoom in ("4", "6"):
        assert report["zooms"][zoom]["fitted"]
        fitted, raw = (report["zooms"][zoom][name]["nll"]["value"] for name in ("calibrated", "raw"))
        assert fitted < raw

    asked = ("--k", "16,64", "--scoring", "posterior,paper", "--json", "--bootstrap", 0)
    report = tilebeam("evaluate", "--index", folder / "index", *photos, *asked, "--out", folder / "evaluation")
    assert report["photos"]["n"] == trained["splits"]["test"]
    assert [row["calibrated"] for row in report["rows"]] == [False, True, False, False]  # fitted at k = 64
    median = [row["errors"]["median_km"]["value"] for row in report["rows"]]
    assert median[1] < 1000  # by chance it is some 10,000
    assert (folder / "evaluation/reliability-k64-posterior.png").stat().st_size > 10_000
