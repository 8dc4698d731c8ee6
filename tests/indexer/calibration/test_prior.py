"""Fitting lambda: it is recovered if places were drawn with the prior, and is 0 for an uninformative prior."""

import numpy as np
import pytest
import torch
from drawn_places import DIM, K, drawn
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.support.noise_prior import NoisePrior
from indexer.calibration.cases import Case, Chunk, cases_of, chunks_of
from indexer.calibration.fit import fit_numbers, fit_zooms
from indexer.calibration.likelihood import Free, log_posterior, negative_log_likelihood
from indexer.photos.embed import KnownPictures
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.reader import TileIndex
from retrieval.search.beam import descend
from retrieval.search.plan import SearchPlan
from retrieval.search.posterior import share
from retrieval.testing.fake import unit_rows
from tile_cache.addressing import centres_of_codes

TRUTH = Calibration({3: ZoomNumbers(0.15, lam=0.8), 5: ZoomNumbers(0.2, 0.8, lam=0.5)}, k=K)


def case(rng: np.random.Generator) -> Case:
    parents, more = rng.integers(1, 9), rng.integers(0, 40)
    slots = np.sort(np.concatenate([np.arange(parents), rng.integers(0, parents, more)]))
    similarities, around = rng.uniform(-1, 1, (2, len(slots))).astype(np.float32)
    gains = rng.normal(-3, 2, len(slots))
    return Case(-rng.exponential(4, parents), slots, similarities, around, int(rng.integers(len(slots))), gains)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0, 3), st.floats(-1, 3), st.floats(0, 2))
def test_likelihood_with_a_prior_equals_the_served_posterior(seed: int, lam: float, gamma: float, rho: float) -> None:
    rng = np.random.default_rng(seed)
    cases = [case(rng) for _ in range(4)]
    numbers = ZoomNumbers(0.1, gamma, lam=lam, rho=rho)
    chunk, free = Chunk.of(cases), Free.start(numbers, neighbours=False, prior=True)
    assert free.numbers(numbers).lam == pytest.approx(lam)
    found = (log_posterior(chunk, free) + chunk.log_total[:, None]).detach().numpy()
    for row, c in zip(found, cases, strict=True):
        expected = share(c.log_mass, c.slots, c.similarities, numbers, c.gains).log_mass
        assert row[: len(c.slots)] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_gradient_of_lambda_equals_finite_differences() -> None:
    rng = np.random.default_rng(1)
    chunk = Chunk.of([case(rng) for _ in range(20)])
    free = Free.start(ZoomNumbers(0.3, 0.8, lam=0.7, rho=0.6), neighbours=False, prior=True)
    torch.autograd.backward(negative_log_likelihood(chunk, free))
    root = free.lam_root
    assert root is not None
    with torch.no_grad():
        values = []
        for step in (1e-5, -1e-5):
            root += step
            values.append(float(negative_log_likelihood(chunk, free)))
            root -= step
    assert float(root.grad) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def drawn_under_prior(index: TileIndex, truth: Calibration, n: int, seed: int, k: int) -> KnownPictures:
    """Random embeddings, at places drawn from their posterior under the noise prior, which is informative here."""
    rng = np.random.default_rng(seed)
    rows = unit_rows(rng.standard_normal((n, DIM)))
    places = []
    for row, belief in zip(rows, NoisePrior().beliefs(rows), strict=True):
        descent = descend(index, row, SearchPlan(truth, k=k), belief)
        frontier = descent.frontier()
        chosen = int(rng.choice(len(frontier.mass), p=frontier.mass / frontier.mass.sum()))
        step = descent.steps[frontier.steps[chosen]]
        code = step.level.codes[step.rows[frontier.positions[chosen]]]
        lng, lat = centres_of_codes(np.array([code]), step.level.zoom)
        places.append((float(lng[0]), float(lat[0])))
    lng, lat = np.array(places).T
    return KnownPictures(rows, lng, lat).under(NoisePrior())


def test_the_weight_of_a_prior_that_is_right_comes_back(flat: TileIndex) -> None:
    truth = Calibration({3: ZoomNumbers(0.15, lam=0.8)})
    found = fit_zooms(flat, drawn_under_prior(flat, truth, 700, 3, K), K).zooms[3]
    assert found.lam == pytest.approx(0.8, abs=0.12)
    assert found.tau == pytest.approx(0.15, rel=0.12)


def test_the_weight_at_a_second_zoom_comes_back(dense: TileIndex) -> None:
    """Under the true numbers of the first, as in `test_fit`."""
    known = drawn_under_prior(dense, TRUTH, 900, 3, 24)
    found = fit_numbers(chunks_of(cases_of(dense, known, TRUTH, 24, 1)))
    assert found.lam == pytest.approx(0.5, abs=0.12)
    assert found.tau == pytest.approx(0.2, rel=0.12)


def test_noise_prior_gets_weight_0_and_changes_nothing(dense: TileIndex) -> None:
    known = drawn(dense, Calibration({3: ZoomNumbers(0.12), 5: ZoomNumbers(0.15, 0.7)}, k=K), 400, 5)
    plain, noisy = fit_zooms(dense, known, K), fit_zooms(dense, known.under(NoisePrior()), K)
    assert [n.lam for n in noisy.zooms.values()] == [0, 0]
    assert noisy.zooms == plain.zooms
