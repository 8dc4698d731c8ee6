"""Division of mass, with and without a prior, and the choice of the k best."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index.calibration import ZoomNumbers
from retrieval.search.posterior import best, log_sum_exp, share


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.integers(1, 70))
def test_best_equals_a_stable_sort(values, k):
    scores = np.array(values, dtype=np.float32)
    expected = sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:k])
    assert best(scores, k).tolist() == expected


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(1e-4, 10),
    st.floats(0, 3),
    st.none() | st.floats(-50, 50),
    st.floats(-600, 0),
    st.floats(0, 2),
)
def test_shares_sum_to_the_parents_mass(seed, tau, gamma, b, scale, rho):
    rng = np.random.default_rng(seed)
    parents, children = rng.integers(1, 9), rng.integers(1, 50)
    log_mass = scale - rng.exponential(5, parents)
    slots = np.sort(np.concatenate([np.arange(parents), rng.integers(0, parents, children)]))
    similarities = rng.uniform(-1, 1, len(slots)).astype(np.float32)
    shares = share(log_mass, slots, similarities, ZoomNumbers(tau, gamma, b, rho=rho))
    total = log_sum_exp(log_mass)
    assert math.exp(log_sum_exp(shares.log_mass) - total) + shares.elsewhere / math.exp(total) == pytest.approx(1)


def test_share_equals_formula_by_hand():
    """Two parents with 0.6 and 0.2 of the mass, gamma 2, lambda 0.5, b = 0: the formula written out."""
    log_mass, slots = np.log([0.6, 0.2]), np.array([0, 0, 1])
    cosines, gain = np.array([0.5, 0.1, 0.4], dtype=np.float32), np.array([0.3, -0.2, 1.0])
    shares = share(log_mass, slots, cosines, ZoomNumbers(0.2, 2.0, 0.0, 0.5), gain)
    parent = np.array([0.6, 0.6, 0.2]) / 0.8
    weights = parent**2 * np.exp(cosines.astype(float) / 0.2 + 0.5 * gain)
    assert np.exp(shares.log_mass) == pytest.approx(0.8 * weights / (1 + weights.sum()))
    assert shares.elsewhere == pytest.approx(0.8 / (1 + weights.sum()))


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 1), st.floats(0, 2), st.floats(0, 2))
def test_nested_logit_divides_in_two_steps(seed, tau, gamma, rho):
    """Mass among parents by P(p)^gamma * (sum of exp s / tau)^rho, then among a parent's children by exp s / tau."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 17, rng.integers(2, 9))
    slots = np.arange(len(counts)).repeat(counts)
    log_mass, similarities = -rng.exponential(2, len(counts)), rng.uniform(-1, 1, len(slots)).astype(np.float32)
    odds = np.exp(similarities.astype(float) / tau)
    within = np.bincount(slots, odds)
    parents = np.exp(log_mass) ** gamma * within**rho
    expected = np.exp(log_mass).sum() * parents[slots] / parents.sum() * odds / within[slots]
    found = share(log_mass, slots, similarities, ZoomNumbers(tau, gamma, rho=rho))
    assert np.exp(found.log_mass) == pytest.approx(expected, rel=1e-6)
