"""From probabilities of clusters to masses of tiles: each cluster's evenly over its own area. Knows no pictures."""

import numpy as np
from numpy.typing import NDArray

from retrieval.priors.partition import TILE_ZOOM, Partition
from tile_cache.addressing import area_shares, centres_of_codes, codes_at

__all__ = ["ClusterSpread"]

_FINER = 1
"""Zooms below TILE_ZOOM at which points are asked for their cluster: four a tile, as borders run through tiles."""

Floats = NDArray[np.float64]


class ClusterSpread:
    """Which share of each cluster lies in which tile of TILE_ZOOM, as three columns: cluster, tile, share."""

    def __init__(self, partition: Partition) -> None:
        count = len(partition.clusters)
        codes = np.arange(4 ** (TILE_ZOOM + _FINER), dtype=np.uint64)
        lng, lat = centres_of_codes(codes, TILE_ZOOM + _FINER)
        cluster, area = partition.cluster_of(lat, lng), area_shares(codes, TILE_ZOOM + _FINER)
        tiles = (codes >> np.uint64(2 * _FINER)).astype(np.int64)
        pairs, where = np.unique(tiles * count + cluster, return_inverse=True)
        tile, owner = np.divmod(pairs, count)
        whole = np.bincount(cluster, area, minlength=count)
        # A cluster so small that none of the points is its own lies in the tile that holds its centre.
        lost = np.flatnonzero(whole == 0)
        lat, lng = partition.cluster_centres[lost].T
        self._tile = np.concatenate([tile, codes_at(lng, lat, TILE_ZOOM).astype(np.int64)])
        self._cluster = np.concatenate([owner, lost])
        self._share = np.concatenate([np.bincount(where, area) / whole[owner], np.ones(len(lost))])

    def mass(self, probability: Floats) -> Floats:
        """Probabilities of clusters, (m,), to masses of the tiles of TILE_ZOOM in Morton order, (65536,)."""
        parts = probability[self._cluster] * self._share
        return np.asarray(np.bincount(self._tile, parts, minlength=4**TILE_ZOOM), dtype=np.float64)
