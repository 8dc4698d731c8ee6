"""OPTICS on the sphere: one ordering of points by density, from which clusters for many settings are read.

Ankerst et al. 1999, "OPTICS: Ordering Points To Identify the Clustering Structure". Neighbours come from a KD-tree of
unit vectors. A shorter chord means a shorter great circle, so the ordering is the one by haversine distance.
scikit-learn's `compute_optics_graph` gives the same ordering to the bit, which a test checks, but it validates its
arguments at every point and takes about thirty times as long. The extraction of clusters is scikit-learn's.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.cluster import cluster_optics_dbscan, cluster_optics_xi

from retrieval.sphere import EARTH_RADIUS_KM, chord_km

__all__ = ["Ordering", "chord_of", "km_of", "order"]

_DIGITS = 15
"""Decimals that distances are rounded to, as in scikit-learn, so that ties are the same ties."""
_PROGRESS_POINTS = 2048
"""Points between two progress reports."""
_QUERY_POINTS = 4096
"""Points for which core distances are computed at once."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Ordering:
    """Points in the order in which OPTICS reaches them. All arrays are (n,); distances are in km."""

    min_samples: int
    """A point is dense if that many points, itself included, lie within a distance."""
    max_eps_km: float
    """Points farther apart than this are not neighbours."""
    order: Ints
    core_km: Floats
    """The distance within which a point has `min_samples` points; inf if that is more than max_eps_km."""
    reach_km: Floats
    """The distance from which a point was reached; inf if it was not reached from another point."""
    predecessor: Ints
    """The point from which it was reached; -1 if there is none."""

    def dbscan_clusters(self, eps_km: float) -> Ints:
        """DBSCAN's clusters at a distance of at most max_eps_km: (n,) labels from 0, -1 for outliers."""
        labels = cluster_optics_dbscan(
            reachability=self.reach_km, core_distances=self.core_km, ordering=self.order, eps=eps_km
        )
        return np.asarray(labels, dtype=np.intp)

    def xi_clusters(self, xi: float) -> Ints:
        """Clusters whose ends are a fall and a rise of the reachability by a share `xi`: (n,) labels, -1: outlier."""
        if len(self.order) < 2:
            return np.full(len(self.order), -1, dtype=np.intp)
        labels, _ = cluster_optics_xi(
            reachability=self.reach_km,
            predecessor=self.predecessor,
            ordering=self.order,
            min_samples=self.min_samples,
            xi=xi,
        )
        return np.asarray(labels, dtype=np.intp)


def order(
    vectors: Floats,
    min_samples: int,
    max_eps_km: float,
    on_points: Callable[[int, int], None] = lambda done, total: None,
) -> Ordering:
    """Order points, (n, 3) unit vectors, with 2 <= min_samples <= n. Of equally near points the lowest row goes first.

    Memory grows with n. Time grows with the number of neighbours within max_eps_km and, with a small factor, with n
    squared: each step takes the minimum over all n waiting distances. `on_points` receives points done and n.
    """
    n = len(vectors)
    tree, reach_limit = cKDTree(vectors), float(chord_of(np.float64(max_eps_km)))
    core = _core_chords(tree, vectors, min_samples, reach_limit)
    walk = _Walk(tree, vectors, core, reach_limit)
    ordered = np.empty(n, dtype=np.intp)
    for step in range(n):
        ordered[step] = walk.next()
        if (step + 1) % _PROGRESS_POINTS == 0:
            on_points(step + 1, n)
    on_points(n, n)
    return Ordering(min_samples, max_eps_km, ordered, km_of(core), km_of(walk.reach), walk.predecessor)


class _Walk:
    """The state of an ordering in progress. Distances are chords.

    `_waiting` holds the reach of points that were reached and not yet ordered, and inf for all others.
    """

    def __init__(self, tree: cKDTree, vectors: Floats, core: Floats, limit: float) -> None:
        n = len(vectors)
        self._tree, self._vectors, self._core, self._limit = tree, vectors, core, limit
        self.reach, self.predecessor = np.full(n, np.inf), np.full(n, -1, dtype=np.intp)
        self._waiting, self._done, self._first = np.full(n, np.inf), np.zeros(n, dtype=np.bool_), 0

    def next(self) -> int:
        """The next point of the order: the nearest waiting one, else the first that is not done."""
        point = int(self._waiting.argmin())
        if np.isinf(self._waiting[point]):
            while self._done[self._first]:
                self._first += 1
            point = self._first
        self._done[point], self._waiting[point] = True, np.inf
        if np.isfinite(self._core[point]):
            self._reach_from(point)
        return point

    def _reach_from(self, point: int) -> None:
        near = np.asarray(self._tree.query_ball_point(self._vectors[point], self._limit), dtype=np.intp)
        near = near[~self._done[near]]
        chords = np.sqrt(np.square(self._vectors[near] - self._vectors[point]).sum(axis=1))
        chords = np.around(np.maximum(chords, self._core[point]), _DIGITS)
        shorter = chords < self.reach[near]
        near, chords = near[shorter], chords[shorter]
        self.reach[near] = self._waiting[near] = chords
        self.predecessor[near] = point


def chord_of(km: Floats | np.float64) -> Floats:
    """Great-circle distances in km to chords of the unit sphere."""
    return np.asarray(2 * np.sin(np.minimum(np.asarray(km) / EARTH_RADIUS_KM, np.pi) / 2))


def km_of(chord: Floats) -> Floats:
    """Chords of the unit sphere to great-circle distances in km; inf stays inf."""
    return np.where(np.isinf(chord), np.inf, chord_km(chord))


def _core_chords(tree: cKDTree, vectors: Floats, min_samples: int, limit: float) -> Floats:
    blocks = [vectors[first : first + _QUERY_POINTS] for first in range(0, len(vectors), _QUERY_POINTS)]
    chords = np.concatenate([tree.query(block, k=[min_samples])[0][:, 0] for block in blocks])
    chords[chords > limit] = np.inf
    return np.around(chords, _DIGITS)
