"""Rows-only indexes: built from a coverage alone, verified like any other, and answered from a prior."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from indexer.build.area import Area
from indexer.build.build import build_index
from indexer.build.coverage import Coverage
from indexer.build.request import BuildRequest
from indexer.errors import CoverageError, ExistingIndexError
from retrieval.encoders.base import NoEncoder
from retrieval.errors import IndexDamagedError, QueryError
from retrieval.geo.region import Region
from retrieval.index.calibration import Calibration
from retrieval.index.manifest import Manifest
from retrieval.index.reader import TileIndex
from retrieval.installed_priors import OpenPriors
from retrieval.locator import Locator
from retrieval.priors.density import Density, DensityPrior
from retrieval.search.plan import InstalledPrior
from retrieval.search.query import BBox, LocateQuery
from retrieval.verify import verify
from tilebeam import app

BOX = (5.9, 45.8, 10.5, 47.8)
ZOOMS = (4, 6, 8, 10)


def rows_request(out: Path, zooms: tuple[int, ...], area: Area, **changes: Any) -> BuildRequest:
    return BuildRequest(out=out, zooms=zooms, area=area, rows_only=True, **changes)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rows") / "index"
    build_index(rows_request(out, ZOOMS, Area(bbox=BOX), shard_rows=32))
    return out


def with_density_prior(index: Path, lat: list[float], lng: list[float]) -> Locator:
    """A rows-only index, opened with a density of some places as its prior."""
    opened = TileIndex.open(index)
    prior = DensityPrior(Density.of(np.array(lat), np.array(lng)))
    installed = InstalledPrior.of("density", prior, Calibration(), opened.zooms, Calibration())
    return Locator(opened, Calibration(), NoEncoder(), priors=OpenPriors({"density": installed}, "density"))


def test_rows_only_index_holds_the_rows_of_the_coverage(index: Path) -> None:
    coverage = Coverage.of(ZOOMS, Region.from_bbox(*BOX))
    opened = TileIndex.open(index)
    for level in opened.levels:
        assert level.codes.tolist() == [int(c) for chunk in coverage.chunks(level.zoom) for c in chunk]
        assert not level.has_vectors
    assert len(Manifest.read(index).zooms[-1].shards) > 1
    assert sorted({p.suffix for p in index.iterdir()}) == [".json", ".npy"]
    assert verify(index) == []


def test_same_rows_only_request_gives_the_same_index(index: Path, tmp_path: Path) -> None:
    request = rows_request(tmp_path / "again", ZOOMS, Area(bbox=BOX), shard_rows=32)
    report = build_index(request)
    assert report.index_id == Manifest.read(index).id
    assert (report.rows[4], report.vectors[4]) == (1, 0)
    assert build_index(request).already
    with pytest.raises(ExistingIndexError, match="--overwrite"):
        build_index(rows_request(request.out, (4,), Area(bbox=BOX)))


def test_killed_rows_only_build_resumes(index: Path, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(progress: object) -> None:
        raise Killed

    request = rows_request(tmp_path / "out", ZOOMS, Area(bbox=BOX), shard_rows=32)
    with pytest.raises(Killed):
        build_index(request, on_progress=kill)
    assert not request.out.exists()
    assert build_index(request).index_id == Manifest.read(index).id
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_level_of_rows_returns_all_children_of_the_beam(index: Path) -> None:
    above, level = TileIndex.open(index).levels[-2:]
    parents = np.array([0, 2, len(above.codes) - 1])
    candidates = level.search(np.empty(0, dtype=np.float32), parents)
    expected = np.flatnonzero(np.isin(level.codes >> np.uint64(4), above.codes[parents]))
    assert candidates.rows.tolist() == expected.tolist()
    assert (above.codes[parents][candidates.slots] == level.codes[candidates.rows] >> np.uint64(4)).all()
    assert not candidates.similarities.any()


def test_rows_only_index_answers_from_its_prior(index: Path) -> None:
    """The prior has photos in two places: the answer is the place with more, and the masses are the prior's."""
    locator = with_density_prior(index, [47.37, 47.37, 47.37, 46.0, 0.0], [8.54, 8.54, 8.54, 7.0, 0.0])
    (answer,) = locator.locate(np.empty((1, 0), dtype=np.float32), LocateQuery())
    assert (answer.lat, answer.lng) == pytest.approx((47.37, 8.54), abs=0.4)
    assert [level.similarity for level in answer.levels] == [None] * len(ZOOMS)
    assert not answer.calibrated
    density = Density.of(np.array([47.37, 47.37, 47.37, 46.0, 0.0]), np.array([8.54, 8.54, 8.54, 7.0, 0.0]))
    descent = locator.descend(np.empty(0, dtype=np.float32), locator.plan(LocateQuery()))
    last = descent.steps[-1]
    masses = np.exp(density.log_mass(last.level.codes[last.rows], 10).astype(np.float64))
    assert np.exp(last.log_mass) == pytest.approx(masses / masses.sum(), rel=1e-3)


def test_rows_only_index_answers_within_a_bbox(index: Path) -> None:
    locator = with_density_prior(index, [47.37, 46.0], [8.54, 7.0])
    (answer,) = locator.locate(np.empty((1, 0), dtype=np.float32), LocateQuery(bbox=BBox(6.5, 45.9, 7.5, 46.2)))
    assert (answer.lat, answer.lng) == pytest.approx((46.0, 7.0), abs=0.4)


@pytest.mark.parametrize("query", [LocateQuery(prior="none"), LocateQuery(scoring="paper")])
def test_rows_only_index_without_prior_is_refused(index: Path, query: LocateQuery) -> None:
    with pytest.raises(QueryError, match="prior"):
        with_density_prior(index, [47.0], [8.0]).locate(np.empty((1, 0), dtype=np.float32), query)


def test_damaged_rows_only_manifest_is_refused(index: Path, tmp_path: Path) -> None:
    build_index(rows_request(tmp_path / "index", (4, 8), Area(bbox=BOX)))
    path = tmp_path / "index" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["zooms"][1]["vectors"] = manifest["zooms"][1]["shards"][0]["vectors"] = 3
    path.write_text(json.dumps(manifest))
    with pytest.raises(IndexDamagedError, match="3 vectors for 12 rows"):
        Manifest.read(tmp_path / "index")


def test_land_needs_a_source_that_knows_it(tmp_path: Path) -> None:
    with pytest.raises(CoverageError, match="--source bluemarble"):
        build_index(rows_request(tmp_path / "out", (4,), Area(land=0.5)))
    thin = build_index(rows_request(tmp_path / "land", (4, 6), Area(land=0.5), source="bluemarble"))
    assert 0 < thin.rows[6] < 4**6 // 2


def test_commands_build_and_inspect_a_rows_only_index(tmp_path: Path) -> None:
    run = CliRunner().invoke
    bbox = [str(v) for v in BOX]
    built = run(
        app, ["index", "--rows-only", "--zooms", "4,6", "--bbox", *bbox, "--out", str(tmp_path / "i"), "--json"]
    )
    assert built.exit_code == 0, built.output
    assert json.loads(built.stdout)["vectors"] == {"4": 0, "6": 0}
    seen = run(app, ["inspect", str(tmp_path / "i"), "--verify"])
    assert seen.exit_code == 0, seen.output
    assert "photos by    none" in seen.stdout
    assert "vectors      none: a prior answers" in seen.stdout
    assert "priors       none" in seen.stdout
    refused = run(app, ["index", "--zooms", "4,6", "--world", "--out", str(tmp_path / "j")])
    assert refused.exit_code == 2
    assert "--rows-only" in refused.output
