"""The grid search: which settings are tried, how they are measured, and which one wins.

The two indices are compared with scikit-learn's on haversine distances, and with their definitions.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import silhouette_score
from sklearn.metrics.pairwise import haversine_distances
from towns import STRAYS, TOWNS, town_photos

from indexer.errors import GeocellError
from indexer.geocells.partition.assign import assign_outliers
from indexer.geocells.partition.grid_search import SearchResult, Silhouette, davies_bouldin, search_grid
from indexer.geocells.settings import Grid
from indexer.progress import silent
from retrieval.sphere import EARTH_RADIUS_KM, degrees_of, great_circle_km, mean_directions

GRID = Grid(min_samples=(5, 10), eps_km=(3.0, 30.0, 4500.0), xi=(0.05,), least_cells=6, most_cells=30)

Case = tuple[NDArray[np.float64], NDArray[np.intp]]


def searched(grid: Grid) -> SearchResult:
    return search_grid(town_photos()[0], grid, 0, silent)


def clustered(seed: int, count: int, n: int = 120) -> Case:
    """Points around `count` centres, (n, 3), and their labels, (n,); every label is used."""
    rng = np.random.default_rng(seed)
    labels = np.append(np.arange(count), rng.integers(0, count, n - count))
    vectors = rng.normal(size=(count, 3))[labels] + rng.normal(size=(n, 3)) * 0.3
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), labels


def test_every_town_becomes_one_cell_and_strays_join_one() -> None:
    vectors, town = town_photos()
    best = searched(GRID).best
    assert best.cell_count == len(TOWNS)
    assert best.setting.method == "eps"
    assert best.setting.value == 30
    assert best.outliers == pytest.approx(STRAYS / len(vectors), abs=0.05)
    pairs = set(zip(town[town >= 0].tolist(), best.cell[town >= 0].tolist(), strict=True))
    assert len(pairs) == len(TOWNS)


def test_least_sum_of_two_ranks_wins() -> None:
    vectors, _ = town_photos()
    result = searched(GRID)
    ranked = [t for t in result.trials if 6 <= t.cell_count <= 30]
    assert len(ranked) < len(result.trials)  # one setting joins everything
    silhouette = Silhouette(vectors, GRID.silhouette_points, 0)
    for trial in ranked:
        cell = assign_outliers(vectors, trial.labels).cell
        assert (trial.silhouette, trial.davies_bouldin) == (silhouette.of(cell), davies_bouldin(vectors, cell))
        better = sum(other.silhouette > trial.silhouette for other in ranked)
        better += sum(other.davies_bouldin < trial.davies_bouldin for other in ranked)
        assert trial.rank == better + 2
    assert result.best.rank == min(t.rank for t in ranked)
    assert all(t.rank == 0 and np.isnan(t.silhouette) for t in result.trials if t not in ranked)


def test_settings_nearest_to_the_limits_are_ranked_if_all_are_outside() -> None:
    grid = Grid(min_samples=(10,), eps_km=(30.0, 4500.0), xi=(), least_cells=50, most_cells=60)
    assert searched(grid).best.cell_count == len(TOWNS)


def test_photos_without_any_cluster_raise() -> None:
    with pytest.raises(GeocellError, match="--min-samples"):
        searched(Grid(min_samples=(60,), eps_km=(1.0,), xi=()))
    with pytest.raises(GeocellError, match="3 photos"):
        search_grid(town_photos()[0][:3], Grid(), 0, silent)


@pytest.mark.parametrize(("photos", "limits"), [(50, (2, 2)), (2000, (20, 40)), (10**6, (20, 1000))])
def test_cell_limits_follow_the_number_of_photos(photos: int, limits: tuple[int, int]) -> None:
    assert Grid().cell_limits(photos) == limits


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("min_samples", (), "--min-samples"),
        ("min_samples", (1,), "--min-samples 1"),
        ("eps_km", (), "--eps"),
        ("eps_km", (0.0,), "--eps 0"),
        ("eps_km", (float("nan"),), "--eps nan"),
        ("xi", (1.0,), "--xi 1"),
        ("least_cells", 0, "--cells 0"),
        ("most_cells", 3, "--cells 20 3"),
        ("most_points", 1, "most_points 1"),
    ],
)
def test_grid_rejects_values_out_of_range(setting: str, value: object, message: str) -> None:
    with pytest.raises(GeocellError, match=message):
        Grid(**{setting: value})  # type: ignore[arg-type]


@given(st.integers(0, 10_000), st.integers(2, 20))
def test_silhouette_equals_scikit_learns(seed: int, count: int) -> None:
    """Points alone in their cluster, which count 0, included."""
    vectors, labels = clustered(seed, count)
    lng, lat = degrees_of(vectors)
    km = EARTH_RADIUS_KM * haversine_distances(np.radians(np.stack([lat, lng], axis=1)))
    np.fill_diagonal(km, 0)
    expected = silhouette_score(km, labels, metric="precomputed")
    assert Silhouette(vectors, 1000, 0).of(labels) == pytest.approx(expected, abs=1e-5)


def test_silhouette_sample_depends_on_the_seed() -> None:
    vectors, labels = clustered(1, 4, 1000)
    whole, sample, same, other = (
        Silhouette(vectors, size, seed).of(labels) for size, seed in ((1000, 0), (400, 0), (400, 0), (400, 1))
    )
    assert sample == same != other
    assert abs(sample - whole) < 0.05


@given(st.integers(0, 10_000), st.integers(2, 8))
def test_davies_bouldin_equals_its_definition(seed: int, count: int) -> None:
    vectors, labels = clustered(seed, count)
    lng, lat = degrees_of(vectors)
    centres = [degrees_of(c) for c in mean_directions(vectors, labels, count)]
    scatter = [great_circle_km(lng[labels == i], lat[labels == i], *centres[i]).mean() for i in range(count)]
    worst = [
        max(
            (scatter[i] + scatter[j]) / float(great_circle_km(*centres[i], *centres[j])) for j in range(count) if j != i
        )
        for i in range(count)
    ]
    assert davies_bouldin(vectors, labels) == pytest.approx(np.mean(worst), rel=1e-4)


def test_indices_of_a_single_cluster_are_nan() -> None:
    vectors, _ = clustered(0, 2)
    labels = np.zeros(len(vectors), dtype=np.intp)
    assert np.isnan(Silhouette(vectors, 50, 0).of(labels))
    assert np.isnan(davies_bouldin(vectors, labels))


def test_two_clusters_at_the_same_place_are_the_worst_partition() -> None:
    vectors = np.repeat(clustered(0, 2)[0][:1], 4, axis=0)
    labels = np.array([0, 0, 1, 1])
    assert davies_bouldin(vectors, labels) == np.inf
    assert Silhouette(vectors, 50, 0).of(labels) == 0
