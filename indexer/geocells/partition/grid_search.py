"""Search a grid of clustering settings: compute the cells that each setting leads to, measure them, choose one.

Measured are the cells that would be used, after outliers were assigned and centroids recomputed. If only the dense
clusters were measured, the setting that calls the most points outliers would look best. Distances are great circles.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.errors import GeocellError
from indexer.geocells.partition.assign import assign_outliers
from indexer.geocells.partition.optics import Ordering, order
from indexer.geocells.settings import Grid
from indexer.progress import OnProgress, counter
from retrieval.sphere import chord_km, mean_directions

__all__ = ["SearchResult", "Setting", "Silhouette", "Trial", "davies_bouldin", "search_grid"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class Setting(NamedTuple):
    """One way to read clusters from an ordering. `method` is `eps` (`value` in km) or `xi` (`value` is a share)."""

    min_samples: int
    method: str
    value: float

    def clusters(self, ordering: Ordering) -> Ints:
        """The cluster of each point, (n,), -1 for outliers."""
        return ordering.dbscan_clusters(self.value) if self.method == "eps" else ordering.xi_clusters(self.value)

    def __str__(self) -> str:
        return f"min_samples {self.min_samples}, {self.method} {self.value:g}" + (" km" if self.method == "eps" else "")


@dataclass(frozen=True, eq=False)
class Trial:
    """The outcome of one setting. The two indices are nan if its number of cells excluded it from the ranking."""

    setting: Setting
    labels: Ints = field(repr=False)
    """(n,) the cluster of each point, -1 for outliers."""
    cell: Ints = field(repr=False)
    """(n,) the cell of each point."""
    cell_count: int
    outliers: float
    """The share of points outside all clusters."""
    moved: float
    """The share of points whose cell is not that of the cluster that they belonged to or joined."""
    silhouette: float = float("nan")
    davies_bouldin: float = float("nan")
    rank: int = 0
    """The sum of the ranks by silhouette and by Davies-Bouldin index; 0 if they were not computed."""


@dataclass(frozen=True, eq=False)
class SearchResult:
    """All trials in the order of the grid, and the best one."""

    trials: tuple[Trial, ...]
    best: Trial


def search_grid(vectors: Floats, grid: Grid, seed: int, on_progress: OnProgress) -> SearchResult:
    """Try every setting of the grid on points, (n, 3) unit vectors, and choose the best.

    Only settings within the grid's limits for the number of cells are ranked; if there are none, those nearest to the
    limits. Settings are ranked by silhouette (high is good) and by Davies-Bouldin index (low is good), with equal ranks
    for equal values. The least sum of both ranks wins; of equal sums the higher silhouette, then the earlier setting.

    Raises GeocellError if no setting finds a cluster.
    """
    trials = list(_trials(vectors, grid, on_progress))
    if not trials:
        raise GeocellError(
            f"{len(vectors):,} photos show no cluster at any setting of the grid: give a smaller --min-samples or a "
            "larger --eps, or more photos"
        )
    minimum, maximum = grid.cell_limits(len(vectors))
    excess = [max(minimum - t.cell_count, t.cell_count - maximum, 0) for t in trials]
    ranked = [i for i, cells in enumerate(excess) if cells == min(excess)]
    silhouette = Silhouette(vectors, grid.silhouette_points, seed)
    on_measured = counter(on_progress, "fit", "Measuring settings")
    for step, i in enumerate(ranked, 1):
        cell = trials[i].cell
        trials[i] = replace(trials[i], silhouette=silhouette.of(cell), davies_bouldin=davies_bouldin(vectors, cell))
        on_measured(step, len(ranked))
    for i, rank in zip(ranked, _rank_sums([trials[i] for i in ranked]), strict=True):
        trials[i] = replace(trials[i], rank=rank)
    best = min((trials[i] for i in ranked), key=lambda t: (t.rank, -np.nan_to_num(t.silhouette, nan=-1)))
    return SearchResult(tuple(trials), best)


def _trials(vectors: Floats, grid: Grid, on_progress: OnProgress) -> Iterator[Trial]:
    """The settings that find at least one cluster."""
    for min_samples in sorted({m for m in grid.min_samples if m <= len(vectors)}):
        on_points = counter(on_progress, "fit", f"Ordering, min_samples {min_samples}")
        ordering = order(vectors, min_samples, max(grid.eps_km), on_points)
        settings = [Setting(min_samples, "eps", eps) for eps in grid.eps_km]
        settings += [Setting(min_samples, "xi", xi) for xi in grid.xi]
        for setting in settings:
            labels = setting.clusters(ordering)
            if labels.max() >= 0:
                cells, outliers = assign_outliers(vectors, labels), float((labels < 0).mean())
                yield Trial(setting, labels, cells.cell, len(cells.centroids), outliers, cells.moved)


def _rank_sums(trials: list[Trial]) -> list[int]:
    """Each trial's rank by silhouette plus its rank by Davies-Bouldin index; nan ranks last."""
    indices = np.array([(t.silhouette, t.davies_bouldin) for t in trials])
    high = np.where(np.isnan(indices[:, 0]), -np.inf, indices[:, 0])
    low = np.where(np.isnan(indices[:, 1]), np.inf, indices[:, 1])
    return [int((high > s).sum() + (low < d).sum()) + 2 for s, d in zip(high, low, strict=True)]


class Silhouette:
    """The silhouette (Rousseeuw 1987) of several labellings of the same points, on a sample with all its distances.

    For a point with mean distance a to the other points of its cluster and b to those of the nearest other cluster it
    is (b - a) / max(a, b), and 0 for a point alone in its cluster. The result is the mean over the sample; clusters
    without a point in the sample do not count. Memory is 4 bytes times the square of the sample size.
    """

    def __init__(self, vectors: Floats, size: int, seed: int) -> None:
        """Draw `size` of the points, (n, 3) unit vectors, by `seed`."""
        n = len(vectors)
        rng = np.random.default_rng(seed)
        self.sample = np.arange(n) if n <= size else np.sort(rng.choice(n, size, replace=False))
        self._km = _distances_km(vectors[self.sample])

    def of(self, labels: Ints) -> float:
        """From -1 to 1, higher is better, for labels from 0, (n,); nan if the sample has fewer than two clusters."""
        _, label = np.unique(labels[self.sample], return_inverse=True)
        sizes = np.bincount(label)
        if len(sizes) < 2:
            return float("nan")
        # Sums of runs of rows, not a matrix product: the last bits of a product depend on the number of threads.
        by_cluster, starts = np.argsort(label, kind="stable"), np.cumsum(sizes) - sizes
        sums = np.add.reduceat(self._km[by_cluster], starts, axis=0).T
        rows = np.arange(len(label))
        own = sums[rows, label] / np.maximum(sizes[label] - 1, 1)
        means = sums / sizes
        means[rows, label] = np.inf
        other = means.min(axis=1)
        larger = np.maximum(np.maximum(own, other), 1e-9)
        return float(np.where(sizes[label] > 1, (other - own) / larger, 0).mean())


def davies_bouldin(vectors: Floats, labels: Ints) -> float:
    """The Davies-Bouldin index (1979) on the sphere, lower is better; nan for fewer than two clusters.

    The mean over clusters i of max over j of (S_i + S_j) / M_ij, where S_i is the mean great-circle distance of a
    cluster's points to its spherical mean and M_ij the distance of two such means; inf if two means coincide.
    `vectors`: (n, 3) unit vectors, `labels`: (n,) from 0 without gaps.
    """
    count = int(labels.max()) + 1
    if count < 2:
        return float("nan")
    centres = mean_directions(vectors, labels, count)
    km = chord_km(np.linalg.norm(vectors - centres[labels], axis=1))
    scatter = np.bincount(labels, km, count) / np.bincount(labels, minlength=count)
    between = _distances_km(centres).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (scatter[:, None] + scatter[None]) / between
    ratio[np.isnan(ratio)] = np.inf  # 0 / 0: two clusters of equal points at the same place
    np.fill_diagonal(ratio, 0)
    return float(ratio.max(axis=1).mean())


def _distances_km(vectors: Floats) -> NDArray[np.float32]:
    """All great-circle distances in km, (s, s), from chords, which are exact for near points too."""
    km = np.empty((len(vectors), len(vectors)), dtype=np.float32)
    for i in range(0, len(vectors), 256):
        differences = [vectors[i : i + 256, None, axis] - vectors[None, :, axis] for axis in range(3)]
        km[i : i + 256] = chord_km(np.sqrt(sum(np.square(d) for d in differences)))
    return km
