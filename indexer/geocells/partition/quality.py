"""How well a clustering parts points on the sphere: silhouette and Davies-Bouldin, both by great-circle distance.

Both are reckoned over all points, those that were outliers with the clusters that they were joined to: judged on its
dense middles alone, the setting that calls the most points outliers would look best.
"""

import numpy as np
from numpy.typing import NDArray

from retrieval.sphere import chord_km, mean_directions

__all__ = ["Silhouette", "davies_bouldin"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class Silhouette:
    """The silhouette of clusterings of one set of points, on a sample of them whose distances are taken once.

    Rousseeuw 1987: for a point with mean distance a to its own cluster's other points and b to those of the nearest
    other cluster, (b - a) / max(a, b), 0 for a point alone in its cluster; the mean over all points of the sample.
    Clusters are those that the sample shows. Memory is 4 bytes times the square of the sample.
    """

    def __init__(self, vectors: Floats, size: int, seed: int) -> None:
        """`vectors`: (n, 3) unit vectors, of which `size` are drawn by `seed`."""
        n = len(vectors)
        rng = np.random.default_rng(seed)
        self.sample = np.arange(n) if n <= size else np.sort(rng.choice(n, size, replace=False))
        self._km = _distances(vectors[self.sample])

    def of(self, labels: Ints) -> float:
        """From -1 to 1, the higher the better, for labels from 0, (n,); nan where the sample shows fewer than two."""
        _, here = np.unique(labels[self.sample], return_inverse=True)
        sizes = np.bincount(here)
        if len(sizes) < 2:
            return float("nan")
        # Runs of rows are added up, not multiplied: a product's last bits depend on the number of threads.
        by_cluster, firsts = np.argsort(here, kind="stable"), np.cumsum(sizes) - sizes
        sums = np.add.reduceat(self._km[by_cluster], firsts, axis=0).T
        rows = np.arange(len(here))
        own = sums[rows, here] / np.maximum(sizes[here] - 1, 1)
        means = sums / sizes
        means[rows, here] = np.inf
        other = means.min(axis=1)
        widest = np.maximum(np.maximum(own, other), 1e-9)
        return float(np.where(sizes[here] > 1, (other - own) / widest, 0).mean())


def davies_bouldin(vectors: Floats, labels: Ints) -> float:
    """Davies and Bouldin 1979 on the sphere, the lower the better; nan for fewer than two clusters.

    Mean over clusters of max over others of (S_i + S_j) / M_ij, with S_i the mean great-circle distance of a cluster's
    points to its spherical mean and M_ij that between two such means; inf where two means coincide. `vectors`: (n, 3)
    unit vectors, `labels`: (n,) from 0 without gaps.
    """
    count = int(labels.max()) + 1
    if count < 2:
        return float("nan")
    centres = mean_directions(vectors, labels, count)
    away = _km(np.linalg.norm(vectors - centres[labels], axis=1))
    scatter = np.bincount(labels, away, count) / np.bincount(labels, minlength=count)
    between = _distances(centres).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (scatter[:, None] + scatter[None]) / between
    ratio[np.isnan(ratio)] = np.inf  # two heaps of equal points at one place are one cluster
    np.fill_diagonal(ratio, 0)
    return float(ratio.max(axis=1).mean())


def _distances(vectors: Floats) -> NDArray[np.float32]:
    """All great-circle distances, (s, s) km, from chords, which are exact for near points too."""
    found = np.empty((len(vectors), len(vectors)), dtype=np.float32)
    for i in range(0, len(vectors), 256):
        parts = [vectors[i : i + 256, None, axis] - vectors[None, :, axis] for axis in range(3)]
        found[i : i + 256] = _km(np.sqrt(sum(np.square(part) for part in parts)))
    return found


def _km(chord: Floats) -> Floats:
    return chord_km(chord)
