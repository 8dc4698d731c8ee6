"""Fitting on pictures that were drawn from the posterior itself: its numbers must come back."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.calibration.fit import as_shown, fit
from indexer.metrics import great_circle_km, reliability
from indexer.photos.known import KnownPictures
from indexer.retrieval.beam import descend
from indexer.retrieval.calibration import Calibration, ZoomNumbers
from indexer.retrieval.fake import fake_pyramid, unit_rows, write_fake_index
from indexer.retrieval.index import TileIndex
from indexer.retrieval.point import places, radius_km
from indexer.retrieval.support import Support
from tile_cache.addressing import centres_of_codes, children_of_codes, codes_at

K = 12
TRUE = Calibration({3: ZoomNumbers(0.12, 1.0, 4.0), 5: ZoomNumbers(0.2, 0.6, 2.5)}, k=K)
SURE = Calibration({z: replace(n, b=None) for z, n in TRUE.zooms.items()}, k=K)
Place = tuple[float, float]
Change = Callable[[ZoomNumbers], ZoomNumbers]
NOWHERE: Place = (np.nan, np.nan)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> tuple[TileIndex, TileIndex]:
    """One zoom of 64 tiles; two zooms of 64 and 400, some tiles with nothing beneath and some without a vector."""
    directory = tmp_path_factory.mktemp("fit")
    write_fake_index(directory / "flat", fake_pyramid(5, [3], 16, holes=0.05))
    write_fake_index(directory / "deep", fake_pyramid(5, [3, 5], 16, tiles=400, thinning=0.1, holes=0.05))
    return TileIndex.open(directory / "flat"), TileIndex.open(directory / "deep")


@pytest.fixture(scope="module")
def flat(indexes: tuple[TileIndex, TileIndex]) -> TileIndex:
    return indexes[0]


@pytest.fixture(scope="module")
def index(indexes: tuple[TileIndex, TileIndex]) -> TileIndex:
    return indexes[1]


def drawn(index: TileIndex, truth: Calibration, n: int, seed: int) -> KnownPictures:
    """Random embeddings, and places drawn from the posterior that `truth` gives them."""
    rng = np.random.default_rng(seed)
    rows = unit_rows(rng.standard_normal((n, 16)))
    places = [_place(index, row, truth, rng) for row in rows]
    return KnownPictures(rows, np.array([p[0] for p in places]), np.array([p[1] for p in places]))


def _place(index: TileIndex, row: np.ndarray, truth: Calibration, rng: np.random.Generator) -> Place:
    """The centre of a tile of the frontier, or nowhere, by their masses."""
    descent = descend(index, row, truth, K, "posterior", None)
    frontier = descent.frontier()
    chances = np.append(frontier.mass, descent.elsewhere)
    chosen = int(rng.choice(len(chances), p=chances / chances.sum()))
    if chosen == len(frontier.mass):
        return NOWHERE
    step = descent.steps[frontier.steps[chosen]]
    code = step.level.codes[step.rows[frontier.positions[chosen]]]
    lng, lat = centres_of_codes(np.array([code]), step.level.zoom)
    return float(lng[0]), float(lat[0])


def likelihoods(index: TileIndex, pictures: KnownPictures, calibration: Calibration) -> np.ndarray:
    """The frontier mass of where each picture is, (n,): found by walking the frontier, not by the fit's arithmetic."""
    found = []
    for row, lng, lat in zip(pictures.embeddings, pictures.lng, pictures.lat, strict=True):
        descent = descend(index, row, calibration, K, "posterior", None)
        found.append(descent.elsewhere if np.isnan(lng) else _mass_over(descent, lng, lat))
    return np.array(found)


def _mass_over(descent, lng: float, lat: float) -> float:
    frontier, total = descent.frontier(), 0.0
    for s, step in enumerate(descent.steps):
        wanted = codes_at(np.array([lng]), np.array([lat]), step.level.zoom)[0]
        here = frontier.steps == s
        total += frontier.mass[here][step.level.codes[step.rows[frontier.positions[here]]] == wanted].sum()
    return float(total) or descent.elsewhere


def confidences(index: TileIndex, pictures: KnownPictures, calibration: Calibration) -> tuple[np.ndarray, np.ndarray]:
    """Of the heaviest tile of the first zoom: its confidence, and whether the place lies in it; (n,) each."""
    confidence, right = [], []
    for row, lng, lat in zip(pictures.embeddings, pictures.lng, pictures.lat, strict=True):
        step = (descent := descend(index, row, calibration, K, "posterior", None)).steps[0]
        masses = descent.confidences()[0]
        confidence.append(masses.max())
        code = step.level.codes[step.rows[masses.argmax()]]
        right.append(not np.isnan(lng) and codes_at(np.array([lng]), np.array([lat]), step.level.zoom)[0] == code)
    return np.array(confidence), np.array(right)


@pytest.fixture(scope="module")
def pictures(index: TileIndex) -> KnownPictures:
    return drawn(index, TRUE, 600, 1)


@pytest.fixture(scope="module")
def fitted(index: TileIndex, pictures: KnownPictures) -> Calibration:
    return fit(index, pictures, K, elsewhere=True)


def test_the_numbers_of_one_zoom_come_back(flat: TileIndex) -> None:
    """Of one only: what a second zoom says of its parents changes shares that were fitted without it."""
    known = drawn(flat, TRUE, 1500, 6)
    assert 0.05 < np.isnan(known.lng).mean() < 0.6
    found, true = fit(flat, known, K, elsewhere=True).zooms[3], TRUE.zooms[3]
    assert found.tau == pytest.approx(true.tau, rel=0.1)
    assert found.b == pytest.approx(true.b, abs=0.4)
    assert found.gamma == 1  # there is one parent: nothing to weigh


@pytest.fixture(scope="module")
def holed(index: TileIndex) -> KnownPictures:
    """Some of whose places lie in tiles of the last zoom that are not covered: those are what its b is about."""
    known, rng = drawn(index, TRUE, 500, 7), np.random.default_rng(8)
    first, last = (level.codes for level in index.levels)
    codes = rng.choice(np.setdiff1d(children_of_codes(first, 2), last), 60)
    lng, lat = centres_of_codes(codes, 5)
    known.lng[:60], known.lat[:60] = lng, lat
    return known


@pytest.fixture(scope="module")
def best(index: TileIndex, holed: KnownPictures) -> tuple[Calibration, float]:
    """What was fitted, and the mean log-likelihood with it."""
    found = fit(index, holed, K, elsewhere=True)
    return found, float(np.log(likelihoods(index, holed, found)).mean())


@pytest.mark.parametrize(
    "change",
    [
        lambda n: replace(n, tau=n.tau * 1.15),
        lambda n: replace(n, tau=n.tau / 1.15),
        lambda n: replace(n, gamma=n.gamma + 0.2),
        lambda n: replace(n, gamma=n.gamma - 0.2),
        lambda n: replace(n, b=n.b + 0.5),
        lambda n: replace(n, b=n.b - 0.5),
    ],
    ids=["more tau", "less tau", "more gamma", "less gamma", "more b", "less b"],
)
def test_no_other_numbers_of_the_last_zoom_make_the_pictures_likelier(
    index: TileIndex, holed: KnownPictures, best: tuple[Calibration, float], change: Change
) -> None:
    """By the beam as it is served, which shares no arithmetic with the fit."""
    found, likelihood = best
    other = replace(found, zooms={**found.zooms, 5: change(found.zooms[5])})
    assert np.log(likelihoods(index, holed, other)).mean() < likelihood


def test_fresh_pictures_are_as_likely_as_by_the_true_numbers(index: TileIndex, fitted: Calibration) -> None:
    fresh = drawn(index, TRUE, 500, 2)
    nll = {
        name: -np.log(np.maximum(likelihoods(index, fresh, c), 1e-12)).mean()
        for name, c in (("fitted", fitted), ("true", TRUE), ("unfitted", Calibration()))
    }
    assert nll["fitted"] < nll["true"] + 0.05
    assert nll["fitted"] < nll["unfitted"] - 1


def test_confidences_mean_what_they_say(index: TileIndex, fitted: Calibration) -> None:
    fresh = drawn(index, TRUE, 800, 3)
    honest = reliability(*confidences(index, fresh, fitted))
    boasting = reliability(*confidences(index, fresh, Calibration()))
    assert honest.ece < 0.06 < 0.2 < boasting.ece
    assert honest.nll < boasting.nll


def test_what_it_was_fitted_at_is_written_down(index: TileIndex, fitted: Calibration, tmp_path: Path) -> None:
    manifest = index.manifest
    assert fitted.fits(K, [3, 5], manifest.coverage_hash, manifest.photo_encoder["fingerprint"])
    fitted.write(tmp_path)
    assert Calibration.read(tmp_path) == fitted


def test_without_elsewhere_b_stays_null_and_strangers_do_not_count(flat: TileIndex) -> None:
    known = drawn(flat, SURE, 1500, 4)
    found = fit(flat, known, K, elsewhere=False)
    strange = KnownPictures(
        np.concatenate([known.embeddings, known.embeddings[:200]]),
        np.concatenate([known.lng, np.full(200, np.nan)]),
        np.concatenate([known.lat, np.full(200, np.nan)]),
    )
    assert found.zooms[3].b is None
    assert found.zooms[3].tau == pytest.approx(SURE.zooms[3].tau, rel=0.1)
    assert fit(flat, strange, K, elsewhere=False).zooms[3].tau == pytest.approx(found.zooms[3].tau, rel=1e-3)


def test_a_zoom_that_too_few_pictures_reach_is_left_as_it_was(index: TileIndex) -> None:
    few = drawn(index, TRUE, 20, 5)
    assert dict(fit(index, few, K, elsewhere=True).zooms) == {}


def test_circles_hold_what_they_promise_once_fitted_to_what_users_see(index: TileIndex, fitted: Calibration) -> None:
    """On fresh pictures of the same kind; the coarse zoom's numbers stay as likelihood made them."""
    shown = as_shown(index, drawn(index, TRUE, 600, 5), fitted, K)
    assert shown.zooms[3] == fitted.zooms[3]
    factor = shown.extra["sharpened"]
    assert shown.zooms[5].tau == pytest.approx(fitted.zooms[5].tau / factor)
    fresh = drawn(index, TRUE, 600, 6)
    somewhere = np.isfinite(fresh.lng)
    for promised in ("50", "90"):
        held = np.mean([_held(index, fresh, i, shown, promised) for i in np.flatnonzero(somewhere)])
        assert held == pytest.approx(int(promised) / 100, abs=0.08)


def _held(index: TileIndex, pictures: KnownPictures, i: int, calibration: Calibration, promised: str) -> bool:
    descent = descend(index, pictures.embeddings[i], calibration, K, "posterior", None)
    support = Support.of(descent, None)
    place = next(places(descent, support, None))
    radius = radius_km(support, support.mass, support.total, place.vector, calibration.radius_share(promised))
    ends = (np.array([v]) for v in (place.lng, place.lat, pictures.lng[i], pictures.lat[i]))
    return bool(great_circle_km(*ends)[0] <= radius + 1e-6)
