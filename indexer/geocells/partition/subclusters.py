"""Clusters within a cell: k-means on unit vectors, as many as its photos allow.

Means of points of a convex cell lie in it, so that a cluster's centre is in its own cell.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from indexer.geocells.partition.outliers import nearest
from retrieval.sphere import mean_directions

__all__ = ["LEAST", "MOST", "how_many", "subdivide"]

LEAST, MOST = 5, 100
"""Paper G's: clusters of a cell."""
_FITTED = 20_000
"""Points of a cell that k-means sees; the others join the nearest centre."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


def how_many(photos: int, per_cluster: float) -> int:
    """Clusters of a cell: one for so many photos, from LEAST to MOST."""
    return int(np.clip(round(photos / per_cluster), LEAST, MOST))


def subdivide(vectors: Floats, count: int, seed: int) -> tuple[Floats, Ints]:
    """Part a cell's points, (n, 3) unit vectors, into at most `count` clusters: their means, (k, 3), and whose, (n,).

    Fewer where there are fewer distinct places. The same on any number of threads.
    """
    places, weights = np.unique(vectors, axis=0, return_counts=True)
    centres = places if len(places) <= count else _centres(places, weights, count, seed)
    used, labels = np.unique(nearest(vectors, centres), return_inverse=True)
    return mean_directions(vectors, labels, len(used)), labels.astype(np.intp)


def _centres(places: Floats, weights: Ints, count: int, seed: int) -> Floats:
    if len(places) > _FITTED:
        drawn = np.random.default_rng(seed).choice(len(places), _FITTED, replace=False)
        places, weights = places[np.sort(drawn)], weights[np.sort(drawn)]
    with threadpool_limits(limits=1):  # threads add up in any order, and the last bits follow
        found = KMeans(count, n_init=1, random_state=seed, max_iter=100).fit(places, sample_weight=weights)
    return np.asarray(found.cluster_centers_, dtype=np.float64)
