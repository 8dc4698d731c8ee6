"""OPTICS: one ordering of points by density, out of which clusters for many settings are read.

Ankerst et al. 1999 ("OPTICS: Ordering Points To Identify the Clustering Structure"), on the sphere. Neighbours come
from a KD-tree of unit vectors: a chord is shorter exactly if its great circle is, so that the order is that of the
haversine. scikit-learn's `compute_optics_graph` gives the same ordering to the bit (a test holds them together), but
checks its arguments anew at every point and takes some thirty times as long; its extraction of clusters is what we use.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.cluster import cluster_optics_dbscan, cluster_optics_xi

from retrieval.sphere import EARTH_RADIUS_KM, chord_km

__all__ = ["Ordering", "chord_of", "km_of", "order"]

_DIGITS = 15  # as scikit-learn rounds distances, so that what is as near counts as equally near
_TOLD = 2048
"""Points between two steps that are told."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Ordering:
    """Points in the order in which OPTICS reaches them; all arrays (n,), by point, distances in km."""

    min_samples: int
    """A point is dense where it has so many within a distance, itself included."""
    max_eps_km: float
    """No two points farther apart were called neighbours."""
    order: Ints
    core_km: Floats
    """Within which distance a point has `min_samples`; inf where that is beyond max_eps_km."""
    reach_km: Floats
    """From how far a point was reached; inf where nothing reached it."""
    predecessor: Ints
    """From where it was reached; -1: from nowhere."""

    def cut(self, eps_km: float) -> Ints:
        """DBSCAN's clusters at a distance of at most max_eps_km, (n,) from 0; -1 for outliers."""
        found = cluster_optics_dbscan(
            reachability=self.reach_km, core_distances=self.core_km, ordering=self.order, eps=eps_km
        )
        return np.asarray(found, dtype=np.intp)

    def steep(self, xi: float) -> Ints:
        """Clusters between places where the reachability falls and rises by a share of `xi`, (n,); -1 for outliers."""
        if len(self.order) < 2:
            return np.full(len(self.order), -1, dtype=np.intp)
        found, _ = cluster_optics_xi(
            reachability=self.reach_km,
            predecessor=self.predecessor,
            ordering=self.order,
            min_samples=self.min_samples,
            xi=xi,
        )
        return np.asarray(found, dtype=np.intp)


def order(
    vectors: Floats, min_samples: int, max_eps_km: float, on_points: Callable[[int], None] = lambda done: None
) -> Ordering:
    """Order points, (n, 3) unit vectors; 2 <= min_samples <= n. The lowest row goes first among equals.

    Memory grows with n, time with the neighbours within max_eps_km and, slightly, with n squared: the nearest of the
    points that were reached is looked for among all of them, n numbers at a time.
    """
    tree, reach_limit = cKDTree(vectors), float(chord_of(np.float64(max_eps_km)))
    core = _core_chords(tree, vectors, min_samples, reach_limit)
    walk = _Walk(tree, vectors, core, reach_limit)
    ordered = np.empty(len(vectors), dtype=np.intp)
    for step in range(len(vectors)):
        ordered[step] = walk.next()
        if (step + 1) % _TOLD == 0:
            on_points(step + 1)
    on_points(len(vectors))
    return Ordering(min_samples, max_eps_km, ordered, km_of(core), km_of(walk.reach), walk.predecessor)


class _Walk:
    """The state of an ordering under way. `waiting`: the reach of points to come that something has reached."""

    def __init__(self, tree: cKDTree, vectors: Floats, core: Floats, limit: float) -> None:
        n = len(vectors)
        self._tree, self._vectors, self._core, self._limit = tree, vectors, core, limit
        self.reach, self.predecessor = np.full(n, np.inf), np.full(n, -1, dtype=np.intp)
        self._waiting, self._done, self._first = np.full(n, np.inf), np.zeros(n, dtype=np.bool_), 0

    def next(self) -> int:
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
        away = np.sqrt(np.square(self._vectors[near] - self._vectors[point]).sum(axis=1))
        away = np.around(np.maximum(away, self._core[point]), _DIGITS)
        nearer = away < self.reach[near]
        near, away = near[nearer], away[nearer]
        self.reach[near] = self._waiting[near] = away
        self.predecessor[near] = point


def chord_of(km: Floats | np.float64) -> Floats:
    """Great-circle distances to chords of the unit sphere."""
    return np.asarray(2 * np.sin(np.minimum(np.asarray(km) / EARTH_RADIUS_KM, np.pi) / 2))


def km_of(chord: Floats) -> Floats:
    """Chords of the unit sphere to great-circle distances; inf stays."""
    return np.where(np.isinf(chord), np.inf, chord_km(chord))


def _core_chords(tree: cKDTree, vectors: Floats, min_samples: int, limit: float) -> Floats:
    chords = np.concatenate([tree.query(part, k=[min_samples])[0][:, 0] for part in _blocks(vectors)])
    chords[chords > limit] = np.inf
    return np.around(chords, _DIGITS)


def _blocks(vectors: Floats) -> list[Floats]:
    return [vectors[first : first + 4096] for first in range(0, len(vectors), 4096)]
