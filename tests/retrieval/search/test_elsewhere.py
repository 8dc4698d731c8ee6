"""The model of elsewhere: its features, its clipped odds, and the masses of a search with it."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.index.calibration import Calibration, ElsewhereNumbers, Feature
from retrieval.locator import BBox, LocateQuery, Locator
from retrieval.search.beam import features_of
from retrieval.search.elsewhere import CLIP, level_features, names, probability

FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
WEIGHTS = st.floats(-20, 20)


def test_features_equal_values_by_hand():
    cosines = np.array([0.5, 0.1, 0.3, -0.1], dtype=np.float32)
    mass = np.array([0.4, 0.2, 0.1, 0.1])  # sums to 0.8
    share = mass / 0.8
    deeper = {"best_6": 0.5, "top_6": 0.2, "entropy_6": -(share * np.log(share)).sum()}
    assert level_features(6, cosines, np.log(mass), first=False) == pytest.approx(deeper)
    first = deeper | {"mean_6": 0.2, "spread_6": math.sqrt(0.05)}
    assert level_features(6, cosines, np.log(mass), first=True) == pytest.approx(first)
    assert set(names([6, 8])) == {*first, "best_8", "top_8", "entropy_8"}


def test_top_feature_averages_sixteen_cosines():
    """So a wider beam, which adds poor candidates, does not change the feature."""
    cosines = np.linspace(-0.5, 0.5, 101, dtype=np.float32)
    found = level_features(8, cosines, np.zeros(101), first=False)
    assert found["top_8"] == pytest.approx(cosines[-16:].mean(), abs=1e-6)
    wider = np.concatenate([np.full(50, -0.6, dtype=np.float32), cosines])
    assert level_features(8, wider, np.zeros(151), first=False)["top_8"] == found["top_8"]


def test_underflowing_mass_adds_no_entropy():
    found = level_features(4, np.zeros(3, dtype=np.float32), np.array([0.0, -2000.0, -np.inf]), first=True)
    assert found == {"best_4": 0, "top_4": 0, "mean_4": 0, "spread_4": 0, "entropy_4": pytest.approx(0)}


def test_odds_sum_clipped_known_features():
    numbers = ElsewhereNumbers(0.5, {"a": Feature(1.0, 2.0, 3.0), "b": Feature(0.0, 1.0, -1.0)})
    assert probability(numbers, {"a": 2.0, "b": 0.7}) == pytest.approx(1 / (1 + math.exp(-(0.5 + 3 * 0.5 - 0.7))))
    assert probability(numbers, {"b": 0.7, "unheard of": 9.0}) == pytest.approx(1 / (1 + math.exp(0.2)))
    assert probability(numbers, {}) == pytest.approx(1 / (1 + math.exp(-0.5)))
    most = 1 / (1 + math.exp(-(0.5 - CLIP)))
    assert probability(numbers, {"b": CLIP}) == probability(numbers, {"b": 1e9}) == pytest.approx(most)
    assert probability(numbers, {"b": -1e9}) == pytest.approx(1 / (1 + math.exp(-(0.5 + CLIP))))


@pytest.mark.parametrize(("bias", "expected"), [(-1e6, 0.0), (-700.5, 0.0), (0.0, 0.5), (1e6, 1.0)])
def test_extreme_odds_do_not_overflow(bias, expected):
    assert probability(ElsewhereNumbers(bias, {}), {}) == expected


@FEW
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.sampled_from([1, 4, 64]),
    thinning=st.sampled_from([0.0, 0.8]),
    b=st.sampled_from([None, 0.5]),
    bias=st.sampled_from([-900.0, -2.0, 0.0, 3.0, 900.0]),
    weights=st.lists(WEIGHTS, min_size=11, max_size=11),
)
def test_masses_sum_to_one_with_elsewhere_model(fresh, make_case, seed, k, thinning, b, bias, weights):
    """With b at every level and the model at the end; descents that end early lack features."""
    case = make_case(seed, [2, 4, 6], tiles=60, thinning=thinning, b=b)
    features = {name: Feature(0.1, 0.3, weight) for name, weight in zip(names([2, 4, 6]), weights, strict=True)}
    plain, query = case.locator(fresh()), LocateQuery(k=k, alternatives=3)
    numbers = Calibration(case.calibration.zooms, elsewhere=ElsewhereNumbers(bias, features))
    weighed = Locator(plain.index, numbers, plain.encoder)
    before, after = (locator.descend(case.query, locator.plan(query)) for locator in (plain, weighed))
    nowhere = min(probability(numbers.elsewhere, features_of(before.steps)), 1 - 1e-9)
    assert after.elsewhere == pytest.approx(nowhere + (1 - nowhere) * before.elsewhere, rel=1e-9)
    assert after.frontier().mass == pytest.approx((1 - nowhere) * before.frontier().mass, rel=1e-6)
    assert math.fsum([*after.frontier().mass, after.elsewhere]) == pytest.approx(1, abs=1e-9)
    for one, other in zip(before.steps, after.steps, strict=True):
        assert one.rows[one.beam].tolist() == other.rows[other.beam].tolist()  # the search is the same
    answer = weighed.answer_of(after, weighed.plan(query))
    confidences = [level.confidence for level in answer.levels]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] + answer.elsewhere <= 1 + 1e-9
    assert (answer.radius_50_km is None) == (answer.radius_90_km is None) == (answer.elsewhere > 0.5)


def test_features_do_not_depend_on_elsewhere_model(fresh, make_case):
    """So a model can be fitted to descents with or without a model, and applied twice."""
    case = make_case(3, [2, 4, 6], tiles=60, b=None)
    locator = case.locator(fresh())
    weighed = Locator(
        locator.index, Calibration(case.calibration.zooms, elsewhere=ElsewhereNumbers(2.0, {})), locator.encoder
    )
    one, other = (features_of(v.descend(case.query, v.plan(LocateQuery())).steps) for v in (locator, weighed))
    assert one == pytest.approx(other, rel=1e-9, abs=1e-12)
    assert set(one) == set(names([2, 4, 6]))


def test_constraint_disables_elsewhere_model(fresh, make_case):
    case = make_case(5, [2, 4, 6], tiles=2000, thinning=0, holes=0, b=None)
    locator = case.locator(fresh())
    sceptic = Locator(
        locator.index, Calibration(case.calibration.zooms, elsewhere=ElsewhereNumbers(2.0, {})), locator.encoder
    )
    assert sceptic.locate(case.query[None], LocateQuery())[0].elsewhere == pytest.approx(1 / (1 + math.exp(-2)))
    boxed = LocateQuery(bbox=BBox(-30, -20, 75, 55))
    answers = [v.locate(case.query[None], boxed)[0].to_json() for v in (locator, sceptic)]
    assert answers[0]["elsewhere"] == answers[1]["elsewhere"] == 0
    assert [a | {"index": None} for a in answers[:1]] == [a | {"index": None} for a in answers[1:]]
