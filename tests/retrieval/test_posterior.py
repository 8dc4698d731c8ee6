"""The mathematics alone: division of mass, its prior term, and the choice of the best."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.retrieval.calibration import ZoomNumbers
from indexer.retrieval.posterior import best, log_sum_exp, share


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.integers(1, 70))
def test_best_is_a_stable_sort_that_keeps_row_order(values, k):
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
)
def test_mass_is_divided_and_none_is_lost(seed, tau, gamma, b, scale):
    rng = np.random.default_rng(seed)
    parents, children = rng.integers(1, 9), rng.integers(1, 50)
    log_mass = scale - rng.exponential(5, parents)
    similarities = rng.uniform(-1, 1, children).astype(np.float32)
    shares = share(log_mass, rng.integers(0, parents, children), similarities, ZoomNumbers(tau, gamma, b))
    total = log_sum_exp(log_mass)
    assert math.exp(log_sum_exp(shares.log_mass) - total) + shares.elsewhere / math.exp(total) == pytest.approx(1)


def test_the_formula_by_hand():
    """Two parents with 0.6 and 0.2 of the mass, gamma 2, lambda 0.5, b = 0: the design's formula, written out."""
    log_mass, slots = np.log([0.6, 0.2]), np.array([0, 0, 1])
    cosines, gain = np.array([0.5, 0.1, 0.4], dtype=np.float32), np.array([0.3, -0.2, 1.0])
    shares = share(log_mass, slots, cosines, ZoomNumbers(0.2, 2.0, 0.0, 0.5), gain)
    parent = np.array([0.6, 0.6, 0.2]) / 0.8
    weights = parent**2 * np.exp(cosines.astype(float) / 0.2 + 0.5 * gain)
    assert np.exp(shares.log_mass) == pytest.approx(0.8 * weights / (1 + weights.sum()))
    assert shares.elsewhere == pytest.approx(0.8 / (1 + weights.sum()))
