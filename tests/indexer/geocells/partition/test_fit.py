"""The command `tilebeam geocells fit`: a table of photos in, a partition's folder out."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from shapely.geometry import Point, shape
from towns import EACH, STRAYS, TOWNS, town_photos, write_photos
from typer.testing import CliRunner, Result

from indexer.cli.geocells import register
from indexer.geocells.partition.fit import fit
from indexer.geocells.settings import FitRequest, Grid
from indexer.progress import silent
from retrieval.priors.partition import Partition
from retrieval.sphere import EARTH_AREA_KM2, great_circle_km

FILES = {"cells.geojson", "clusters.geojson", "map.png", "partition.json", "rejected.csv", "report.md"}
OPTIONS = ("--min-samples", "5,10", "--eps", "10,30", "--xi", "", "--cells", "3", "20", "--per-cluster", "5")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("towns"))


def run(*arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["geocells", "fit", *map(str, arguments)])


@pytest.fixture(scope="module")
def fitted_folder(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fitted") / "partition"
    result = run("--photos", photos, "--out", out, *OPTIONS, "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed["cells"] == len(TOWNS)
    assert printed["fingerprint"] == Partition.load(out).fingerprint
    assert f"{len(TOWNS)} cells" in result.stderr
    return out


def test_each_town_becomes_a_cell(fitted_folder: Path) -> None:
    """The centroid lies at the town, and the counts and areas of the cells add up."""
    partition = Partition.load(fitted_folder)
    lat, lng = np.array(TOWNS).T
    assert sorted(partition.cell_of(lat, lng).tolist()) == list(range(len(TOWNS)))
    km = great_circle_km(lng[:, None], lat[:, None], partition.cells["lng"], partition.cells["lat"]).min(axis=1)
    assert km.max() < 400  # a stray 3,000 km away moves a centroid by a fortieth of that
    assert partition.cells["photos"].sum() == EACH * len(TOWNS) + STRAYS
    assert partition.cells["area_km2"].sum() == pytest.approx(EARTH_AREA_KM2, rel=1e-6)


def test_clusters_lie_in_their_cells_and_add_up_to_their_photos(fitted_folder: Path) -> None:
    partition = Partition.load(fitted_folder)
    centres = partition.cluster_centres
    assert np.array_equal(partition.cell_of(centres[:, 0], centres[:, 1]), partition.clusters["cell"])
    counts = np.bincount(partition.clusters["cell"], partition.clusters["photos"])
    assert np.array_equal(counts, partition.cells["photos"])
    assert np.array_equal(np.bincount(partition.tiles["cell"], partition.tiles["photos"]), counts)
    clusters = np.bincount(partition.clusters["cell"])
    assert clusters.min() >= 5
    assert clusters.max() <= 12  # a cluster for five photos


def test_geojson_agrees_with_the_tables(fitted_folder: Path) -> None:
    partition = Partition.load(fitted_folder)
    assert {path.name for path in fitted_folder.iterdir()} >= FILES
    cells = json.loads((fitted_folder / "cells.geojson").read_text())["features"]
    clusters = json.loads((fitted_folder / "clusters.geojson").read_text())["features"]
    assert (len(cells), len(clusters)) == (len(partition), len(partition.clusters))
    for cell, (lat, lng) in zip(cells, partition.centroids, strict=True):
        assert shape(cell["geometry"]).contains(Point(lng, lat))
    for cluster, row in zip(clusters, partition.clusters, strict=True):
        assert shape(cells[row["cell"]]["geometry"]).intersects(shape(cluster["geometry"]).buffer(1e-5))
        assert cluster["properties"]["photos"] == row["photos"]
    assert (fitted_folder / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "gone.jpg,missing file" in (fitted_folder / "rejected.csv").read_text()


def test_report_lists_the_settings(fitted_folder: Path) -> None:
    report = (fitted_folder / "report.md").read_text()
    assert report.count("min_samples 10, eps 30 km") >= 1
    assert "**→**" in report
    assert f"{len(TOWNS)} cells" in report


def test_output_depends_on_the_seed_only(fitted_folder: Path, photos: Path, tmp_path: Path) -> None:
    for name, seed in (("again", 0), ("other", 1)):
        assert run("--photos", photos, "--out", tmp_path / name, *OPTIONS, "--seed", seed).exit_code == 0
    for path in fitted_folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
    assert Partition.load(tmp_path / "other").fingerprint != Partition.load(fitted_folder).fingerprint


def test_photos_beyond_the_limit_of_optics_join_the_nearest_centroid(photos: Path) -> None:
    grid = Grid(min_samples=(5,), eps_km=(30.0,), xi=(), least_cells=3, most_cells=20, most_points=150)
    texts: list[str] = []
    fitted = fit(FitRequest(photos, grid=grid), lambda step: texts.append(step.text))
    assert any("150 of 292" in text for text in texts)
    assert len(fitted.search.best.labels) == 150
    assert len(fitted.partition) == len(TOWNS)
    assert fitted.partition.cells["photos"].sum() == 292
    _, town = town_photos()
    pairs = set(zip(town[town >= 0].tolist(), fitted.cell[town >= 0].tolist(), strict=True))
    assert len(pairs) == len(TOWNS)


def test_only_the_train_split_is_fitted(photos: Path, tmp_path: Path) -> None:
    """Otherwise the cells would be fitted to the places of test photos."""
    rows = photos.read_text().splitlines()
    split = [f"{row},{'train' if i % 3 else 'test'}" for i, row in enumerate(rows[1:-1])]
    table = photos.with_name("split.csv")
    table.write_text("\n".join([rows[0] + ",split", *split]))
    grid = Grid(min_samples=(5,), eps_km=(30.0,), xi=(), least_cells=3, most_cells=20)
    both = [len(fit(FitRequest(table, split=s, grid=grid), silent).photos) for s in (None, "test")]
    assert both == [sum(row.endswith(name) for row in split) for name in ("train", "test")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--min-samples", "60", "--eps", "1", "--xi", ""), "no cluster"),
        (("--eps", "-5"), "--eps"),
        (("--photos", "nowhere.csv"), "nowhere.csv"),
        (("--per-cluster", "0"), "--per-cluster"),
        (("--split", "test"), "split"),
    ],
)
def test_failed_fit_writes_nothing(photos: Path, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
    result = run("--photos", photos, "--out", tmp_path / "out", *options)
    assert result.exit_code == (2 if message.startswith("--") else 1)
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_text_instead_of_numbers_is_wrong_usage(photos: Path, tmp_path: Path) -> None:
    assert run("--photos", photos, "--out", tmp_path / "out", "--eps", "near").exit_code == 2


def test_folder_with_other_files_is_not_replaced(fitted_folder: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    result = run("--photos", photos, "--out", tmp_path, *OPTIONS)
    assert result.exit_code == 1
    assert "holds other files" in result.stderr
    before = Partition.load(fitted_folder).fingerprint
    assert run("--photos", photos, "--out", fitted_folder, *OPTIONS).exit_code == 0
    assert Partition.load(fitted_folder).fingerprint == before
    assert [path.name for path in fitted_folder.parent.iterdir()] == [fitted_folder.name]


def test_missing_scikit_learn_names_the_extra(photos: Path, tmp_path: Path) -> None:
    arguments = ["geocells", "fit", "--photos", str(photos), "--out", str(tmp_path / "out")]
    code = f"import sys; sys.modules['sklearn'] = None; import tilebeam; tilebeam.app({arguments!r})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert process.returncode == 1
    assert "pip install 'tilebeam[geocells]'" in process.stderr
    assert "Traceback" not in process.stderr
