"""`tilebeam prior`: `open_prior` reads what it writes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from retrieval.files import read_json
from retrieval.priors.density import Density, DensityPrior
from retrieval.priors.registry import kind_of, open_prior
from tilebeam import app


def test_density_of_the_training_photos(tmp_path: Path) -> None:
    lines = ["path,latitude,longitude,split"]
    for i, split in enumerate(("train", "train", "test")):
        Image.new("RGB", (8, 8), (i * 90, 0, 0)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{40 + i},{-3 - i},{split}")
    (tmp_path / "photos.csv").write_text("\n".join(lines))
    arguments = ["prior", "density", "--photos", str(tmp_path / "photos.csv"), "--out", str(tmp_path / "density")]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 0, made.output
    expected = Density.of(np.array([40.0, 41.0]), np.array([-3.0, -4.0]))
    assert open_prior(tmp_path / "density").fingerprint == expected.fingerprint


def test_density_says_which_rows_it_left_out(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "photos.csv").write_text("path,latitude,longitude\na.png,40,3\nb.png,41,3\na.png,x,3\n")
    arguments = ["prior", "density", "--photos", str(tmp_path / "photos.csv"), "--out", str(tmp_path / "density")]
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 0, made.output
    assert "1 rows not used: missing file" in made.stderr
    assert "1 rows not used: coordinates not a number" in made.stderr


def test_what_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    made = CliRunner().invoke(app, ["prior", "geoclip", "--out", str(tmp_path / "file" / "prior")])
    assert (made.exit_code, len(made.stderr.splitlines())) == (1, 1), made.output
    assert str(tmp_path / "file") in made.stderr
    assert "Not a directory" in made.stderr


def test_current_folder_that_was_deleted_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    tiles = ("index", "--source", "bluemarble", "--bbox", "5", "45", "6", "46", "--zooms", "4", "--rows-only")
    made = CliRunner().invoke(app, [*tiles, "--out", "index"])
    assert made.exit_code == 1, made.output
    assert made.stderr.splitlines()[-1].startswith("tilebeam: the current folder does not exist any more"), made.stderr


def test_density_of_the_gallery(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["prior", "density", "--out", str(tmp_path / "density")])
    assert made.exit_code == 0, made.output
    assert open_prior(tmp_path / "density").fingerprint == DensityPrior.open(None).fingerprint


def test_geoclip_settings_are_written_and_checked(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["prior", "geoclip", "--weighting", "area", "--out", str(tmp_path / "geoclip")])
    assert made.exit_code == 0, made.output
    assert kind_of(tmp_path / "geoclip") == "geoclip"
    assert read_json(tmp_path / "geoclip" / "prior.json")["settings"]["weighting"] == "area"
    wrong = CliRunner().invoke(app, ["prior", "geoclip", "--weighting", "votes", "--out", str(tmp_path / "other")])
    assert wrong.exit_code == 2
    assert "use gallery or area" in wrong.output
    assert not (tmp_path / "other").exists()
