"""Pictures without an answer: which ones count, and their figures, by hand."""

import numpy as np
import pytest

from indexer.evaluation.bootstrap import Resamples
from indexer.evaluation.figures import answerable, doubt, wrong
from indexer.evaluation.outcomes import Outcomes, ZoomOutcomes


def outcomes(km: list[float], elsewhere: list[float], confidence: list[float]) -> Outcomes:
    n = len(km)
    nothing = np.zeros(n)
    flags, reached = np.zeros(n, dtype=bool), np.ones(n, dtype=bool)
    zoom = ZoomOutcomes(4, flags, flags, flags, reached, flags, np.array(confidence))
    return Outcomes(
        lng=nothing,
        lat=nothing,
        km=np.array(km),
        elsewhere=np.array(elsewhere),
        radius_50_km=nothing,
        radius_90_km=nothing,
        seconds=nothing,
        tiles=np.zeros(n, dtype=np.uint64),
        depth=np.full(n, 4),
        calibrated=flags,
        zooms=(zoom,),
    )


INSIDE = outcomes([10, 900, 20, 30], [0.1, 0.2, 0.3, 0.4], [0.9, 0.7, 0.6, 0.5])


def test_doubt_and_wrong() -> None:
    assert doubt(INSIDE) == pytest.approx([1 - 0.9 * 0.9, 1 - 0.8 * 0.7, 1 - 0.7 * 0.6, 1 - 0.6 * 0.5])
    assert wrong(outcomes([750, 750.1, np.nan], [0] * 3, [1] * 3)).tolist() == [False, True, True]


def test_families_of_no_place_and_foreign_renditions() -> None:
    nan = np.nan
    outside = outcomes([nan, nan, 3000, 5, 800], [0.9, 0.25, 0.35, 0.0, 0.05], [0.1, 0.5, 0.5, 0.9, 0.9])
    families = np.array(["noise", "noise", "drawn", "drawn", "drawn"])
    result = answerable(INSIDE, outside, families, Resamples(4, 20))
    assert list(result.families) == ["drawn", "noise"]
    noise, drawn = result.families["noise"], result.families["drawn"]
    assert (noise.pictures, noise.placed, noise.not_answerable) == (2, 0, 2)
    assert (drawn.pictures, drawn.placed, drawn.not_answerable) == (3, 3, 2)  # 5 km off counts as answered
    assert noise.elsewhere.value == pytest.approx((4 + 2) / 8)  # 0.9 is higher than all four, 0.25 than two
    assert drawn.elsewhere.value == pytest.approx((3 + 0) / 8)
    assert result.groups["no place"] == noise
    assert result.groups["foreign, answered wrongly"] == drawn
    assert result.groups["all"].elsewhere.value == pytest.approx((6 + 3) / 16)
    # Highest score first: 0.9 (5 km, right), 0.855 (800, wrong), 0.81 (10, right), 0.56 (900, wrong), ...
    assert result.risk.at[1.0] == pytest.approx(5 / 9)
    assert len(result.risk.score) == len(result.risk.wrong) == 9


def test_group_all_is_omitted_if_there_is_one_group() -> None:
    result = answerable(INSIDE, outcomes([np.nan], [0.5], [0.1]), np.array(["noise"]), Resamples(4, 5))
    assert list(result.groups) == ["no place"]
    right = answerable(INSIDE, outcomes([1.0], [0.5], [0.1]), np.array(["drawn"]), Resamples(4, 5))
    assert list(right.groups) == ["foreign, answered wrongly"]
    assert np.isnan(right.groups["foreign, answered wrongly"].elsewhere.value)
