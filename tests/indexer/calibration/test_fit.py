"""Fitting on pictures that were drawn from the posterior itself: its numbers must come back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_places import K, deepest_tiles, drawn, likelihoods, located, locator, lost, nowhere

from indexer.calibration.cases import cases_of, chunks_of
from indexer.calibration.fit import LEAST_PICTURES, fit, likeliest
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
    return fit(holed, pictures, K)


@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_the_numbers_of_one_zoom_come_back(flat: TileIndex, kappa: float) -> None:
    true = ZoomNumbers(0.1, kappa=kappa)
    found = fit(flat, drawn(flat, Calibration({3: true}), 1000, 6), K).zooms[3]
    assert found.tau == pytest.approx(true.tau, rel=0.12)
    assert found.kappa == pytest.approx(true.kappa, abs=0.1)
    assert (found.gamma, found.rho, found.b) == (1, 1, None)  # there is one parent: nothing to weigh
    if not kappa:
        assert found.kappa == 0  # exactly: the neighbours are not even looked at


def test_the_numbers_of_a_second_zoom_come_back(dense: TileIndex) -> None:
    """Under the true numbers of the first, which a second zoom's say in what its parents get makes hard to know."""
    known = drawn(dense, TOGETHER, 1600, 3, k=24)
    found, true = likeliest(chunks_of(cases_of(dense, known, TOGETHER, 24, 1))), TOGETHER.zooms[5]
    assert found.tau == pytest.approx(true.tau, rel=0.1)
    assert found.gamma == pytest.approx(true.gamma, abs=0.25)
    assert found.rho == pytest.approx(true.rho, abs=0.15)
    assert found.kappa == pytest.approx(true.kappa, abs=0.1)


@pytest.fixture(scope="module")
def best(dense: TileIndex) -> tuple[Calibration, KnownPictures, float]:
    """What was fitted to neighbours and nests, to what, and the mean log-likelihood with it."""
    known = drawn(dense, TOGETHER, 900, 7)
    found = fit(dense, known, K)
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
def test_no_other_numbers_of_the_last_zoom_make_the_pictures_likelier(
    dense: TileIndex,
    best: tuple[Calibration, KnownPictures, float],
    change: Callable[[ZoomNumbers], ZoomNumbers],
) -> None:
    """By the beam as it is served, which shares no arithmetic with the fit."""
    found, known, likelihood = best
    other = replace(found, zooms={**found.zooms, 5: change(found.zooms[5])})
    assert np.log(likelihoods(dense, known, other)).mean() < likelihood


def test_fresh_pictures_are_as_likely_as_by_the_true_numbers(holed: TileIndex, fitted: Calibration) -> None:
    fresh = drawn(holed, ALONE, 500, 2)
    nll = {
        name: -np.log(np.maximum(likelihoods(holed, fresh, c), 1e-12)).mean()
        for name, c in (("fitted", fitted), ("true", ALONE), ("unfitted", Calibration()))
    }
    assert nll["fitted"] < nll["true"] + 0.05
    assert nll["fitted"] < nll["unfitted"] - 1


def test_confidences_mean_what_they_say(holed: TileIndex, fitted: Calibration) -> None:
    fresh = drawn(holed, ALONE, 500, 3)
    honest, boasting = (_of_first_tiles(holed, fresh, c) for c in (fitted, Calibration()))
    assert honest.ece < 0.06 < 0.2 < boasting.ece
    assert honest.nll < boasting.nll


def _of_first_tiles(index: TileIndex, pictures: KnownPictures, calibration: Calibration):
    confidences, right = located(index, pictures, calibration)
    return reliability(np.array([c[0] for c in confidences]), np.array([r[0] for r in right]))


def test_what_it_was_fitted_at_is_written_down(holed: TileIndex, fitted: Calibration, tmp_path: Path) -> None:
    manifest = holed.manifest
    assert fitted.fits(K, [3, 5], manifest.coverage_hash, manifest.photo_encoder["fingerprint"])
    fitted.write(tmp_path)
    assert Calibration.read(tmp_path) == fitted


def test_neighbours_who_bring_nothing_are_not_asked(fitted: Calibration) -> None:
    assert [n.kappa for n in fitted.zooms.values()] == [0, 0]


def test_pictures_that_are_nowhere_or_not_covered_do_not_count(
    holed: TileIndex, pictures: KnownPictures, fitted: Calibration
) -> None:
    assert fit(holed, joined([pictures, nowhere(200, 4)]), K) == fitted
    uncovered = np.setdiff1d(np.arange(4**5, dtype=np.uint64), holed.levels[1].codes)[:40]
    beside = KnownPictures(lost(40, 3).embeddings, *centres_of_codes(uncovered, 5))
    assert cases_of(holed, beside, fitted, K, 1) == []


def test_a_zoom_that_too_few_speak_of_is_left_and_answers_say_so(dense: TileIndex) -> None:
    few = drawn(dense, ALONE, LEAST_PICTURES + 20, 5)
    counts: dict[int, int] = {}
    found = fit(dense, few, K, on_zoom=counts.__setitem__)
    assert counts[3] >= LEAST_PICTURES > counts[5]
    assert list(found.zooms) == [3]
    answers = locator(dense, found).locate(few.embeddings[:20], LocateQuery(k=K))
    assert {answer.calibrated for answer in answers} == {False}


def test_with_too_few_for_the_first_zoom_nothing_is_fitted(dense: TileIndex) -> None:
    counts: dict[int, int] = {}
    found = fit(dense, joined([drawn(dense, ALONE, 60, 5), nowhere(300, 1)]), K, on_zoom=counts.__setitem__)
    assert (dict(found.zooms), found.id, counts) == ({}, None, {3: 60})


def test_pictures_that_say_nothing_get_numbers_that_say_so(dense: TileIndex) -> None:
    known = lost(600, 9)
    found = fit(dense, known, K)
    confidences, _ = located(dense, known, found)
    assert max(c[0] for c in confidences) < 0.05  # one of 64 tiles has 0.016


def test_pictures_that_say_everything_end_in_finite_numbers(dense: TileIndex) -> None:
    rows, tiles = np.random.default_rng(4).integers(0, 1024, 300), deepest_tiles(dense)
    known = KnownPictures(tiles.vectors[rows], *centres_of_codes(tiles.codes[rows], 5))
    found = fit(dense, known, 64)
    confidences, right = located(dense, known, found, k=64)
    assert np.mean([c[-1] for c, r in zip(confidences, right, strict=True) if r[-1]]) > 0.9
