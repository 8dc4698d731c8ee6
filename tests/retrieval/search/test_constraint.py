"""Queries that limit the answer to a region."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval.errors import QueryError
from retrieval.geo.region import Region
from retrieval.locator import BBox, LocateQuery, Locator
from retrieval.testing.fake import FakeLevel, FakePhotoEncoder, unit_rows, write_fake_index

TRIANGLE = {"type": "Polygon", "coordinates": [[[-30, -40], [80, -10], [10, 60], [-30, -40]]]}
TINY = {"type": "Polygon", "coordinates": [[[7.001, 47.001], [7.004, 47.002], [7.002, 47.005], [7.001, 47.001]]]}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Locator:
    """All tiles of zooms 2, 4 and 6, with random vectors."""
    photo, rng = FakePhotoEncoder(8), np.random.default_rng(4)
    levels = [
        FakeLevel(z, np.arange(4**z, dtype=np.uint64), np.ones(4**z, bool), unit_rows(rng.standard_normal((4**z, 8))))
        for z in (2, 4, 6)
    ]
    folder = tmp_path_factory.mktemp("world")
    write_fake_index(folder, levels, photo=photo)
    return Locator.open(folder, encoder=photo)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    shape=st.sampled_from([TRIANGLE, TINY]),
    k=st.sampled_from([1, 16]),
    scoring=st.sampled_from(["posterior", "paper"]),
)
def test_places_lie_in_the_region_and_in_their_tiles(
    world: Locator, seed: int, shape: dict, k: int, scoring: str
) -> None:
    region = Region.of_geojson(shape)
    embedding = np.random.default_rng(seed).standard_normal((1, 8)).astype(np.float32)
    query = LocateQuery(k=k, alternatives=3, within=region, scoring=scoring)
    (answer,) = world.locate(embedding / np.linalg.norm(embedding), query)
    for place in (answer, *answer.alternatives):
        assert region.contains(np.array([place.lng]), np.array([place.lat]))[0]
    for level in answer.levels:
        west, south, east, north = level.to_json()["bounds"]
        assert west - 1e-9 <= answer.lng <= east + 1e-9
        assert south - 1e-9 <= answer.lat <= north + 1e-9


def test_rectangular_region_equals_bounding_box(world: Locator) -> None:
    ring = [[-50.2, -20.1], [33.3, -20.1], [33.3, 48.8], [-50.2, 48.8], [-50.2, -20.1]]
    region = Region.of_geojson(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    embedding = np.random.default_rng(0).standard_normal(8).astype(np.float32)
    boxed = world.descend(embedding, world.plan(LocateQuery(bbox=BBox(-50.2, -20.1, 33.3, 48.8))))
    within = world.descend(embedding, world.plan(LocateQuery(within=region)))
    for one, other in zip(boxed.steps, within.steps, strict=True):
        assert one.rows.tolist() == other.rows.tolist()
        assert one.log_mass.tolist() == other.log_mass.tolist()


def test_region_outside_the_bounding_box_raises(world: Locator) -> None:
    query = LocateQuery(bbox=BBox(-120, -40, -100, -20), within=Region.of_geojson(TINY))
    with pytest.raises(QueryError, match=r"bbox .* and within covers no indexed tile"):
        world.locate(np.ones((1, 8), np.float32), query)
