"""Figures, compared with values computed by hand."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.evaluation.bootstrap import Resamples, mean
from indexer.evaluation.metrics import (
    RiskCoverage,
    auroc,
    binned,
    expected_calibration_error,
    geoscore,
    reliability,
    risk_coverage,
)
from retrieval.sphere import EARTH_RADIUS_KM, great_circle_km

QUARTER = math.pi / 2 * EARTH_RADIUS_KM


def floats(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def bools(text: str) -> np.ndarray:
    """`101` to [True, False, True]."""
    return np.array([c == "1" for c in text])


@pytest.mark.parametrize(
    ("a", "b", "km"),
    [
        ((0, 0), (0, 0), 0),
        ((0, 0), (90, 0), QUARTER),
        ((0, 0), (180, 0), 2 * QUARTER),
        ((13, 90), (-150, -90), 2 * QUARTER),
        ((77, 90), (-20, 0), QUARTER),
        ((179.5, 0), (-179.5, 0), QUARTER / 90),
        ((0, 89.5), (180, 89.5), QUARTER / 90),
        ((-0.1278, 51.5074), (2.3522, 48.8566), 343.56),  # London to Paris
    ],
)
def test_great_circle(a: tuple[float, float], b: tuple[float, float], km: float) -> None:
    forth = great_circle_km(floats(a[0]), floats(a[1]), floats(b[0]), floats(b[1]))
    back = great_circle_km(floats(b[0]), floats(b[1]), floats(a[0]), floats(a[1]))
    assert forth == pytest.approx(km, rel=1e-4, abs=1e-6)
    assert back == pytest.approx(forth)


@given(st.floats(-180, 180), st.floats(-90, 90))
def test_antipodes_are_half_the_world_apart_and_never_nan(lng: float, lat: float) -> None:
    km = great_circle_km(floats(lng), floats(lat), floats(lng + 180), floats(-lat))
    assert km == pytest.approx(2 * QUARTER, rel=1e-6)


def test_ece_by_hand() -> None:
    # Two bins: of [0.1, 0.3] half are right, of [0.9, 0.9] all: (2 |0.5 - 0.2| + 2 |1 - 0.9|) / 4.
    assert expected_calibration_error(floats(0.1, 0.3, 0.9, 0.9), bools("0111"), 2) == pytest.approx(0.2)


def test_ece_accepts_confidences_of_0_and_1() -> None:
    assert expected_calibration_error(floats(0, 1, 1, 1), bools("0111")) == 0
    assert expected_calibration_error(floats(0, 1), bools("10")) == 1


def test_ece_is_small_for_calibrated_confidences_only() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(size=20000)
    right = rng.uniform(size=20000) < confidence
    assert expected_calibration_error(confidence, right) < 0.02
    assert expected_calibration_error(confidence**0.25, right) == pytest.approx(0.8 - 0.5, abs=0.02)


@pytest.mark.parametrize(
    ("score", "positive", "area"),
    [
        ((0.1, 0.2, 0.8, 0.9), "0011", 1.0),
        ((0.9, 0.8, 0.2, 0.1), "0011", 0.0),
        ((0.1, 0.4, 0.35, 0.8), "0011", 0.75),  # one of four pairs is in the wrong order
        ((0.5, 0.5, 0.5), "010", 0.5),
        ((0.5, 0.5, 0.7), "011", 0.75),  # one pair of two is tied
    ],
)
def test_auroc_by_hand(score: tuple[float, ...], positive: str, area: float) -> None:
    assert auroc(floats(*score), bools(positive)) == pytest.approx(area)


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=40))
def test_auroc_equals_share_of_ordered_pairs(pairs: list[tuple[int, bool]]) -> None:
    score, positive = floats(*(s for s, _ in pairs)), np.array([p for _, p in pairs])
    right, wrong = score[positive], score[~positive]
    if not len(right) or not len(wrong):
        assert math.isnan(auroc(score, positive))
        return
    won = (right[:, None] > wrong[None, :]).mean() + (right[:, None] == wrong[None, :]).mean() / 2
    assert auroc(score, positive) == pytest.approx(won)


def test_reliability_by_hand() -> None:
    figures = reliability(floats(0.8, 0.6, 0.5), bools("101"))
    assert figures.nll == pytest.approx(-(math.log(0.8) + math.log(0.4) + math.log(0.5)) / 3)
    assert figures.brier == pytest.approx((0.04 + 0.36 + 0.25) / 3)
    assert (figures.accuracy, figures.confidence) == pytest.approx((2 / 3, 1.9 / 3))
    assert figures.auroc == 0.5


def test_wrong_certainty_has_a_large_but_finite_loss() -> None:
    assert 10 < reliability(floats(1.0, 0.0), bools("01")).nll < 20


def test_geoscore_by_hand() -> None:
    assert geoscore(floats(0, 1492.7, 2 * 1492.7)) == pytest.approx([5000, 5000 / math.e, 5000 / math.e**2])


def test_bins_sum_to_the_calibration_error() -> None:
    rng = np.random.default_rng(1)
    confidence = rng.uniform(size=500) ** 2
    right = rng.uniform(size=500) < confidence
    bins = binned(confidence, right, 7)
    gap = (np.abs(bins.accuracy - bins.confidence) * bins.count).sum() / 500
    assert bins.count.sum() == 500
    assert gap == pytest.approx(expected_calibration_error(confidence, right, 7))


def test_risk_coverage_by_hand() -> None:
    curve = risk_coverage(floats(0.9, 0.1, 0.8, 0.4), bools("0101"))
    assert curve.coverage == pytest.approx([0.25, 0.5, 0.75, 1])
    assert curve.risk == pytest.approx([0, 0, 1 / 3, 2 / 4])
    assert curve.aurc == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=30), st.randoms())
def test_order_of_equal_scores_does_not_matter(pairs: list[tuple[int, bool]], random: Random) -> None:
    def curve_of(pairs: list[tuple[int, bool]]) -> RiskCoverage:
        return risk_coverage(floats(*(s for s, _ in pairs)), np.array([w for _, w in pairs]))

    curve = curve_of(pairs)
    assert curve.risk[-1] == pytest.approx(np.mean([w for _, w in pairs]))
    random.shuffle(pairs)
    assert curve_of(pairs).risk == pytest.approx(curve.risk)


def test_interval_coverage_is_near_its_level() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(200):
        values = rng.normal(3, 1, 60)
        figure = Resamples(60, 200, int(rng.integers(2**31))).figures({"mean": mean(values)})["mean"]
        hits += figure.low <= 3 <= figure.high
    assert 0.88 <= hits / 200 <= 0.98
