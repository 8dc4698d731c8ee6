"""Mixing registrations into a posterior: sums, nesting, extremes, radii, alternatives, and the outcome."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.evidence_numbers import DEFAULT_ERRORS, OutcomeNumbers
from retrieval.locator import BBox, LocateQuery, Locator
from retrieval.search.evidence import Mixture, Registered, is_covered, mixed, outcome_of, rows_at, why_outside
from retrieval.search.points import spread_evenly
from retrieval.sphere import great_circle_km
from retrieval.testing.fake import FakePhotoEncoder, fake_pyramid, unit_rows, write_fake_index
from tile_cache.addressing import MAX_ZOOM, centres_of_codes, tile_at

ZOOMS = (3, 5, 7)
QUERY = LocateQuery(alternatives=5, trace=True, k=8)


@pytest.fixture(scope="module")
def locator(tmp_path_factory: pytest.TempPathFactory) -> Locator:
    directory = tmp_path_factory.mktemp("evidence")
    write_fake_index(directory, fake_pyramid(3, ZOOMS, 32, tiles=4000, holes=0.05))
    photo = FakePhotoEncoder()
    numbers = {z: ZoomNumbers(0.2, b=1.0) for z in ZOOMS}
    return Locator(Locator.open(directory, encoder=photo).index, Calibration(numbers, k=8), photo)


def searched(locator, seed, query=QUERY):
    embedding = unit_rows(np.random.default_rng(seed).standard_normal((1, 32)))
    [(answer, descent)] = locator.searched(embedding, locator.plan(query))
    return answer, descent


def covered(locator, seed):
    """A place inside a tile of the deepest zoom."""
    level = locator.index.levels[-1]
    row = int(np.random.default_rng(seed).integers(len(level.codes)))
    lng, lat = (float(v[0]) for v in centres_of_codes(level.codes[row : row + 1], level.zoom))
    return lng, lat


seeds = st.integers(0, 10_000)


@settings(max_examples=60)
@given(seeds, st.floats(0, 1), st.floats(10, 3000))
def test_masses_sum_to_one_and_are_nested(locator, seed, p, edge_km):
    answer, descent = searched(locator, seed)
    lng, lat = covered(locator, seed)
    mixture = Mixture.accepted(descent, Registered(lng, lat, p, edge_km, DEFAULT_ERRORS))
    check_sums(mixture, None)
    after = mixed(answer, mixture, locator.index.levels, None, (0.5, 0.9), (lng, lat))
    confidences = [level.confidence for level in after.levels]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] + after.elsewhere <= 1 + 1e-9
    if 1 - p < 1:
        assert (after.lng, after.lat) == (lng, lat)
        assert [level.tile for level in after.levels] == [tile_at(lng, lat, z) for z in ZOOMS[: len(after.levels)]]
        assert all(other.tile != after.levels[-1].tile for other in after.alternatives)


@settings(max_examples=40)
@given(seeds, st.floats(0, 1))
def test_doubt_spreads_the_tiles_mass_and_leaves_elsewhere(locator, seed, trust):
    answer, descent = searched(locator, seed)
    mixture = Mixture.doubted(descent, trust)
    even = spread_evenly(descent, None)
    check_sums(mixture, even)
    after = mixed(answer, mixture, locator.index.levels, None, (0.5, 0.9))
    assert after.elsewhere == answer.elsewhere
    assert [level.tile for level in after.levels] == [level.tile for level in answer.levels]
    if len(answer.levels) > 1:  # the even mass lies on tiles of the first zoom
        assert after.levels[-1].confidence == pytest.approx(trust * answer.levels[-1].confidence)
    if trust < 0.5 and answer.radius_90_km is not None:
        assert after.radius_90_km > 3000
    for level in after.trace:
        confidences = [tile.confidence for tile in level.beam]
        assert confidences == sorted(confidences, reverse=True)


def check_sums(mixture, even):
    """The first zoom's tiles and elsewhere hold all mass; below, tiles hold no more than the tile above."""
    confidences = mixture.confidences(even)
    steps = mixture.descent.steps
    first = steps[0].level.codes[steps[0].rows]
    points = mixture.codes >> np.uint64(2 * (MAX_ZOOM - ZOOMS[0]))
    outside = float(mixture.mass[~np.isin(points, first)].sum())  # in tiles without a vector
    assert confidences[0].sum() + outside + mixture.elsewhere == pytest.approx(1)
    for above, below, mass in zip(steps, steps[1:], confidences[1:], strict=False):
        sums = np.bincount(below.slots, mass, len(above.expanded))
        own = confidences[steps.index(above)][above.expanded]
        assert (sums <= own + 1e-9).all()


@pytest.mark.parametrize("seed", range(10))
def test_certainty_and_ignorance_are_exact(locator, seed):
    answer, descent = searched(locator, seed)
    lng, lat = covered(locator, seed)
    levels = locator.index.levels
    nothing = Mixture.accepted(descent, Registered(lng, lat, 0.0, 500, DEFAULT_ERRORS))
    assert mixed(answer, nothing, levels, None, (0.5, 0.9), (lng, lat)) == answer
    assert mixed(answer, Mixture.doubted(descent, 1.0), levels, None, (0.5, 0.9)) == answer
    certain = Mixture.accepted(descent, Registered(lng, lat, 1.0, 500, (0.0,)))
    after = mixed(answer, certain, levels, None, (0.5, 0.9), (lng, lat))
    assert [level.confidence for level in after.levels] == pytest.approx([1.0] * len(ZOOMS))
    assert (after.elsewhere, after.radius_90_km) == (0, pytest.approx(0, abs=1e-3))


def test_radii_of_a_certain_place_are_its_errors(locator):
    answer, descent = searched(locator, 1)
    lng, lat = covered(locator, 1)
    errors = tuple(float(v) for v in np.linspace(0.001, 0.05, 100))
    mixture = Mixture.accepted(descent, Registered(lng, lat, 1.0, 1000, errors))
    after = mixed(answer, mixture, locator.index.levels, None, (0.5, 0.9), (lng, lat))
    assert after.radius_50_km == pytest.approx(25.5, rel=0.05)
    assert after.radius_90_km == pytest.approx(45, rel=0.05)


def test_the_old_answer_becomes_the_first_alternative(locator):
    answer, descent = searched(locator, 4)
    lng, lat = next(
        place
        for place in (covered(locator, n) for n in range(100))
        if great_circle_km(*(np.array([v]) for v in (*place, answer.lng, answer.lat)))[0] > 2000
    )
    mixture = Mixture.accepted(descent, Registered(lng, lat, 0.9, 500, DEFAULT_ERRORS))
    after = mixed(answer, mixture, locator.index.levels, None, (0.5, 0.9), (lng, lat))
    first = after.alternatives[0]
    assert (first.lng, first.lat, first.tile) == (answer.lng, answer.lat, answer.levels[-1].tile)
    assert first.confidence == pytest.approx(0.1 * answer.levels[-1].confidence)


def test_a_place_outside_is_named(locator):
    lng, lat = covered(locator, 5)
    levels = locator.index.levels
    assert why_outside(lng, lat, levels, None) is None
    assert len(rows_at(levels, lng, lat)) == len(ZOOMS)
    assert why_outside(0, 89, levels, None) == "it lies outside the index's coverage"
    other = LocateQuery(bbox=BBox(*((lng + 20, -60, lng + 40, 60) if lng < 100 else (-90, -60, -80, 60)))).constraint
    assert why_outside(lng, lat, levels, other) == "it lies outside the bbox"


def test_a_place_that_no_tile_covers_is_elsewhere(locator):
    answer, descent = searched(locator, 3)
    levels = locator.index.levels
    assert not is_covered(0, 89, levels)
    after = mixed(answer, Mixture.uncovered(descent, 0.9), levels, None, (0.5, 0.9))
    assert after.elsewhere == pytest.approx(0.9 + 0.1 * answer.elsewhere)
    assert [b.confidence for b in after.levels] == pytest.approx([0.1 * a.confidence for a in answer.levels])
    assert (after.radius_90_km, outcome_of(after, OutcomeNumbers(), is_registered=False)) == (None, "elsewhere")


def test_even_mass_stays_inside_the_bbox(locator):
    box = BBox(-20, -10, 40, 50)
    query = replace(QUERY, bbox=box)
    _, descent = searched(locator, 6, query)
    even = spread_evenly(descent, query.constraint)
    assert even.shares.sum() == pytest.approx(1)
    assert even.mass.sum() == pytest.approx(1)
    lat = np.degrees(np.arcsin(even.vectors[:, 2]))
    assert lat.min() >= -10 - 1e-9
    assert lat.max() <= 50 + 1e-9


def test_outcome_follows_its_thresholds(locator):
    numbers = OutcomeNumbers(located=0.8, elsewhere=0.5, radius_km=100)
    answer = replace(searched(locator, 7)[0], calibrated=True, elsewhere=0.1, radius_90_km=90.0)
    assert outcome_of(answer, numbers, is_registered=False) == "located"
    assert outcome_of(answer, numbers, is_registered=False, is_doubted=True) == "uncertain"
    for changes in ({"elsewhere": 0.3}, {"radius_90_km": 101.0}, {"radius_90_km": None}, {"calibrated": False}):
        unsure = replace(answer, **changes)
        assert outcome_of(unsure, numbers, is_registered=False) == "uncertain"
        assert outcome_of(unsure, numbers, is_registered=True) == "located"
    assert outcome_of(replace(answer, elsewhere=0.5), numbers, is_registered=True) == "elsewhere"
