"""Fitting elsewhere: features with known answers, weights of families, the expected share, early ends."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_places import DIM, K, drawn, locator, nowhere

from indexer.calibration.elsewhere import OutOfScope, _logistic, fit_elsewhere
from indexer.evaluation.metrics import auroc
from indexer.photos.embed import KnownPictures, joined
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.reader import TileIndex
from retrieval.locator import LocateQuery
from retrieval.search.beam import descend
from retrieval.search.elsewhere import probability
from retrieval.search.plan import SearchPlan
from retrieval.testing.fake import fake_pyramid, unit_rows, write_fake_index

TRUE = Calibration({3: ZoomNumbers(0.05), 5: ZoomNumbers(0.05, 0.7)}, k=K)
ODD = np.random.default_rng(8).standard_normal((3, DIM))
"""Directions of the embeddings of three families."""


def family(name: int, n: int, seed: int) -> KnownPictures:
    """Similar pictures of no place."""
    rng = np.random.default_rng([seed, name])
    rows = unit_rows(ODD[name] + 0.7 * rng.standard_normal((n, DIM)))
    return KnownPictures(rows, np.full(n, np.nan), np.full(n, np.nan))


def out_of_scope(*sizes: int, seed: int = 0) -> OutOfScope:
    parts = [family(name, n, seed) for name, n in enumerate(sizes)]
    return OutOfScope(joined(parts), np.repeat([f"family {name}" for name in range(len(sizes))], sizes))


@pytest.fixture(scope="module")
def known(dense: TileIndex) -> KnownPictures:
    return drawn(dense, TRUE, 300, 1)


def elsewhere(index: TileIndex, pictures: KnownPictures, calibration: Calibration) -> np.ndarray:
    """`elsewhere` of the answers, (n,)."""
    query = LocateQuery(k=K)
    return np.array([a.elsewhere for a in locator(index, calibration).locate(pictures.embeddings, query)])


def test_separable_features_are_separated() -> None:
    rng = np.random.default_rng(0)
    nowhere_at_all = np.arange(400) % 4 == 0
    features = np.stack([rng.normal(np.where(nowhere_at_all, 3.0, 0.0), 0.4), 100 + rng.normal(0, 50, 400)], 1)
    numbers = _logistic(["telling", "idle"], features, nowhere_at_all, np.ones(400))
    found = np.array([probability(numbers, {"telling": a, "idle": b}) for a, b in features])
    assert found[nowhere_at_all].mean() > 0.95
    assert found[~nowhere_at_all].mean() < 0.02
    assert numbers.features["telling"].weight > 10 * abs(numbers.features["idle"].weight)
    assert numbers.features["idle"].mean == pytest.approx(features[:, 1].mean())


def test_constant_or_missing_features_do_no_harm() -> None:
    rng = np.random.default_rng(1)
    target = np.arange(200) % 2 == 0
    telling = rng.normal(target * 2.0, 0.5)
    gaps = np.where(rng.random(200) < 0.3, np.nan, telling)
    numbers = _logistic(["same", "gaps"], np.stack([np.full(200, 7.0), gaps], 1), target, np.ones(200))
    assert numbers.features["same"].weight == pytest.approx(0, abs=1e-6)
    assert probability(numbers, {"same": 7.0, "gaps": 3.0}) > 0.9 > 0.1 > probability(numbers, {"gaps": -1.0})
    assert 0.1 < probability(numbers, {}) < 0.9


def test_fitted_model_recognises_unseen_families(dense: TileIndex, known: KnownPictures) -> None:
    fitted = fit_elsewhere(dense, known, out_of_scope(100, 100), TRUE, K, 0.1)
    unseen = np.concatenate([elsewhere(dense, p, fitted) for p in (drawn(dense, TRUE, 200, 2), family(2, 200, 3))])
    assert fitted.zooms == TRUE.zooms
    assert auroc(unseen, np.arange(400) >= 200) > 0.6  # cosines with random tiles allow no more


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_mean_elsewhere_equals_the_expected_share(dense: TileIndex, known: KnownPictures, share: float) -> None:
    odd = out_of_scope(60, 120)
    fitted = fit_elsewhere(dense, known, odd, TRUE, K, share)
    by_family = [elsewhere(dense, odd.pictures.take(np.flatnonzero(odd.families == f)), fitted).mean()
                 for f in np.unique(odd.families)]  # fmt: skip
    mean = (1 - share) * elsewhere(dense, known, fitted).mean() + share * np.mean(by_family)
    assert mean == pytest.approx(share, abs=0.005)


def test_weight_of_a_family_does_not_depend_on_its_size(dense: TileIndex, known: KnownPictures) -> None:
    odd = out_of_scope(80, 80)
    first = np.flatnonzero(odd.families == "family 0")
    again = np.concatenate([np.arange(160), first])
    doubled = OutOfScope(odd.pictures.take(again), odd.families[again])
    fitted = [fit_elsewhere(dense, known, s, TRUE, K, 0.3) for s in (odd, doubled)]
    for pictures in (known, odd.pictures):
        a, b = (elsewhere(dense, pictures, c) for c in fitted)
        assert np.abs(a - b).max() < 0.05
        assert abs(a.mean() - b.mean()) < 0.005


def test_foreign_renditions_with_right_answers_count_as_answerable(dense: TileIndex, known: KnownPictures) -> None:
    """Only pictures that the index answers wrongly count as out of scope; without any, no model is fitted."""
    answers = locator(dense, TRUE).locate(known.embeddings, LocateQuery(k=K))
    lng, lat = (np.array([getattr(a, name) for a in answers]) for name in ("lng", "lat"))
    right = OutOfScope(KnownPictures(known.embeddings, lng, lat), np.full(len(known), "map"))
    assert fit_elsewhere(dense, known, right, TRUE, K, 0.1).elsewhere is None
    far = KnownPictures(known.embeddings, (lng + 360) % 360 - 180, lat)
    wrong = OutOfScope(far, np.full(len(known), "map"))
    fitted = fit_elsewhere(dense, known, wrong, TRUE, K, 0.3)  # the same pictures on both sides cannot be separated
    assert elsewhere(dense, known, fitted) == pytest.approx(np.full(len(known), 0.3), abs=0.02)


def test_an_earlier_fit_does_not_change_the_result(dense: TileIndex, known: KnownPictures) -> None:
    odd = out_of_scope(60, 60)
    once = fit_elsewhere(dense, known, odd, TRUE, K, 0.1)
    assert fit_elsewhere(dense, known, odd, once, K, 0.1) == once
    assert fit_elsewhere(dense, known, odd, TRUE, K, 0.1) == once


def test_descents_that_end_early_are_fitted_and_answered(tmp_path: Path) -> None:
    """Half the first zoom's tiles have nothing beneath, and with a narrow beam many searches end there."""
    write_fake_index(tmp_path, fake_pyramid(5, [2, 4], DIM, tiles=200, thinning=0.7, holes=0.0))
    index = TileIndex.open(tmp_path)
    plain = Calibration({2: ZoomNumbers(0.05), 4: ZoomNumbers(0.05)}, k=1)
    pictures = drawn(index, plain, 150, 1, k=1)
    depths = [len(descend(index, row, SearchPlan(plain, k=1)).steps) for row in pictures.embeddings]
    assert 0.2 < np.mean(np.array(depths) == 1) < 0.9
    fitted = fit_elsewhere(index, pictures, OutOfScope(nowhere(80, 2), np.full(80, "x")), plain, 1, 0.2)
    assert fitted.elsewhere is not None
    assert {name.split("_")[1] for name in fitted.elsewhere.features} == {"2", "4"}
    for answer in locator(index, fitted).locate(pictures.embeddings, LocateQuery(k=1)):
        assert 0 < answer.elsewhere < 1
        assert answer.levels[0].confidence + answer.elsewhere <= 1 + 1e-9


def test_model_is_written_and_read_unchanged(dense: TileIndex, known: KnownPictures, tmp_path: Path) -> None:
    fitted = fit_elsewhere(dense, known, out_of_scope(60, 60), replace(TRUE, coverage="c"), K, 0.1)
    fitted.write(tmp_path)
    assert Calibration.read(tmp_path) == fitted
    assert Calibration.read(tmp_path).id == fitted.id != replace(fitted, elsewhere=None).id
