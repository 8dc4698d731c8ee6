"""The answer's point, its radii and the alternatives, compared with sampling and exhaustive search."""

import numpy as np
import pytest

from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.locator import LocateQuery, Locator
from retrieval.search.points import Support
from retrieval.search.query import BBox
from retrieval.sphere import EARTH_RADIUS_KM, degrees_of, distances_km, unit_vectors_of_sines
from retrieval.testing.fake import FakeLevel, FakePhotoEncoder, fake_pyramid, unit_rows, write_fake_index
from tile_cache.addressing import bounds_of_codes, children_of_codes


def at(lng, lat):
    return unit_vectors_of_sines(
        np.atleast_1d(np.asarray(lng, float)), np.sin(np.radians(np.atleast_1d(np.asarray(lat, float))))
    )


def test_distances_are_great_circles():
    assert distances_km(at(0, 0)[0], at(180, 0)) == pytest.approx(np.pi * EARTH_RADIUS_KM)
    assert distances_km(at(0, 0)[0], at(0, 1)) == pytest.approx(111.19508, abs=1e-4)
    assert distances_km(at(0, 45)[0], at(1e-6, 45)) == pytest.approx(7.8626e-5, rel=1e-3)
    assert distances_km(at(179.5, 0)[0], at(-179.5, 0)) == pytest.approx(111.19508, abs=1e-4)
    assert degrees_of(at(-179.25, 33.5)[0]) == pytest.approx((-179.25, 33.5))


@pytest.fixture(params=[0.03, 0.1, 0.25, 1.0], ids=lambda tau: f"tau={tau}")
def located(request, tmp_path):
    """Descents over two zooms, from sharp to flat posteriors."""
    levels = fake_pyramid(21, [4, 6], 24, tiles=1500, holes=0.1, thinning=0.1)
    photo = FakePhotoEncoder(24)
    write_fake_index(tmp_path, levels, photo=photo)
    index = Locator.open(tmp_path, encoder=photo).index
    numbers = {4: ZoomNumbers(request.param), 6: ZoomNumbers(request.param)}
    return Locator(index, Calibration(numbers), photo), levels[1].vectors[::150]


def sample(descent, n, bbox=None):
    """Random places of the frontier, (n, 3) unit vectors: a tile by mass, then a point uniform over its area."""
    rng = np.random.default_rng(0)
    tiles = descent.frontier()
    drawn = rng.choice(len(tiles.mass), n, p=tiles.mass / tiles.mass.sum())
    found = np.empty((n, 3))
    for i, step in enumerate(descent.steps):
        here = np.flatnonzero(tiles.steps[drawn] == i)
        codes = step.level.codes[step.rows[tiles.positions[drawn[here]]]]
        west, south, east, north = bounds_of_codes(codes, step.level.zoom)
        low, high = np.sin(np.radians(south)), np.sin(np.radians(north))
        u, v = rng.random((2, len(here)))
        found[here] = unit_vectors_of_sines(west + (east - west) * u, low + (high - low) * v)
    return found


def test_radii_hold_their_share_of_the_frontier(located):
    locator, queries = located
    for query in queries[:5]:
        answer = locator.locate(query[None], LocateQuery())[0]
        far = distances_km(
            at(answer.lng, answer.lat)[0], sample(locator.descend(query, locator.plan(LocateQuery())), 20_000)
        )
        assert np.mean(far <= answer.radius_50_km) == pytest.approx(0.5, abs=0.03)
        assert np.mean(far <= answer.radius_90_km) == pytest.approx(0.9, abs=0.03)


def test_answer_has_lower_loss_than_tile_centres(located):
    """Compares the expected min(distance, 2000 km) with that of every frontier tile's centre, by sampling."""
    locator, queries = located
    for query in queries[:5]:
        descent = locator.descend(query, locator.plan(LocateQuery()))
        drawn = sample(descent, 2000)
        answer = locator.locate(query[None], LocateQuery())[0]
        centres = Support.of(descent, None).centres.vectors
        losses = [np.minimum(distances_km(c, drawn), 2000).mean() for c in centres[:200]]
        assert np.minimum(distances_km(at(answer.lng, answer.lat)[0], drawn), 2000).mean() <= min(losses) * 1.02 + 3


def test_support_holds_all_mass(located):
    locator, queries = located
    for query in queries:
        support = Support.of(locator.descend(query, locator.plan(LocateQuery(k=5))), None)
        assert support.total == pytest.approx(1)
        assert 0.999 <= support.mass.sum() <= 1 + 1e-9
        assert np.linalg.norm(support.vectors, axis=1) == pytest.approx(1)


def test_alternatives_lie_outside_earlier_circles(located):
    locator, queries = located
    for answer in locator.locate(queries, LocateQuery(alternatives=20)):
        spots = at(
            [answer.lng] + [a.lng for a in answer.alternatives], [answer.lat] + [a.lat for a in answer.alternatives]
        )
        for i in range(1, len(spots)):
            assert distances_km(spots[i], spots[:i]).min() >= 25 - 1e-6


def two_modes(tmp_path, sure):
    """One zoom of 4 x 4 tiles; the query is most similar to tile 0, then to tile 15, and to no other tile."""
    codes = children_of_codes(np.zeros(1, dtype=np.uint64), 2)
    vectors = np.zeros((16, 8), dtype=np.float32)
    vectors[:, 1] = 1
    vectors[0], vectors[15] = np.eye(8)[0], unit_rows(np.array([[sure, 0, np.sqrt(1 - sure**2), 0, 0, 0, 0, 0]]))[0]
    photo = FakePhotoEncoder(8)
    write_fake_index(tmp_path, [FakeLevel(2, codes, np.ones(16, dtype=bool), vectors)], photo=photo)
    index = Locator.open(tmp_path, encoder=photo).index
    return lambda b: Locator(index, Calibration({2: ZoomNumbers(0.05, b=b)}), photo), np.eye(8, dtype=np.float32)[:1]


def test_second_mode_is_the_first_alternative(tmp_path):
    make, query = two_modes(tmp_path, 0.95)
    answer = make(None).locate(query, LocateQuery(alternatives=3))[0]
    assert (answer.levels[0].tile.x, answer.levels[0].tile.y) == (0, 0)
    assert (answer.alternatives[0].tile.x, answer.alternatives[0].tile.y) == (3, 3)
    assert answer.levels[0].confidence == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-3)
    assert answer.alternatives[0].confidence == pytest.approx(1 / (1 + np.exp(1)), abs=1e-3)


def test_radii_are_none_if_elsewhere_exceeds_tile_mass(tmp_path):
    make, query = two_modes(tmp_path, 0.5)
    near = make(19.0).locate(query, LocateQuery())[0]
    assert near.elsewhere == pytest.approx(1 / (1 + np.e), abs=1e-3)
    assert near.radius_90_km > near.radius_50_km > 0
    far = make(21.0).locate(query, LocateQuery())[0]
    assert far.elsewhere == pytest.approx(1 / (1 + 1 / np.e), abs=1e-3)
    assert far.radius_50_km is None
    assert far.radius_90_km is None


@pytest.mark.parametrize(
    "box", [(-178, 80, -100, 84), (-91, 66.6, -90.5, 67), (170, -85, -170, 85), (-180, -90, 180, 90)]
)
@pytest.mark.parametrize("scoring", ["posterior", "paper"])
def test_point_lies_in_its_tile_and_in_the_bbox(tmp_path, box, scoring):
    make, query = two_modes(tmp_path, 0.95)
    bbox = BBox(*box)
    answer = make(None).locate(query, LocateQuery(bbox=bbox, alternatives=4, scoring=scoring))[0]
    assert bbox.contains(answer.lng, answer.lat)
    assert all(bbox.contains(a.lng, a.lat) for a in answer.alternatives)
    west, south, east, north = answer.to_json()["levels"][0]["bounds"]
    assert west <= answer.lng <= east
    assert south <= answer.lat <= north
