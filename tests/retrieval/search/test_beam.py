"""Beam and frontier posterior against brute force: random pyramids, holes, thinned coverage, any steps, ties."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.errors import QueryError
from retrieval.locator import BBox, LocateQuery
from retrieval.search.posterior import share
from tile_cache.addressing import morton_decode

SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
FEW = settings(SETTINGS, max_examples=15)
SEEDS = st.integers(0, 2**32 - 1)


@st.composite
def zoom_lists(draw):
    zooms = [draw(st.integers(0, 4))]
    for step in draw(st.lists(st.integers(1, 4), max_size=4)):
        zooms.append(zooms[-1] + step)
    return zooms


@st.composite
def boxes(draw):
    """Boxes with edges in steps of 0.1 degrees plus an offset, so that none lies on a tile's edge."""
    west, east = (draw(st.integers(-1799, 1798)) / 10 + off for off in (0.0123, 0.0345))
    south, north = sorted(draw(st.integers(-849, 848)) / 10 + off for off in (0.0123, 0.0345))
    return BBox(west, south, east, north)


@SETTINGS
@given(
    seed=SEEDS,
    zooms=zoom_lists(),
    k=st.sampled_from([1, 2, 5, 20, 64, 1024]),
    scoring=st.sampled_from(["posterior", "paper"]),
    thinning=st.sampled_from([0.0, 0.3, 0.8]),
    holes=st.sampled_from([0.0, 0.2, 0.6]),
    b=st.sampled_from([None, 0.5]),
    rho=st.sampled_from([1.0, 0.37, 1.43]),
    shard_parents=st.sampled_from([None, 20]),
    bbox=st.none() | boxes(),
)
def test_descent_equals_brute_force(
    fresh, make_case, brute_force, seed, zooms, k, scoring, thinning, holes, b, rho, shard_parents, bbox
):
    case = make_case(seed, zooms, tiles=60, thinning=thinning, holes=holes, b=b, rho=rho)
    expected = brute_force(case, k, scoring, bbox)
    locator = case.locator(fresh(), shard_parents=shard_parents)
    query = LocateQuery(k=k, scoring=scoring, bbox=bbox)
    if not expected.beams:
        with pytest.raises(QueryError, match="covers no indexed tile" if bbox else "no vector"):
            locator.locate(case.query[None], query)
        return
    descent = locator.descend(case.query, locator.plan(query))
    assert [s.level.codes[s.rows[s.beam]].tolist() for s in descent.steps] == expected.beams
    assert frontier_of(descent) == pytest.approx(expected.frontier, rel=1e-9, abs=1e-300)
    assert descent.elsewhere == pytest.approx(expected.elsewhere, rel=1e-9)
    assert math.fsum([*frontier_of(descent).values(), descent.elsewhere]) == pytest.approx(1, abs=1e-12)
    check_confidences(descent, expected.frontier)


def check_confidences(descent, frontier):
    """Each tile's confidence is the frontier's mass in it, and never less than a descendant's."""
    confidences = descent.confidences()
    for step, confidence in zip(descent.steps, confidences, strict=True):
        zoom = step.level.zoom
        for code, value in zip(step.level.codes[step.rows].tolist(), confidence, strict=True):
            under = math.fsum(m for (z, c), m in frontier.items() if z >= zoom and c >> (2 * (z - zoom)) == code)
            assert value == pytest.approx(under, rel=1e-9, abs=1e-300)
    for above, below, finer in zip(confidences, confidences[1:], range(1, len(confidences)), strict=False):
        step = descent.steps[finer]
        assert (above[descent.steps[finer - 1].expanded[step.slots]] >= below).all()


def descent_of(case, directory, query):
    locator = case.locator(directory)
    return locator.descend(case.query, locator.plan(query))


def frontier_of(descent):
    tiles = descent.frontier()
    masses = {}
    for i, position, mass in zip(*(column.tolist() for column in tiles), strict=True):
        level = descent.steps[i].level
        masses[level.zoom, int(level.codes[descent.steps[i].rows[position]])] = mass
    assert len(masses) == len(tiles.mass)
    return masses


@FEW
@given(seed=SEEDS, kappa=st.sampled_from([0.0, 0.3, 1.0]), bbox=st.none() | boxes())
def test_smoothing_uses_only_candidate_neighbours(fresh, make_case, seed, kappa, bbox):
    """Compares with dictionaries of columns and rows: a level's shares are those of the smoothed cosines."""
    case = make_case(seed, [2, 4, 6], tiles=150, b=None)
    numbers = {z: replace(n, kappa=kappa) for z, n in case.calibration.zooms.items()}
    case.calibration = replace(case.calibration, zooms=numbers)
    try:
        descent = descent_of(case, fresh(), LocateQuery(k=8, bbox=bbox))
    except QueryError:
        return
    above = np.zeros(1)
    for step in descent.steps:
        mixed = mixed_cosines(step, kappa)
        expected = share(above, step.slots, mixed, numbers[step.level.zoom]).log_mass
        assert step.log_mass == pytest.approx(expected, abs=1e-4)
        above = step.log_mass[step.expanded]


def mixed_cosines(step, kappa):
    columns, rows = (v.astype(int).tolist() for v in morton_decode(step.level.codes[step.rows]))
    here = dict(zip(zip(columns, rows, strict=True), step.similarities.tolist(), strict=True))
    side, mixed = 2**step.level.zoom, []
    for (x, y), own in here.items():
        around = [((x + a) % side, y + b) for a in (-1, 0, 1) for b in (-1, 0, 1) if (a, b) != (0, 0)]
        found = [here[n] for n in around if n in here]
        mixed.append((1 - kappa) * own + kappa * (np.mean(found) if found else own))
    return np.array(mixed)


@FEW
@given(seed=SEEDS)
def test_wide_beam_gives_exhaustive_posterior(fresh, make_case, seed):
    """With gamma 1, no holes and no elsewhere, levels multiply: the leaves' posterior is one softmax over paths."""
    case = make_case(seed, [1, 2, 4], tiles=400, thinning=0, holes=0, b=None, gamma=1.0)
    for i, level in enumerate(case.levels[1:], 1):  # remove tiles without children, which the closed form excludes
        step = 2 * (level.zoom - case.levels[i - 1].zoom)
        assert set(case.levels[i - 1].codes.tolist()) == set((level.codes >> np.uint64(step)).tolist())
    leaf, logits = case.levels[-1], 0.0
    for level in case.levels:
        rows = np.searchsorted(level.codes, leaf.codes >> np.uint64(2 * (leaf.zoom - level.zoom)))
        logits = logits + level.vectors[rows].astype(float) @ case.query / case.calibration.numbers(level.zoom).tau
    softmax = np.exp(logits - logits.max())
    softmax /= softmax.sum()
    descent = descent_of(case, fresh(), LocateQuery(k=1024))
    assert np.exp(descent.steps[-1].log_mass) == pytest.approx(softmax, rel=1e-9)
    assert len(descent.frontier().mass) == len(leaf.codes)


@FEW
@given(seed=SEEDS, k=st.sampled_from([1, 3, 16]))
def test_paper_scoring_equals_the_hierarchical_search_paper(fresh, make_case, seed, k):
    """The k best by cosine among the children of the beam; the answer is the centre of the best at the end."""
    case = make_case(seed, [2, 4, 6], tiles=10_000, thinning=0, holes=0)
    kept = [int(c) for c in case.levels[0].codes]
    for i, level in enumerate(case.levels):
        similarity = dict(zip(level.codes.tolist(), (level.vectors @ case.query).tolist(), strict=True))
        candidates = kept if i == 0 else [16 * code + child for code in kept for child in range(16)]
        kept = sorted(candidates, key=lambda code: (-similarity[code], code))[:k]
    x, y = (sum(((kept[0] >> (2 * bit + odd)) & 1) << bit for bit in range(6)) for odd in (0, 1))
    lat = 180 / math.pi * (2 * math.atan(math.exp(2 * math.pi * (0.5 - (y + 0.5) / 64))) - math.pi / 2)
    answer = case.locator(fresh()).locate(case.query[None], LocateQuery(k=k, scoring="paper"))[0]
    assert (answer.lng, answer.lat) == pytest.approx((360 * (x + 0.5) / 64 - 180, lat), abs=1e-9)
    assert (answer.levels[-1].tile.x, answer.levels[-1].tile.y, answer.levels[-1].tile.z) == (x, y, 6)
    assert not answer.calibrated


def test_equal_tiles_tie_to_the_lower_row(fresh, make_case):
    case = make_case(1, [3, 4], tiles=1000, thinning=0, holes=0, b=None)
    for level in case.levels:
        level.vectors[:] = level.vectors[0]  # like an ocean: all tiles have the same bits
    for scoring in ("posterior", "paper"):
        descent = descent_of(case, fresh(), LocateQuery(k=10, scoring=scoring))
        assert [step.rows[step.beam].tolist() for step in descent.steps] == [list(range(10))] * 2


def test_bbox_across_the_date_line_conditions_the_posterior(fresh, make_case):
    case = make_case(5, [2, 4, 6], tiles=2000, thinning=0, holes=0)
    locator = case.locator(fresh())
    answer = locator.locate(case.query[None], LocateQuery(bbox=BBox(170, -20, -175, 5), alternatives=5))[0]
    assert answer.levels[0].confidence + 0 <= 1
    for lng, lat in [(answer.lng, answer.lat), *((a.lng, a.lat) for a in answer.alternatives)]:
        assert -20 <= lat <= 5
        assert lng >= 170 or lng <= -175


@pytest.mark.parametrize("box", [(11.25, 0.0, 22.5, 10.0), (11.25, 0.0, 11.26, 0.01)])
def test_bbox_on_tile_edges_excludes_tiles_that_only_touch(fresh, make_case, box):
    case = make_case(5, [3, 5], tiles=2000, thinning=0, holes=0)
    descent = descent_of(case, fresh(), LocateQuery(bbox=BBox(*box)))
    width = 11.25
    assert {int(c) & 1 for c in descent.steps[-1].level.codes[descent.steps[-1].rows]} == {1}, width


def test_extreme_temperatures_stay_finite(fresh, make_case):
    case = make_case(9, [2, 4, 6, 8], tiles=500, thinning=0.3, holes=0.2)
    numbers = {z: type(n)(1e-5, 1.3, -300.0) for z, n in case.calibration.zooms.items()}
    case.calibration = type(case.calibration)(numbers)
    for k in (1, 64):
        answer = case.locator(fresh()).locate(case.query[None], LocateQuery(k=k, alternatives=20))[0]
        assert answer.levels[0].confidence + answer.elsewhere <= 1 + 1e-12
        assert math.isfinite(answer.lat + answer.lng + answer.radius_90_km)
