"""Registration on an Earth of noise: what it finds, what it refuses, and when it stops."""

import numpy as np
import pytest
from noise_earth import NoiseEarth, picture_of

from retrieval.registration.canvases import CanvasCache
from retrieval.registration.geometry import CORNERS, Frame
from retrieval.registration.jobs import jobs_near
from retrieval.registration.registration import Candidate, Effort, Hints, Registration, register, register_anywhere
from retrieval.search.deadline import Deadline
from retrieval.sphere import great_circle_km

EARTH = NoiseEarth()
CACHE = CanvasCache(EARTH, 100_000_000)
QUICK = Effort(px=16, turns=24, aligned=10, refined=3, tilted=1)
HINTS = Hints(edges_km=(600.0, 900.0))
ELSEWHERE = Candidate(-60, -20)


def corner_error_px(result: Registration, truth: Frame, px: int) -> float:
    """The largest distance of a corner from the truth, in pixels of the picture."""
    assert result.frame is not None
    away = great_circle_km(*result.frame.ground(*CORNERS.T), *truth.ground(*CORNERS.T))
    return float(away.max() / truth.edge_km * px)


@pytest.mark.parametrize(
    ("lng", "lat", "edge", "heading"),
    [(10, 20, 700, 0), (-75, 48, 640, 137), (179.6, -30, 830, -100), (25, 61, 660, 45), (100, -5, 888, 179)],
)
def test_same_imagery_is_registered_within_a_pixel(lng: float, lat: float, edge: float, heading: float) -> None:
    truth = Frame.upright(lng, lat, edge, heading)
    near = Candidate(lng + 1.2, lat - 0.9)
    result = register(picture_of(EARTH, truth), [ELSEWHERE, near], CACHE, HINTS, QUICK)
    assert result.accepted
    assert result.reason is None
    assert corner_error_px(result, truth, 128) < 1.0
    assert result.features is not None
    assert result.features.margin > 0.3


def test_inverted_colours_are_registered_too() -> None:
    truth = Frame.upright(30, 40, 700, 20)
    result = register(255 - picture_of(EARTH, truth), [Candidate(31, 40)], CACHE, HINTS, QUICK)
    assert result.accepted
    assert corner_error_px(result, truth, 128) < 1.0


def test_tilted_picture_gets_a_homography() -> None:
    upright = Frame.upright(30, 40, 700, 20)
    truth = Frame(30, 40, upright.matrix @ np.array([[1, 0, 0], [0, 1.1, 0], [0, -0.25, 1.0]]))
    result = register(picture_of(EARTH, truth), [Candidate(31, 40)], CACHE, HINTS, QUICK)
    assert result.frame is not None
    assert result.method == "homography"
    assert corner_error_px(result, truth, 128) < 3.0


def test_wide_picture_reports_the_width_and_corners_of_all_of_it() -> None:
    square = picture_of(EARTH, truth := Frame.upright(30, 40, 700, 20), 128)
    result = register(square[32:96], [Candidate(31, 40)], CACHE, Hints(width_km=700), QUICK)
    assert result.frame is not None
    assert result.frame.edge_km == pytest.approx(350, rel=0.02)
    assert result.width_km == pytest.approx(700, rel=0.02)
    expected = truth.ground(np.array([-0.5, 0.5]), np.array([-0.25, -0.25]))
    assert great_circle_km(*np.array(result.corners[:2]).T, *expected).max() < 10


def test_removed_place_is_not_accepted() -> None:
    truth = Frame.upright(30, 40, 700, 20)
    without = CanvasCache(NoiseEarth(removed=(30, 40, 560)), 0)
    result = register(picture_of(EARTH, truth), [Candidate(30, 40), ELSEWHERE], without, HINTS, QUICK)
    assert not result.accepted
    assert result.reason is not None
    assert result.to_json()["accepted"] is False


@pytest.mark.parametrize("shape", [(1, 1), (3, 500), (64, 64)])
def test_picture_without_edges_gets_a_reason(shape: tuple[int, int]) -> None:
    result = register(np.full((*shape, 3), 90, dtype=np.uint8), [Candidate(0, 0)], CACHE, HINTS, QUICK)
    assert result.frame is None
    assert result.reason == "the picture shows no edges"
    assert result.corners == []
    assert result.control_points == ()


def test_without_candidates_there_is_a_reason() -> None:
    result = register(picture_of(EARTH, Frame.upright(0, 0, 700)), [], CACHE, HINTS, QUICK)
    assert result.frame is None
    assert result.reason is not None
    assert result.reason.startswith("there is no candidate place")


def test_search_stops_at_the_deadline_with_what_it_has() -> None:
    truth = Frame.upright(30, 40, 700, 20)
    drawn = CanvasCache(EARTH, 100_000_000)
    many = [Candidate(30, 40)] + [Candidate(lng, -20) for lng in range(-180, 180, 5)]
    result = register(picture_of(EARTH, truth), many, drawn, HINTS, QUICK, deadline=Deadline.after(-1))
    assert not result.finished
    assert result.frame is not None
    assert len(drawn) == 1  # one canvas, not those of 73 candidates


def test_heading_limits_the_turns_and_width_the_scales() -> None:
    free = jobs_near([Candidate(0, 0)], Hints(), Effort(turns=36), 1.0)
    limited = jobs_near([Candidate(0, 0)], Hints(width_km=500, heading=-5), Effort(turns=36), 1.0)
    assert {len(turns) for _, turns in free} == {36}
    assert sorted(limited[0][1].tolist()) == [0, 1, 34, 35]
    assert {cell.scale for cell, _ in limited} < {cell.scale for cell, _ in free}
    assert all(0.89 < cell.edge_km / 500 < 1.13 for cell, _ in limited)


@pytest.mark.parametrize("width_km", [120.0, 137.0, 500.0, 2700.0])
def test_every_width_has_a_scale(width_km: float) -> None:
    assert jobs_near([Candidate(0, 0)], Hints(width_km=width_km), Effort(), 1.0)


def test_turns_of_candidates_at_one_place_are_united() -> None:
    here = [Candidate(5, 5, heading=0.0), Candidate(5, 5, heading=180.0)]
    (_, turns), *_ = jobs_near(here, Hints(width_km=500), Effort(turns=36), 1.0)
    assert {0, 18} <= set(turns.tolist())
    assert 9 not in turns


def test_one_fit_alone_is_never_accepted() -> None:
    picture = picture_of(EARTH, Frame.upright(30, 40, 700, 20))
    alone = Effort(px=16, turns=24, aligned=1, refined=1, tilted=0)
    result = register(picture, [Candidate(30, 40)], CACHE, HINTS, alone)
    assert result.features is not None
    assert result.features.margin == 0
    assert not result.accepted


def test_place_is_found_without_candidates() -> None:
    truth = Frame.upright(30, 40, 700, 20)
    hints = Hints(width_km=700, heading=25)
    result = register_anywhere(picture_of(EARTH, truth), lambda lng, lat: lat > 30, CACHE, hints, QUICK)
    assert result.accepted
    assert corner_error_px(result, truth, 128) < 1.0


def test_registration_as_json_has_the_contract_s_fields() -> None:
    truth = Frame.upright(179.6, -30, 830, -100)
    answer = register(picture_of(EARTH, truth), [Candidate(179, -30)], CACHE, HINTS, QUICK).to_json()
    assert set(answer) == {
        "accepted", "probability", "method", "score", "margin", "lat", "lon", "width_km", "heading_deg", "footprint",
        "gcps", "homography", "residual_km", "reason",
    }  # fmt: skip
    assert answer["footprint"]["type"] == "MultiPolygon"
    assert answer["gcps"][0]["x"] == answer["gcps"][0]["y"] == 0
    assert 0 <= answer["residual_km"] < 830 / 64
