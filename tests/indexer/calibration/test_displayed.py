"""Displayed confidences: the loss is that of real answers, fresh pictures do no worse, and circles hold the truth."""

from dataclasses import replace

import numpy as np
import pytest
from drawn_places import K, drawn, located, locator, mixed

from indexer.calibration.displayed import DisplayedChunk, displayed_cases, fit_displayed, fit_radii
from indexer.calibration.fit import fit_zooms
from indexer.calibration.likelihood import Free
from indexer.photos.embed import KnownPictures
from retrieval.index.calibration import Calibration, ElsewhereNumbers, Feature, ZoomNumbers
from retrieval.index.reader import TileIndex
from retrieval.search.query import LocateQuery
from retrieval.sphere import great_circle_km

TRUE = Calibration({3: ZoomNumbers(0.1), 5: ZoomNumbers(0.1, 0.7, rho=0.6)}, k=K)
SHARP = Calibration({3: ZoomNumbers(0.03), 5: ZoomNumbers(0.02, 0.7, rho=0.6)}, k=K)
AROUND = Calibration({3: ZoomNumbers(0.1, kappa=0.3), 5: ZoomNumbers(0.1, 0.7, kappa=0.5, rho=0.6)}, k=K)
SOMETIMES = ElsewhereNumbers(-0.5, {"best_3": Feature(0.4, 0.1, -1.0), "entropy_5": Feature(2.0, 1.0, 0.5)})


@pytest.fixture(scope="module")
def pictures(holed: TileIndex) -> KnownPictures:
    """Clear and hopeless pictures: in a likelihood over all tiles, the hopeless ones weigh more than in the answers."""
    return mixed(holed, SHARP, 600, 1)


@pytest.fixture(scope="module")
def fitted(holed: TileIndex, pictures: KnownPictures) -> Calibration:
    return fit_zooms(holed, pictures, K)


@pytest.fixture(scope="module")
def shown(holed: TileIndex, pictures: KnownPictures, fitted: Calibration) -> Calibration:
    """The calibration as `calibrate` stores it, with displayed confidences and radii fitted."""
    return fit_radii(holed, pictures, fit_displayed(holed, pictures, fitted, K), K)


@pytest.fixture(scope="module")
def fresh(holed: TileIndex) -> KnownPictures:
    return mixed(holed, SHARP, 1200, 2)


@pytest.mark.parametrize(
    ("which", "calibration"),
    [
        ("holed", TRUE),
        ("holed", replace(TRUE, elsewhere=SOMETIMES)),
        ("flat", replace(TRUE, elsewhere=SOMETIMES)),
        ("dense", replace(AROUND, elsewhere=SOMETIMES)),
    ],
    ids=["plain", "elsewhere", "one zoom", "neighbours"],
)
def test_loss_equals_that_of_the_answers(which: str, calibration: Calibration, request: pytest.FixtureRequest) -> None:
    """Up to the float32 rounding of smoothed cosines."""
    index: TileIndex = request.getfixturevalue(which)
    known, numbers = mixed(index, TRUE, 120, 3), calibration.zooms[index.zooms[-1]]
    seen = [s for s in displayed_cases(index, known, calibration, K) if s is not None]
    assert len(seen) == len(known)
    found = float(DisplayedChunk.of(seen).loss(Free.start(numbers, neighbours=numbers.kappa > 0)).detach())
    assert found == pytest.approx(_log_loss(index, known, calibration) * len(known), rel=1e-6)


def test_fresh_answers_improve_and_coarse_zooms_keep_their_numbers(
    holed: TileIndex, fresh: KnownPictures, fitted: Calibration, shown: Calibration
) -> None:
    assert shown.zooms[3] == fitted.zooms[3]
    assert shown.zooms[5].kappa == fitted.zooms[5].kappa
    assert shown.zooms[5].tau != fitted.zooms[5].tau
    assert _log_loss(holed, fresh, shown) < _log_loss(holed, fresh, fitted)


def test_numbers_with_worse_answers_are_not_taken(holed: TileIndex) -> None:
    """Answers change with the numbers. Here each round's numbers fit the previous answers and make worse ones."""
    known = mixed(holed, TRUE, 600, 1)
    before = fit_zooms(holed, known, K)
    after = fit_displayed(holed, known, before, K)
    assert _log_loss(holed, known, after) <= _log_loss(holed, known, before)


def test_little_changes_when_the_likelihood_was_right(dense: TileIndex) -> None:
    known, fresh = drawn(dense, AROUND, 250, 4), drawn(dense, AROUND, 250, 5)
    before = fit_zooms(dense, known, K)
    after = fit_displayed(dense, known, before, K)
    assert (after.zooms[3], after.zooms[5].kappa) == (before.zooms[3], before.zooms[5].kappa)
    assert _log_loss(dense, fresh, after) < _log_loss(dense, fresh, before) + 0.02


def test_calibration_without_the_deepest_zoom_is_unchanged(holed: TileIndex, pictures: KnownPictures) -> None:
    for zooms in ({}, {3: TRUE.zooms[3]}):
        coarse = replace(TRUE, zooms=zooms)
        assert fit_displayed(holed, pictures, coarse, K) is coarse


def test_pictures_without_a_place_change_nothing(holed: TileIndex, pictures: KnownPictures) -> None:
    few = pictures.take(np.arange(60))
    blank = KnownPictures(few.embeddings, np.full(60, np.nan), np.full(60, np.nan))
    assert fit_displayed(holed, blank, TRUE, K) is TRUE
    assert fit_radii(holed, blank, TRUE, K) is TRUE
    both = KnownPictures(*(np.concatenate([getattr(p, n) for p in (few, blank)]) for n in ("embeddings", "lng", "lat")))
    assert fit_radii(holed, both, TRUE, K) == fit_radii(holed, few, TRUE, K)


def test_circles_hold_their_promised_share_of_truths(
    holed: TileIndex, fresh: KnownPictures, shown: Calibration
) -> None:
    """On fresh pictures of the same kind, by the radii that users get."""
    fresh = fresh.take(np.arange(500))
    answers = locator(holed, shown).locate(fresh.embeddings, LocateQuery(k=K))
    assert {answer.calibrated for answer in answers} == {True}
    ends = (np.array(v) for v in ([a.lng for a in answers], [a.lat for a in answers], fresh.lng, fresh.lat))
    km = great_circle_km(*ends)
    for promised, radii in ((0.5, [a.radius_50_km for a in answers]), (0.9, [a.radius_90_km for a in answers])):
        assert np.mean(km <= np.array(radii, dtype=float) + 1e-6) == pytest.approx(promised, abs=0.08)


def _log_loss(index: TileIndex, pictures: KnownPictures, calibration: Calibration) -> float:
    """Log loss of the answers' confidences, clipped by 1e-6, summed over an answer's zooms; mean over pictures."""
    confidences, right = (np.concatenate(v) for v in located(index, pictures, calibration))
    held = np.clip(confidences, 1e-6, 1 - 1e-6)
    return float(-np.log(np.where(right, held, 1 - held)).sum() / len(pictures))
