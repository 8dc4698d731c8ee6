"""Acceptance: a logistic that is fitted, stored and applied."""

import numpy as np
import pytest

from retrieval.registration.accept import BUILT_IN, Acceptance, Features, fit_acceptance


def examples(n: int, seed: int) -> tuple[list[Features], np.ndarray]:
    """Right fits with margins around 0.2 and wrong ones around 0.02."""
    rng = np.random.default_rng(seed)
    right = rng.uniform(size=n) < 0.5
    margins = np.where(right, rng.normal(0.2, 0.06, n), np.abs(rng.normal(0.0, 0.02, n)))
    rows = [Features(float(rng.uniform(0.2, 0.6)), float(m), 1.0, -3.0) for m in margins]
    return rows, right


def test_fitted_probabilities_are_calibrated_on_other_examples() -> None:
    acceptance = fit_acceptance(*examples(800, 0))
    rows, right = examples(800, 1)
    p = np.array([acceptance.probability(row) for row in rows])
    assert p[right].mean() > 0.95
    assert p[~right].mean() < 0.05
    assert abs(p.mean() - right.mean()) < 0.03


def test_probability_grows_with_the_margin() -> None:
    acceptance = fit_acceptance(*examples(400, 0))
    p = [acceptance.probability(Features(0.4, margin, 1.0, -3.0)) for margin in (0.0, 0.05, 0.1, 0.3, 9.0)]
    assert p == sorted(p)


def test_default_accepts_by_margin_not_by_score() -> None:
    assert BUILT_IN.probability(Features(0.75, 0.005, 1.0, -1.0, 8.0, 0.02)) < BUILT_IN.threshold
    assert BUILT_IN.probability(Features(0.45, 0.2, 1.0, -6.0, 8.0, 0.02)) > BUILT_IN.threshold


def test_without_another_place_nothing_is_accepted() -> None:
    assert BUILT_IN.probability(Features(0.8, 0.0, 1.0, 0.0, 0.0, 0.0)) <= 0.5


def test_json_round_trip_and_unknown_names() -> None:
    acceptance = fit_acceptance(*examples(400, 0))
    assert Acceptance.from_json(acceptance.to_json()) == acceptance
    with pytest.raises(ValueError, match="fields"):
        Acceptance.from_json({"intercept": 1.0})
    with pytest.raises(ValueError, match="fields"):
        Acceptance.from_json({**acceptance.to_json(), "px": 1.0})


def test_a_margin_over_many_places_counts_more_once_that_is_fitted() -> None:
    rng = np.random.default_rng(0)
    jobs, margins = rng.uniform(0, 10, 800), rng.uniform(0, 0.3, 800)
    rows = [Features(0.4, float(m), 1.0, 0.0, float(j)) for m, j in zip(margins, jobs, strict=True)]
    fitted = fit_acceptance(rows, margins + 0.02 * jobs > 0.25)
    few, many = (fitted.probability(Features(0.4, 0.15, 1.0, 0.0, j)) for j in (1.0, 9.0))
    assert many > few + 0.3


def test_fit_needs_both_kinds() -> None:
    rows, _ = examples(10, 0)
    with pytest.raises(ValueError, match="0 of 10"):
        fit_acceptance(rows, np.zeros(10, dtype=bool))
