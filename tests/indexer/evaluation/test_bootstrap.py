"""Statistics of counts, compared with NumPy on the resampled arrays."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.evaluation.bootstrap import Resamples, area_under_roc, calibration_error, difference, mean, median
from indexer.evaluation.metrics import auroc, expected_calibration_error


@given(n=st.integers(1, 25), seed=st.integers(0, 999))
def test_statistics_of_counts_equal_those_of_drawn_arrays(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, n, (4, n))
    counts = np.stack([np.bincount(d, minlength=n) for d in drawn]).astype(float)
    km, confidence = rng.integers(0, 9, n).astype(float), rng.uniform(size=n)
    right, among = rng.uniform(size=n) < 0.5, rng.uniform(size=n) < 0.7
    for b, d in enumerate(drawn):
        assert mean(km).of(counts)[b] == pytest.approx(km[d].mean())
        assert median(km).of(counts)[b] == pytest.approx(np.median(km[d]))
        assert area_under_roc(km, right).of(counts)[b] == pytest.approx(auroc(km[d], right[d]), nan_ok=True)
        d = d[among[d]]
        statistics = [mean(km, among), calibration_error(confidence, right, among), area_under_roc(km, right, among)]
        values = [statistic.of(counts)[b] for statistic in statistics]
        if len(d):
            expected = [km[d].mean(), expected_calibration_error(confidence[d], right[d]), auroc(km[d], right[d])]
            assert values == pytest.approx(expected, nan_ok=True)
        else:
            assert np.isnan(values).all()


def test_intervals_are_seeded_paired_and_of_the_right_width() -> None:
    values = np.random.default_rng(0).normal(0, 1, 2000)
    resamples = Resamples(2000, 1000, seed=3)
    first = resamples.figures({"mean": mean(values), "shifted": difference(mean(values + 5), mean(values))})
    assert first == resamples.figures({"mean": mean(values), "shifted": difference(mean(values + 5), mean(values))})
    assert first != Resamples(2000, 1000, seed=4).figures({"mean": mean(values)})
    value, low, high = first["mean"]
    assert low < value < high
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.12)
    assert first["shifted"] == pytest.approx((5, 5, 5))


def test_interval_of_a_calibration_error_contains_it() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(size=600)
    right = rng.uniform(size=600) < confidence
    figure = Resamples(600).figures({"ece": calibration_error(confidence, right, np.ones(600, bool))})["ece"]
    assert 0 <= figure.low < figure.value < figure.high < 0.1


def test_no_resamples_or_no_values_give_nan() -> None:
    assert np.isnan(Resamples(5, 0).figures({"m": mean(np.ones(5))})["m"][1:]).all()
    empty = Resamples(5, 10).figures({"m": mean(np.ones(5), np.zeros(5, bool))})["m"]
    assert np.isnan(empty).all()
