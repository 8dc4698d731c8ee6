"""From clusters with outliers to cells: everybody joins a centroid, centroids move once, and the nearest one counts.

Paper G's steps. Points are unit vectors, nearest by chord, which is nearest by haversine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from indexer.geocells.partition.optics import chord_of
from retrieval.sphere import mean_directions

__all__ = ["MERGE_KM", "Settled", "nearest", "settle"]

MERGE_KM = 1.0
"""Centroids nearer than this are one: a cell's edge would be finer than places are known."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Settled:
    """Cells and who is in them."""

    centroids: Floats
    """(c, 3) unit vectors."""
    cell: Ints
    """(n,) the nearest centroid of each point; every cell has a point."""
    moved: float
    """The share of points whose nearest centroid is not that of the cluster that they were in or joined."""

    @property
    def counts(self) -> Ints:
        """(c,) points in each cell."""
        return np.bincount(self.cell, minlength=len(self.centroids))


def settle(vectors: Floats, labels: Ints) -> Settled:
    """Cells from clusters of points, (n, 3) unit vectors; `labels`: (n,) from 0 without gaps, -1 for outliers.

    Outliers join the nearest centroid; centroids are taken anew, once; those within MERGE_KM become one; a centroid
    that then is nobody's nearest is left out.
    """
    dense = labels >= 0
    first = mean_directions(vectors[dense], labels[dense], int(labels.max()) + 1)
    joined = labels.copy()
    joined[~dense] = nearest(vectors[~dense], first)
    joined = _merged(vectors, joined)
    centroids = mean_directions(vectors, joined, int(joined.max()) + 1)
    near = nearest(vectors, centroids)
    kept, cell = np.unique(near, return_inverse=True)
    return Settled(centroids[kept], cell.astype(np.intp), float((near != joined).mean()))


def nearest(vectors: Floats, centroids: Floats) -> Ints:
    """The nearest of (c, 3) unit vectors for each of (n, 3), to (n,)."""
    return np.asarray(cKDTree(centroids).query(vectors)[1], dtype=np.intp)


def _merged(vectors: Floats, labels: Ints) -> Ints:
    while True:
        count = int(labels.max()) + 1
        tree = cKDTree(mean_directions(vectors, labels, count))
        pairs = tree.query_pairs(float(chord_of(np.float64(MERGE_KM))), output_type="ndarray")
        if not len(pairs):
            return labels
        graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
        labels = connected_components(graph, directed=False)[1][labels].astype(np.intp)
