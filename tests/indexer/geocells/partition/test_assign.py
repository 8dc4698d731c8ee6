"""Cells from clusters with outliers, and the clusters within a cell."""

import numpy as np
import pytest
from towns import TOWNS, town_photos

from indexer.geocells.partition.assign import assign_outliers, cluster_count, split_cell
from retrieval.sphere import degrees_of, great_circle_km, mean_directions, unit_vectors


def test_every_photo_is_in_the_cell_of_the_nearest_centroid() -> None:
    vectors, town = town_photos()
    assignment = assign_outliers(vectors, town)
    lng, lat = degrees_of(assignment.centroids)
    km = great_circle_km(*(v[:, None] for v in degrees_of(vectors)), lng, lat)
    assert np.array_equal(assignment.cell, km.argmin(axis=1))
    assert (assignment.cell[town >= 0] == town[town >= 0]).all()
    assert assignment.counts.sum() == len(vectors)
    assert len(assignment.centroids) == len(TOWNS)


def test_centroids_move_once_to_the_mean_of_all_that_joined() -> None:
    """Photos at 0, 2 and 10 degrees; an outlier at 5 joins the first two and moves their centroid."""
    lng = np.array([0.0, 2.0, 5.0, 10.0, 10.0])
    vectors = unit_vectors(lng, np.zeros(5))
    assignment = assign_outliers(vectors, np.array([0, 0, -1, 1, 1]))
    assert assignment.cell.tolist() == [0, 0, 0, 1, 1]
    assert np.allclose(assignment.centroids, mean_directions(vectors, np.array([0, 0, 0, 1, 1]), 2))
    assert assignment.moved == 0


def test_centroids_within_a_kilometre_are_merged() -> None:
    """Three in a chain with gaps of 0.9 km, and one far away."""
    lng = np.array([0.0, 0.0081, 0.0162, 90.0])
    assignment = assign_outliers(unit_vectors(lng, np.zeros(4)), np.arange(4))
    assert assignment.cell.tolist() == [0, 0, 0, 1]


def test_every_cell_has_a_photo_after_centroids_moved() -> None:
    """A ring of towns around a hamlet: the mean of the ring lies in the hamlet, so photos change their cell."""
    angle = np.radians(np.arange(0, 360, 30))
    ring = unit_vectors(10 * np.cos(angle), 10 * np.sin(angle))
    hamlet = unit_vectors(np.array([0.5, 0.5]), np.array([0.0, 0.0]))
    labels = np.append(np.zeros(len(ring), dtype=np.intp), [1, 1])
    assignment = assign_outliers(np.concatenate([ring, hamlet]), labels)
    assert 0 < assignment.moved < 1
    assert assignment.counts.min() > 0


def test_cells_can_be_ordered_by_size() -> None:
    vectors, town = town_photos()
    assignment = assign_outliers(vectors, town)
    ordered = assignment.by_size()
    assert (np.diff(ordered.counts) <= 0).all()
    assert np.array_equal(ordered.centroids[ordered.cell], assignment.centroids[assignment.cell])


@pytest.mark.parametrize(("photos", "clusters"), [(1, 5), (185, 5), (230, 6), (575, 16), (3700, 100), (1_000_000, 100)])
def test_number_of_clusters_follows_the_number_of_photos(photos: int, clusters: int) -> None:
    """As in the geoembeddings paper: 100,000 photos for 2,700 clusters, 5 to 100 in a cell."""
    assert cluster_count(photos, 37.0) == clusters


def test_clusters_are_where_the_photos_are() -> None:
    vectors, town = town_photos()
    vectors, town = vectors[town >= 0], town[town >= 0]
    centres, labels = split_cell(vectors, len(TOWNS), 0)
    assert len({(int(a), int(b)) for a, b in zip(town, labels, strict=True)}) == len(TOWNS) == len(centres)
    assert ((vectors @ centres.T).argmax(axis=1) == labels).all()


def test_there_are_no_more_clusters_than_distinct_places() -> None:
    """Four photos at one place and one elsewhere give two clusters, although five were requested."""
    vectors = unit_vectors(np.array([5.0, 5.0, 5.0, 5.0, 6.0]), np.zeros(5))
    centres, labels = split_cell(vectors, 5, 0)
    assert len(centres) == 2
    assert np.bincount(labels).tolist() in ([4, 1], [1, 4])


def test_clusters_depend_on_the_seed_only() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_vectors(rng.uniform(-20, 20, 3000), rng.uniform(-20, 20, 3000))
    first, second, other = (split_cell(vectors, 40, seed)[0] for seed in (3, 3, 4))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_clusters_of_many_places_are_fitted_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexer.geocells.partition.assign._KMEANS_POINTS", 200)
    vectors, town = town_photos()
    centres, labels = split_cell(vectors[town >= 0], len(TOWNS), 0)
    assert len(labels) == (town >= 0).sum()
    assert len(centres) == len(TOWNS)
