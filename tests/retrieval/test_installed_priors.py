"""Priors installed into an index, and answers with them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.support.noise_prior import NOISE, NOISE_KIND, NoisePrior
from retrieval.errors import CalibrationError, IndexDamagedError, PriorError, QueryError
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.manifest import Manifest
from retrieval.index.reader import TileIndex
from retrieval.installed_priors import install, staged
from retrieval.locator import BBox, LocateQuery, Locator
from retrieval.priors.base import write_kind
from retrieval.priors.registry import KINDS
from retrieval.testing.fake import FakePhotoEncoder

ZOOMS = (4, 6, 8)


@pytest.fixture(autouse=True)
def noise_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the negative control as a kind that needs no files."""
    monkeypatch.setitem(KINDS, NOISE, NOISE_KIND)


def put(index: Path, name: str, *, default: bool = True, source: Path | None = None) -> None:
    with staged(index, name, source) as place:
        install(index, name, place, NoisePrior().fingerprint, default=default)


def fitted(index: Path, name: str | None, lam: float) -> Calibration:
    manifest = Manifest.read(index)
    numbers = {z: ZoomNumbers(tau=0.1, lam=lam) for z in ZOOMS}
    calibration = Calibration(numbers, 64, manifest.coverage_hash, str(manifest.photo_encoder["fingerprint"]))
    calibration = calibration if name is None else calibration.with_prior(name, NoisePrior().fingerprint)
    calibration.write(index)
    return calibration


@pytest.fixture
def index(small: tuple) -> Path:
    return small[0]


@pytest.fixture
def pictures() -> np.ndarray:
    rows = np.random.default_rng(1).standard_normal((5, 32)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_installing_a_prior_keeps_id_and_answers_without_it(index: Path, pictures: np.ndarray) -> None:
    photo = FakePhotoEncoder(32)
    fitted(index, None, 0.0)
    before = [a.to_json() for a in Locator.open(index, encoder=photo).locate(pictures, LocateQuery())]
    identity = Manifest.read(index).id
    put(index, "noise", default=False)
    locator = Locator.open(index, encoder=photo)
    assert Manifest.read(index).id == identity
    assert [a.to_json() for a in locator.locate(pictures, LocateQuery())] == before
    asked = [a.to_json() for a in locator.locate(pictures, LocateQuery(prior="noise"))]
    assert [a["prior"] for a in asked] == ["noise"] * 5
    assert [a["confidence"] for a in asked] != [b["confidence"] for b in before]
    assert locator.describe()["prior"] is None
    assert [p["name"] for p in locator.describe()["priors"]] == ["noise"]


def test_default_prior_is_used_unless_query_says_none(index: Path, pictures: np.ndarray) -> None:
    put(index, "noise")
    locator = Locator.open(index, encoder=FakePhotoEncoder(32))
    default, named, none = (
        [a.to_json() for a in locator.locate(pictures, LocateQuery(prior=name))] for name in (None, "noise", "none")
    )
    assert default == named
    assert all("prior" not in a for a in none)
    plain = Locator.open(index, encoder=FakePhotoEncoder(32), prior="none")
    assert [a.to_json() for a in plain.locate(pictures, LocateQuery())] == none
    with pytest.raises(QueryError, match="unknown prior 'geoclip'; use noise, none"):
        locator.locate(pictures, LocateQuery(prior="geoclip"))
    with pytest.raises(QueryError, match="cannot use the prior noise"):
        locator.locate(pictures, LocateQuery(prior="noise", scoring="paper"))


def test_prior_only_query_returns_the_priors_answer(index: Path, pictures: np.ndarray) -> None:
    put(index, "noise", default=False)
    locator = Locator.open(index, encoder=FakePhotoEncoder(32))
    answers = locator.locate(pictures, LocateQuery(prior="noise", prior_only=True))
    beliefs = NoisePrior().beliefs(pictures)
    for answer, belief in zip(answers, beliefs, strict=True):
        said = answer.to_json()
        assert (answer.lng, answer.lat) == tuple(belief.best())
        assert [level["zoom"] for level in said["levels"]] == list(ZOOMS)
        confidences = [level["confidence"] for level in said["levels"]]
        assert 1 >= confidences[0] >= confidences[1] >= confidences[2] > 0
        assert not said["calibrated"]
        assert {level["similarity"] for level in said["levels"]} == {None}
    with pytest.raises(QueryError, match="without a prior: name one"):
        locator.locate(pictures, LocateQuery(prior_only=True))
    with pytest.raises(QueryError, match="cannot be limited to bbox"):
        LocateQuery(prior_only=True, prior="noise", bbox=BBox(0, 0, 1, 1))


def test_search_with_a_prior_runs_on_the_lists(index: Path, pictures: np.ndarray) -> None:
    put(index, "noise", default=False)
    lists = Locator.open(index, encoder=FakePhotoEncoder(32))
    no_beam: Any = object()  # any use of it raises AttributeError
    device = Locator(lists.index, lists.calibration, lists.encoder, no_beam, lists.priors)
    query = LocateQuery(prior="noise")
    assert device.locate(pictures, query) == lists.locate(pictures, query)
    with pytest.raises(AttributeError):
        device.locate(pictures, LocateQuery())


def test_answers_are_calibrated_only_with_the_fitted_prior(index: Path, pictures: np.ndarray) -> None:
    photo, query = FakePhotoEncoder(32), LocateQuery(prior="noise")
    plain = fitted(index, None, 0.0)
    put(index, "noise")
    (answer, *_) = Locator.open(index, encoder=photo).locate(pictures, query)
    assert not answer.calibrated
    assert answer.calibration_id is None
    mine = fitted(index, "noise", 0.5)
    locator = Locator.open(index, encoder=photo)
    (answer, *_) = locator.locate(pictures, query)
    assert answer.calibrated
    assert (answer.calibration_id, locator.calibration.id) == (mine.id, plain.id)
    (answer, *_) = locator.locate(pictures, LocateQuery(prior="none"))
    assert answer.calibrated
    assert answer.calibration_id == plain.id
    mine.with_prior("noise", "another version").write(index)
    (answer, *_) = Locator.open(index, encoder=photo).locate(pictures, query)
    assert not answer.calibrated


def test_prior_moves_with_its_index_and_its_files_are_checked(index: Path, tmp_path: Path) -> None:
    source = tmp_path / "made"
    source.mkdir()
    (source / "weights.npy").write_bytes(b"0123")
    write_kind(source, "noise")
    put(index, "noise-2", source=source)
    (tmp_path / "made" / "weights.npy").write_bytes(b"gone")
    moved = index.rename(tmp_path / "moved")
    TileIndex.open(moved)
    assert (moved / "priors/noise-2/weights.npy").read_bytes() == b"0123"
    (moved / "priors/noise-2/weights.npy").write_bytes(b"0124")
    with pytest.raises(IndexDamagedError, match=r"weights\.npy"):
        TileIndex.open(moved)


def test_installing_replaces_only_a_prior_of_the_same_name(index: Path) -> None:
    put(index, "noise")
    put(index, "noise-2", source=index / "priors/noise", default=False)
    put(index, "noise", default=False)
    manifest = Manifest.read(index)
    assert sorted(manifest.priors) == ["noise", "noise-2"]
    assert manifest.prior is None  # installed again, but not as the default
    assert sorted(f.name for f in manifest.files if f.name.startswith("priors/")) == [
        "priors/noise-2/prior.json",
        "priors/noise/prior.json",
    ]
    assert sorted(p.name for p in (index / "priors").iterdir()) == ["noise", "noise-2"]


def test_failure_before_install_leaves_no_files(index: Path) -> None:
    with pytest.raises(RuntimeError, match="on the way"), staged(index, "noise", None):
        raise RuntimeError("on the way")
    assert list((index / "priors").iterdir()) == []
    assert Manifest.read(index).priors == {}


@pytest.mark.parametrize("name", ["none", "", "../up", "Geo", "a/b", "x" * 41])
def test_invalid_prior_names_raise(index: Path, name: str) -> None:
    with pytest.raises(PriorError, match="is not a valid name of a prior"), staged(index, name, None):
        pass


@pytest.mark.parametrize(
    "said",
    [
        "{}",
        "[]",
        "nonsense",
        '{"format": "tilebeam-prior", "version": 9, "kind": "noise"}',
        '{"format": "tilebeam-prior", "version": 1, "kind": "oracle"}',
        '{"format": "tilebeam-prior", "version": 1}',
    ],
)
def test_other_directory_raises_before_it_is_copied(index: Path, tmp_path: Path, said: str) -> None:
    source = tmp_path / "bad"
    source.mkdir()
    (source / "prior.json").write_text(said)
    with pytest.raises(PriorError, match=r"prior\.json cannot be used"), staged(index, "noise", source):
        pass


def test_changed_prior_raises(index: Path) -> None:
    with staged(index, "noise", None) as place:
        install(index, "noise", place, "another's fingerprint", default=True)
    with pytest.raises(PriorError, match="differs from the prior that was installed"):
        Locator.open(index, encoder=FakePhotoEncoder(32))


def test_calibration_of_another_prior_raises(tmp_path: Path) -> None:
    fine = Calibration({4: ZoomNumbers()}).with_prior("noise", "x")
    fine.write(tmp_path)
    assert Calibration.read(tmp_path, "noise") == fine
    assert Calibration.read(tmp_path).id is None
    data = json.loads((tmp_path / "calibration-noise.json").read_text())
    (tmp_path / "calibration-other.json").write_text(json.dumps(data))
    with pytest.raises(CalibrationError, match="fitted with the prior noise"):
        Calibration.read(tmp_path, "other")
