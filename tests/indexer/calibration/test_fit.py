"""Fitting to pictures whose places are drawn from the posterior: the fit must recover its numbers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_places import K, deepest_tiles, drawn, likelihoods, located, locator, lost, nowhere

from indexer.calibration.cases import cases_of, chunks_of
from indexer.calibration.fit import MIN_PICTURES, fit_numbers, fit_zooms
from indexer.evaluation.metrics import reliability
from indexer.photos.embed import KnownPictures, joined
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.reader import TileIndex
from retrieval.search.query import LocateQuery
from tile_cache.addressing import centres_of_codes

ALONE = Calibration({3: ZoomNumbers(0.12), 5: ZoomNumbers(0.15, 0.7, rho=0.6)}, k=K)
TOGETHER = Calibration({3: ZoomNumbers(0.1, kappa=0.5), 5: ZoomNumbers(0.1, 0.7, kappa=0.5, rho=0.6)}, k=K)


@pytest.fixture(scope="module")
def pictures(holed: TileIndex) -> KnownPictures:
    return drawn(holed, ALONE, 800, 1)


@pytest.fixture(scope="module")
def fitted(holed: TileIndex, pictures: KnownPictures) -> Calibration:
    return fit_zooms(holed, pictures, K)


@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_fit_recovers_the_numbers_of_one_zoom(flat: TileIndex, kappa: float) -> None:
    true = ZoomNumbers(0.1, kappa=kappa)
    found = fit_zooms(flat, drawn(flat, Calibration({3: true}), 1000, 6), K).zooms[3]
    assert found.tau == pytest.approx(true.tau, rel=0.12)
    assert found.kappa == pytest.approx(true.kappa, abs=0.1)
    assert (found.gamma, found.rho, found.b) == (1, 1, None)  # with one parent they have no effect
    if not kappa:
        assert found.kappa == 0  # exactly: neighbours are not looked up


def test_fit_recovers_the_numbers_of_a_second_zoom(dense: TileIndex) -> None:
    """With the first zoom's true numbers, which are hard to fit because the second zoom affects its parents' masses."""
    known = drawn(dense, TOGETHER, 1600, 3, k=24)
    found, true = fit_numbers(chunks_of(cases_of(dense, known, TOGETHER, 24, 1))), TOGETHER.zooms[5]
    assert found.tau == pytest.approx(true.tau, rel=0.1)
    assert found.gamma == pytest.approx(true.gamma, abs=0.25)
    assert found.rho == pytest.approx(true.rho, abs=0.15)
    assert found.kappa == pytest.approx(true.kappa, abs=0.1)


@pytest.fixture(scope="module")
def best(dense: TileIndex) -> tuple[Calibration, KnownPictures, float]:
    """A calibration fitted with kappa and rho, its pictures, and their mean log-likelihood under it."""
    known = drawn(dense, TOGETHER, 900, 7)
    found = fit_zooms(dense, known, K)
    return found, known, float(np.log(likelihoods(dense, known, found)).mean())


@pytest.mark.parametrize(
    "change",
    [
        lambda n: replace(n, tau=n.tau * 1.15),
        lambda n: replace(n, tau=n.tau / 1.15),
        lambda n: replace(n, gamma=n.gamma + 0.25),
        lambda n: replace(n, gamma=n.gamma - 0.25),
        lambda n: replace(n, kappa=n.kappa + 0.15),
        lambda n: replace(n, kappa=n.kappa - 0.15),
        lambda n: replace(n, rho=n.rho + 0.15),
        lambda n: replace(n, rho=n.rho - 0.15),
    ],
    ids=["tau up", "tau down", "gamma up", "gamma down", "kappa up", "kappa down", "rho up", "rho down"],
)
def test_changed_numbers_make_the_pictures_less_likely(
    dense: TileIndex,
    best: tuple[Calibration, KnownPictures, float],
    change: Callable[[ZoomNumbers], ZoomNumbers],
) -> None:
    """By the likelihood of the served beam, which shares no arithmetic with the fit."""
    found, known, likelihood = best
    other = replace(found, zooms={**found.zooms, 5: change(found.zooms[5])})
    assert np.log(likelihoods(dense, known, other)).mean() < likelihood


def test_fresh_pictures_are_as_likely_as_under_the_true_numbers(holed: TileIndex, fitted: Calibration) -> None:
    fresh = drawn(holed, ALONE, 500, 2)
    nll = {
        name: -np.log(np.maximum(likelihoods(holed, fresh, c), 1e-12)).mean()
        for name, c in (("fitted", fitted), ("true", ALONE), ("unfitted", Calibration()))
    }
    assert nll["fitted"] < nll["true"] + 0.05
    assert nll["fitted"] < nll["unfitted"] - 1


def test_fitted_confidences_are_calibrated_on_fresh_pictures(holed: TileIndex, fitted: Calibration) -> None:
    fresh = drawn(holed, ALONE, 500, 3)
    honest, boasting = (_of_first_tiles(holed, fresh, c) for c in (fitted, Calibration()))
    assert honest.ece < 0.06 < 0.2 < boasting.ece
    assert honest.nll < boasting.nll


def _of_first_tiles(index: TileIndex, pictures: KnownPictures, calibration: Calibration):
    confidences, right = located(index, pictures, calibration)
    return reliability(np.array([c[0] for c in confidences]), np.array([r[0] for r in right]))


def test_calibration_records_width_coverage_and_encoder(holed: TileIndex, fitted: Calibration, tmp_path: Path) -> None:
    manifest = holed.manifest
    assert fitted.fits(K, [3, 5], manifest.coverage_hash, manifest.photo_encoder["fingerprint"])
    fitted.write(tmp_path)
    assert Calibration.read(tmp_path) == fitted


def test_kappa_stays_0_without_enough_gain(fitted: Calibration) -> None:
    assert [n.kappa for n in fitted.zooms.values()] == [0, 0]


def test_pictures_without_place_or_outside_coverage_are_ignored(
    holed: TileIndex, pictures: KnownPictures, fitted: Calibration
) -> None:
    assert fit_zooms(holed, joined([pictures, nowhere(200, 4)]), K) == fitted
    uncovered = np.setdiff1d(np.arange(4**5, dtype=np.uint64), holed.levels[1].codes)[:40]
    beside = KnownPictures(lost(40, 3).embeddings, *centres_of_codes(uncovered, 5))
    assert cases_of(holed, beside, fitted, K, 1) == []


def test_zoom_with_too_few_pictures_is_not_fitted(dense: TileIndex) -> None:
    few = drawn(dense, ALONE, MIN_PICTURES + 20, 5)
    counts: dict[int, int] = {}
    found = fit_zooms(dense, few, K, on_zoom=counts.__setitem__)
    assert counts[3] >= MIN_PICTURES > counts[5]
    assert list(found.zooms) == [3]
    answers = locator(dense, found).locate(few.embeddings[:20], LocateQuery(k=K))
    assert {answer.calibrated for answer in answers} == {False}


def test_nothing_is_fitted_with_too_few_pictures_at_the_first_zoom(dense: TileIndex) -> None:
    counts: dict[int, int] = {}
    found = fit_zooms(dense, joined([drawn(dense, ALONE, 60, 5), nowhere(300, 1)]), K, on_zoom=counts.__setitem__)
    assert (dict(found.zooms), found.id, counts) == ({}, None, {3: 60})


def test_uninformative_pictures_give_low_confidences(dense: TileIndex) -> None:
    known = lost(600, 9)
    found = fit_zooms(dense, known, K)
    confidences, _ = located(dense, known, found)
    assert max(c[0] for c in confidences) < 0.05  # one of 64 tiles has 0.016


def test_perfectly_matching_pictures_give_finite_numbers(dense: TileIndex) -> None:
    rows, tiles = np.random.default_rng(4).integers(0, 1024, 300), deepest_tiles(dense)
    known = KnownPictures(tiles.vectors[rows], *centres_of_codes(tiles.codes[rows], 5))
    found = fit_zooms(dense, known, 64)
    confidences, right = located(dense, known, found, k=64)
    assert np.mean([c[-1] for c, r in zip(confidences, right, strict=True) if r[-1]]) > 0.9
