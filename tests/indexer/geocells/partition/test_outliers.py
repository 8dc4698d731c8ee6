"""Outliers join, centroids move once, neighbours merge, nobody's nearest goes."""

import numpy as np
from towns import TOWNS, town_photos

from indexer.geocells.partition.outliers import settle
from retrieval.sphere import degrees_of, great_circle_km, mean_directions, unit_vectors


def test_towns_get_their_photos_and_the_strays_around_them() -> None:
    vectors, town = town_photos()
    settled = settle(vectors, town)
    lng, lat = degrees_of(settled.centroids)
    km = great_circle_km(*(v[:, None] for v in degrees_of(vectors)), lng, lat)
    assert np.array_equal(settled.cell, km.argmin(axis=1))
    assert (settled.cell[town >= 0] == town[town >= 0]).all()
    assert settled.counts.sum() == len(vectors)
    assert len(settled.centroids) == len(TOWNS)


def test_centroids_move_once_to_the_mean_of_all_that_joined() -> None:
    """Photos at 0, 2 and 10 degrees; an outlier at 5 joins the first two, and draws their centroid to it."""
    lng = np.array([0.0, 2.0, 5.0, 10.0, 10.0])
    vectors = unit_vectors(lng, np.zeros(5))
    settled = settle(vectors, np.array([0, 0, -1, 1, 1]))
    assert settled.cell.tolist() == [0, 0, 0, 1, 1]
    assert np.allclose(settled.centroids, mean_directions(vectors, np.array([0, 0, 0, 1, 1]), 2))
    assert settled.moved == 0


def test_centroids_within_a_kilometre_are_one() -> None:
    """A chain of three 0.9 km apart, and one far off."""
    lng = np.array([0.0, 0.0081, 0.0162, 90.0])
    settled = settle(unit_vectors(lng, np.zeros(4)), np.arange(4))
    assert settled.cell.tolist() == [0, 0, 0, 1]


def test_a_centroid_that_is_nobodys_nearest_is_left_out() -> None:
    """A ring of towns around a hamlet: the ring's photos have the hamlet as their mean, and as their nearest."""
    angle = np.radians(np.arange(0, 360, 30))
    ring = unit_vectors(10 * np.cos(angle), 10 * np.sin(angle))
    hamlet = unit_vectors(np.array([0.5, 0.5]), np.array([0.0, 0.0]))
    labels = np.append(np.zeros(len(ring), dtype=np.intp), [1, 1])
    settled = settle(np.concatenate([ring, hamlet]), labels)
    assert 0 < settled.moved < 1
    assert settled.counts.min() > 0
