"""A search in stages: nothing is computed twice, and the stages together find what one search finds."""

from collections.abc import Sequence

import numpy as np
from noise_earth import NoiseEarth, picture_of
from numpy.typing import NDArray

from retrieval.registration.canvases import CanvasCache
from retrieval.registration.fields import Layer
from retrieval.registration.geometry import Frame
from retrieval.registration.registration import Candidate, Effort, Hints, Search
from retrieval.search.deadline import Deadline

EARTH = NoiseEarth()
CACHE = CanvasCache(EARTH, 100_000_000)
QUICK = Effort(px=16, turns=24, aligned=10, refined=3, tilted=0)
HINTS = Hints(edges_km=(600.0, 900.0))
TRUTH = Frame.upright(30, 40, 700, 200)


class CountingEarth:
    """The noise, and how often it was drawn."""

    identity = "counting"

    def __init__(self) -> None:
        self.drawings = 0

    def layers(self, lng: NDArray[np.float64], lat: NDArray[np.float64], pixel_km: float) -> Sequence[Layer]:
        self.drawings += 1
        return EARTH.layers(lng, lat, pixel_km)


def search(cache: CanvasCache = CACHE) -> Search:
    return Search(picture_of(EARTH, TRUTH), cache, HINTS, QUICK)


def test_later_stages_find_what_the_first_did_not() -> None:
    stages = search().near([Candidate(-60, -20), Candidate(31, 40, heading=0.0)])
    assert not stages.result().accepted
    result = stages.near([Candidate(31, 40, heading=180.0)]).result()
    assert result.accepted
    assert result.frame is not None
    assert abs(result.frame.lng - 30) < 0.1
    assert abs(result.frame.heading + 160) < 1


def test_all_land_goes_on_from_the_candidates() -> None:
    stages = search().near([Candidate(-60, -20)])
    few = stages.job_count
    result = stages.anywhere(lambda lng, lat: (lat > 30) & (abs(lng - 30) < 40)).result()
    assert result.accepted
    assert stages.job_count > few
    assert result.features is not None
    assert result.features.log_jobs == np.log(stages.job_count)
    assert result.residual_km is not None
    assert result.frame is not None
    assert result.features.residual == result.residual_km / result.frame.edge_km


def test_a_stage_does_not_repeat_what_was_done() -> None:
    earth = CountingEarth()
    places = [Candidate(31, 40, heading=0.0), Candidate(31, 40, heading=180.0)]
    stages = search(CanvasCache(earth, 0)).near(places)
    once, before = earth.drawings, stages.job_count
    stages.near(places)
    assert earth.drawings == once
    assert stages.job_count == before
    stages.near([Candidate(31, 40)])  # the other turns
    assert stages.job_count > before
    assert earth.drawings > once


def test_two_stages_find_what_one_finds() -> None:
    places = [Candidate(-60, -20), Candidate(31, 40)]
    together, apart = search().near(places).result(), search().near(places[:1]).near(places[1:]).result()
    assert together.frame is not None
    assert apart.frame is not None
    assert np.allclose(together.frame.matrix, apart.frame.matrix)
    assert together.features is not None
    assert apart.features is not None
    assert apart.features.margin <= together.features.margin + 1e-6


def test_a_stage_that_was_ended_can_be_repeated() -> None:
    many = [Candidate(lng, -20) for lng in range(-180, 180, 30)] + [Candidate(31, 40)]
    stages = search().near(many, Deadline.after(-1))
    assert not stages.result().finished
    assert not stages.result().accepted
    assert stages.near(many).result().accepted


def test_a_search_without_places_says_so() -> None:
    reason = search().result().reason
    assert reason is not None
    assert reason.startswith("there is no candidate place")
