"""From clusters with outliers to cells, and from a cell to its clusters: who belongs to which centroid.

Points are (n, 3) float64 unit vectors; the nearest by chord is the nearest by great circle. The steps are those of the
geoembeddings paper, see docs/method.md, section "Geocells". Knows nothing of files or settings.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from indexer.geocells.partition.optics import chord_of
from retrieval.sphere import mean_directions

__all__ = ["MAX_CLUSTERS", "MERGE_KM", "MIN_CLUSTERS", "Assignment", "assign_outliers", "cluster_count", "nearest"]
__all__ += ["split_cell"]

MERGE_KM = 1.0
"""Centroids nearer than this are merged: the edge between them would be finer than places are known."""
MIN_CLUSTERS, MAX_CLUSTERS = 5, 100
"""Limits for the number of clusters in a cell, from the geoembeddings paper."""
_KMEANS_POINTS = 20_000
"""Places of a cell that k-means is fitted to; the others are assigned to the nearest centre."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Assignment:
    """Cells and the points in them."""

    centroids: Floats
    """(c, 3) unit vectors."""
    cell: Ints
    """(n,) the nearest centroid of each point; every cell has a point."""
    moved: float
    """The share of points whose nearest centroid is not that of the cluster that they belonged to or joined."""

    @property
    def counts(self) -> Ints:
        """(c,) points in each cell."""
        return np.bincount(self.cell, minlength=len(self.centroids))

    def by_size(self) -> "Assignment":
        """The same cells, ordered by the number of points, largest first."""
        order = np.argsort(-self.counts, kind="stable")
        rank = np.empty(len(order), dtype=np.intp)
        rank[order] = np.arange(len(order))
        return Assignment(self.centroids[order], rank[self.cell], self.moved)


def assign_outliers(vectors: Floats, labels: Ints) -> Assignment:
    """Turn clusters into cells. `labels`: (n,) cluster of each point, from 0 without gaps, -1 for outliers.

    Outliers join the nearest centroid, centroids are recomputed once, centroids within MERGE_KM of each other are
    merged, and every point counts for the nearest centroid. A centroid that is no point's nearest is dropped.
    """
    clustered = labels >= 0
    centroids = mean_directions(vectors[clustered], labels[clustered], int(labels.max()) + 1)
    joined = labels.copy()
    joined[~clustered] = nearest(vectors[~clustered], centroids)
    joined = _merged(vectors, joined)
    centroids = mean_directions(vectors, joined, int(joined.max()) + 1)
    near = nearest(vectors, centroids)
    used, cell = np.unique(near, return_inverse=True)
    return Assignment(centroids[used], cell.astype(np.intp), float((near != joined).mean()))


def nearest(vectors: Floats, centroids: Floats) -> Ints:
    """The row of the nearest centroid, (c, 3), for each of the points, (n, 3): (n,)."""
    return np.asarray(cKDTree(centroids).query(vectors)[1], dtype=np.intp)


def cluster_count(photos: int, per_cluster: float) -> int:
    """How many clusters a cell with so many photos gets, from MIN_CLUSTERS to MAX_CLUSTERS."""
    return int(np.clip(round(photos / per_cluster), MIN_CLUSTERS, MAX_CLUSTERS))


def split_cell(vectors: Floats, count: int, seed: int) -> tuple[Floats, Ints]:
    """Divide a cell's points into at most `count` clusters by k-means: centres (k, 3), and each point's cluster (n,).

    There are fewer if there are fewer distinct places. The result does not depend on the number of threads. A centre is
    a mean of points of its cell; cells are convex, so it lies in the cell.
    """
    places, weights = np.unique(vectors, axis=0, return_counts=True)
    centres = places if len(places) <= count else _kmeans_centres(places, weights, count, seed)
    used, labels = np.unique(nearest(vectors, centres), return_inverse=True)
    return mean_directions(vectors, labels, len(used)), labels.astype(np.intp)


def _merged(vectors: Floats, labels: Ints) -> Ints:
    """Merge clusters whose centroids are within MERGE_KM, until no such pair is left."""
    while True:
        count = int(labels.max()) + 1
        tree = cKDTree(mean_directions(vectors, labels, count))
        pairs = tree.query_pairs(float(chord_of(np.float64(MERGE_KM))), output_type="ndarray")
        if not len(pairs):
            return labels
        graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
        labels = connected_components(graph, directed=False)[1][labels].astype(np.intp)


def _kmeans_centres(places: Floats, weights: Ints, count: int, seed: int) -> Floats:
    if len(places) > _KMEANS_POINTS:
        drawn = np.random.default_rng(seed).choice(len(places), _KMEANS_POINTS, replace=False)
        places, weights = places[np.sort(drawn)], weights[np.sort(drawn)]
    with threadpool_limits(limits=1):  # several threads add up in any order, which changes the last bits
        fitted = KMeans(count, n_init=1, random_state=seed, max_iter=100).fit(places, sample_weight=weights)
    return np.asarray(fitted.cluster_centers_, dtype=np.float64)
