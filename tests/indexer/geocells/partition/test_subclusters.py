"""Clusters within a cell: as many as its photos allow, where they are, the same every time."""

import numpy as np
import pytest
from towns import TOWNS, town_photos

from indexer.geocells.partition.subclusters import how_many, subdivide
from retrieval.sphere import unit_vectors


@pytest.mark.parametrize(("photos", "clusters"), [(1, 5), (185, 5), (230, 6), (575, 16), (3700, 100), (1_000_000, 100)])
def test_how_many_clusters_a_cell_has(photos: int, clusters: int) -> None:
    """The paper's: 100,000 photos by 2,700, and 5 to 100 a cell."""
    assert how_many(photos, 37.0) == clusters


def test_clusters_are_where_the_photos_are() -> None:
    vectors, town = town_photos()
    vectors, town = vectors[town >= 0], town[town >= 0]
    centres, labels = subdivide(vectors, len(TOWNS), 0)
    assert len({(int(a), int(b)) for a, b in zip(town, labels, strict=True)}) == len(TOWNS) == len(centres)
    # Each photo is in the cluster with the nearest centre, but for centres that moved to the mean of their photos.
    assert ((vectors @ centres.T).argmax(axis=1) == labels).all()


def test_few_places_are_as_many_clusters() -> None:
    """Four photos at one place and one elsewhere are two clusters, however many were asked for."""
    vectors = unit_vectors(np.array([5.0, 5.0, 5.0, 5.0, 6.0]), np.zeros(5))
    centres, labels = subdivide(vectors, 5, 0)
    assert len(centres) == 2
    assert np.bincount(labels).tolist() in ([4, 1], [1, 4])


def test_the_seed_decides_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_vectors(rng.uniform(-20, 20, 3000), rng.uniform(-20, 20, 3000))
    first, second, other = (subdivide(vectors, 40, seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_great_many_places_are_fitted_on_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.geocells.partition.subclusters._FITTED", 200)
    vectors, town = town_photos()
    centres, labels = subdivide(vectors[town >= 0], len(TOWNS), 0)
    assert len(labels) == (town >= 0).sum()
    assert len(centres) == len(TOWNS)
