"""The ordering equals that of scikit-learn's OPTICS to the bit, and its clusters are those of DBSCAN."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN, compute_optics_graph
from towns import EACH, TOWNS, town_photos

from indexer.geocells.partition.optics import chord_of, km_of, order
from retrieval.sphere import EARTH_RADIUS_KM, degrees_of, great_circle_km

Floats = NDArray[np.float64]


def scikit_learn_ordering(vectors: Floats, min_samples: int, max_eps_km: float) -> tuple[Floats, ...]:
    """Ordering, core distances, reachability and predecessors.

    The metric is `minkowski`, as scikit-learn's `euclidean` loses digits of near points by cancellation.
    """
    ordering: tuple[Floats, ...] = compute_optics_graph(
        vectors,
        min_samples=min_samples,
        max_eps=float(chord_of(np.float64(max_eps_km))),
        metric="minkowski",
        p=2,
        metric_params=None,
        algorithm="kd_tree",
        leaf_size=30,
        n_jobs=1,
    )
    return ordering


def clouds(seed: int) -> Floats:
    """150 unevenly spread points on the whole sphere, some of them equal."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, 3))
    vectors = centres[rng.integers(0, 6, 150)] + rng.normal(size=(150, 3)) * rng.choice([0.001, 0.1, 1], (150, 1))
    vectors[rng.integers(0, 150, 20)] = vectors[0]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(2, 12), st.sampled_from([5.0, 300.0, 3000.0]))
def test_ordering_equals_scikit_learns(seed: int, min_samples: int, max_eps_km: float) -> None:
    vectors = clouds(seed)
    ordering = order(vectors, min_samples, max_eps_km)
    rows, core, reach, predecessor = scikit_learn_ordering(vectors, min_samples, max_eps_km)
    assert np.array_equal(ordering.order, rows)
    assert np.array_equal(ordering.predecessor, predecessor)
    assert np.array_equal(ordering.core_km, km_of(core))
    assert np.array_equal(ordering.reach_km, km_of(reach))


@pytest.mark.parametrize("eps_km", [3.0, 30.0, 100.0])
def test_cut_equals_dbscan_for_dense_points(eps_km: float) -> None:
    """DBSCAN with the haversine metric. Points at the rim of two clusters may belong to either."""
    vectors, _ = town_photos()
    labels = order(vectors, 5, 100.0).dbscan_clusters(eps_km)
    lng, lat = degrees_of(vectors)
    places = np.radians(np.stack([lat, lng], axis=1))
    dbscan = DBSCAN(eps=eps_km / EARTH_RADIUS_KM, min_samples=5, metric="haversine", algorithm="ball_tree").fit(places)
    dense = dbscan.core_sample_indices_
    pairs = set(zip(labels[dense].tolist(), dbscan.labels_[dense].tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == dbscan.labels_.max() + 1
    assert -1 not in {a for a, _ in pairs}


def test_both_extractions_find_the_towns() -> None:
    """Towns on the date line and near the pole included."""
    vectors, town = town_photos()
    ordering = order(vectors, 8, 500.0)
    for labels, share in ((ordering.dbscan_clusters(30.0), 0.9), (ordering.xi_clusters(0.1), 0.5)):
        labels_of_towns = {tuple(np.unique(labels[(town == t) & (labels >= 0)])) for t in range(len(TOWNS))}
        assert len(labels_of_towns) == len(TOWNS)
        assert all(len(own) == 1 for own in labels_of_towns)
        assert (labels[town == -1] == -1).all()
        assert (labels[town >= 0] >= 0).sum() > share * EACH * len(TOWNS)


def test_progress_ends_with_all_points() -> None:
    vectors, reports = town_photos()[0], list[tuple[int, int]]()
    order(vectors, 5, 10.0, lambda done, total: reports.append((done, total)))
    assert reports[-1] == (len(vectors), len(vectors))


@given(st.floats(0, 20015))
def test_chord_and_distance_are_inverse(km: float) -> None:
    assert float(km_of(chord_of(np.array([km])))[0]) == pytest.approx(km, rel=1e-6, abs=1e-6)
    a, b = np.array([0.0]), np.array([km / 20015.2 * 180])
    assert float(great_circle_km(a, a, b, a)[0]) == pytest.approx(km, rel=1e-3, abs=1e-6)
