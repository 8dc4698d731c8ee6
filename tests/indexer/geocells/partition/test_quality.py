"""The two indices against scikit-learn's on distances by the haversine, and against their definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import haversine_distances

from indexer.geocells.partition.quality import Silhouette, davies_bouldin
from retrieval.sphere import EARTH_RADIUS_KM, degrees_of, great_circle_km, mean_directions

Case = tuple[NDArray[np.float64], NDArray[np.intp]]


def clustered(seed: int, count: int, n: int = 120) -> Case:
    """Points around `count` middles, every label in use."""
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(count), rng.integers(0, count, n - count))
    vectors = rng.normal(size=(count, 3))[labels] + rng.normal(size=(n, 3)) * 0.3
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


@given(st.integers(0, 10_000), st.integers(2, 20))
def test_the_silhouette_is_scikit_learns(seed: int, count: int) -> None:
    """Lone points included, which count nothing."""
    vectors, labels = clustered(seed, count)
    lng, lat = degrees_of(vectors)
    km = EARTH_RADIUS_KM * haversine_distances(np.radians(np.stack([lat, lng], axis=1)))
    np.fill_diagonal(km, 0)
    expected = silhouette_score(km, labels, metric="precomputed")
    assert Silhouette(vectors, 1000, 0).of(labels) == pytest.approx(expected, abs=1e-5)


def test_a_sample_is_drawn_by_the_seed() -> None:
    vectors, labels = clustered(1, 4, 1000)
    whole, some, same, other = (
        Silhouette(vectors, n, s).of(labels) for n, s in ((1000, 0), (400, 0), (400, 0), (400, 1))
    )
    assert some == same != other
    assert abs(some - whole) < 0.05


@given(st.integers(0, 10_000), st.integers(2, 8))
def test_davies_bouldin_is_its_definition(seed: int, count: int) -> None:
    vectors, labels = clustered(seed, count)
    lng, lat = degrees_of(vectors)
    at = [degrees_of(c) for c in mean_directions(vectors, labels, count)]
    scatter = [great_circle_km(lng[labels == i], lat[labels == i], *at[i]).mean() for i in range(count)]
    worst = [
        max((scatter[i] + scatter[j]) / float(great_circle_km(*at[i], *at[j])) for j in range(count) if j != i)
        for i in range(count)
    ]
    assert davies_bouldin(vectors, labels) == pytest.approx(np.mean(worst), rel=1e-4)


def test_one_cluster_has_no_figures_and_equal_ones_are_told() -> None:
    vectors, _ = clustered(0, 2)
    none = np.zeros(len(vectors), dtype=np.intp)
    assert np.isnan(Silhouette(vectors, 50, 0).of(none))
    assert np.isnan(davies_bouldin(vectors, none))
    twins = np.repeat(vectors[:1], 4, axis=0)
    assert davies_bouldin(twins, np.array([0, 0, 1, 1])) == np.inf
    assert Silhouette(twins, 50, 0).of(np.array([0, 0, 1, 1])) == 0
