"""Our ordering is OPTICS's: held against scikit-learn's, bit for bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN, compute_optics_graph
from towns import EACH, TOWNS, town_photos

from indexer.geocells.partition.optics import chord_of, km_of, order
from retrieval.sphere import degrees_of, great_circle_km


def sklearns(vectors: NDArray[np.float64], min_samples: int, max_eps_km: float) -> tuple[NDArray[np.float64], ...]:
    """Ordering, core distances, reachability and predecessors. `minkowski` as `euclidean` there cancels."""
    made: tuple[NDArray[np.float64], ...] = compute_optics_graph(
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
    return made


def clouds(seed: int) -> NDArray[np.float64]:
    """Uneven points over the whole sphere, some of them equal."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(6, 3))
    vectors = middles[rng.integers(0, 6, 150)] + rng.normal(size=(150, 3)) * rng.choice([0.001, 0.1, 1], (150, 1))
    vectors[rng.integers(0, 150, 20)] = vectors[0]
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(2, 12), st.sampled_from([5.0, 300.0, 3000.0]))
def test_equals_scikit_learns(seed: int, min_samples: int, max_eps_km: float) -> None:
    vectors = clouds(seed)
    ours = order(vectors, min_samples, max_eps_km)
    theirs = sklearns(vectors, min_samples, max_eps_km)
    for mine, other in zip((ours.order, ours.predecessor), (theirs[0], theirs[3]), strict=True):
        assert np.array_equal(mine, other)
    assert np.array_equal(ours.core_km, km_of(theirs[1]))
    assert np.array_equal(ours.reach_km, km_of(theirs[2]))


@pytest.mark.parametrize("eps_km", [3.0, 30.0, 100.0])
def test_a_cut_is_dbscans(eps_km: float) -> None:
    """By the haversine metric itself; points at a cluster's rim may go either way, dense ones may not."""
    vectors, _ = town_photos()
    cut = order(vectors, 5, 100.0).cut(eps_km)
    lng, lat = degrees_of(vectors)
    places = np.radians(np.stack([lat, lng], axis=1))
    other = DBSCAN(eps=eps_km / 6371.0088, min_samples=5, metric="haversine", algorithm="ball_tree").fit(places)
    dense = other.core_sample_indices_
    pairs = set(zip(cut[dense].tolist(), other.labels_[dense].tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}) == other.labels_.max() + 1
    assert -1 not in {a for a, _ in pairs}


def test_one_ordering_finds_the_towns_by_either_extraction() -> None:
    """The date line and the pole part no town."""
    vectors, town = town_photos()
    ordering = order(vectors, 8, 500.0)
    for labels, share in ((ordering.cut(30.0), 0.9), (ordering.steep(0.1), 0.5)):
        found = {tuple(np.unique(labels[(town == t) & (labels >= 0)])) for t in range(len(TOWNS))}
        assert len(found) == len(TOWNS)
        assert all(len(labels_of) == 1 for labels_of in found)
        assert (labels[town == -1] == -1).all()
        assert (labels[town >= 0] >= 0).sum() > share * EACH * len(TOWNS)


def test_progress_ends_at_the_end() -> None:
    told: list[int] = []
    order(town_photos()[0], 5, 10.0, told.append)
    assert told[-1] == len(town_photos()[0])


@given(st.floats(0, 20015))
def test_chords_and_distances_lead_to_one_another(km: float) -> None:
    assert float(km_of(chord_of(np.array([km])))[0]) == pytest.approx(km, rel=1e-6, abs=1e-6)
    a, b = np.array([0.0]), np.array([km / 20015.2 * 180])
    assert float(great_circle_km(a, a, b, a)[0]) == pytest.approx(km, rel=1e-3, abs=1e-6)
