"""The table of tiles of a partition: which cells each tile meets, and the area and photos that they share.

It lets a prior spread a cell's probability over tiles. Knows Morton codes and centroids, not files.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from indexer.geocells.partition.assign import nearest
from retrieval.priors.partition import TILE_ZOOM, TILES
from retrieval.sphere import rectangle_km2, unit_vectors
from tile_cache.addressing import bounds_of_codes, centres_of_codes, children_of_codes, codes_at

__all__ = ["tile_table"]

_DEEPER = 3
"""A tile that may meet several cells is sampled at the centres of its 64 descendants this many zooms deeper."""

Codes = NDArray[np.uint64]
Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


def tile_table(centroids: Floats, areas_km2: Floats, lng: Floats, lat: Floats, cell: Ints) -> NDArray[np.void]:
    """The TILES table. `centroids`: (c, 3) unit vectors; `areas_km2`: (c,) of the cells; per photo, (n,): place, cell.

    A descendant counts with its whole area for the cell that its centre is in. A cell that contains no such centre gets
    a row for the tile of its centroid, and a cell with a photo in a tile gets a row for that tile.
    """
    codes = np.arange(4**TILE_ZOOM, dtype=np.uint64)
    whole, owner = _undivided(codes, centroids)
    descendants = children_of_codes(codes[~whole], _DEEPER)
    tiles = np.concatenate([codes[whole], descendants >> np.uint64(2 * _DEEPER)])
    cells = np.concatenate([owner[whole], nearest(_centres(descendants, TILE_ZOOM + _DEEPER), centroids)])
    areas = np.concatenate([_areas_km2(codes[whole], TILE_ZOOM), _areas_km2(descendants, TILE_ZOOM + _DEEPER)])
    area_keys = _keys(tiles, cells, len(centroids))
    photo_keys = _keys(codes_at(lng, lat, TILE_ZOOM), cell, len(centroids))
    keys = np.unique(np.concatenate([area_keys, _centroid_keys(cells, centroids), photo_keys]))
    table = np.zeros(len(keys), dtype=TILES)
    table["code"], table["cell"] = keys // len(centroids), keys % len(centroids)
    table["area_km2"] = np.bincount(np.searchsorted(keys, area_keys), areas, len(keys))
    table["photos"] = np.bincount(np.searchsorted(keys, photo_keys), minlength=len(keys))
    return _without_zero_areas(table, areas_km2)


def _undivided(codes: Codes, centroids: Floats) -> tuple[NDArray[np.bool_], Ints]:
    """Whether each tile surely lies in one cell, and the cell of its centre.

    It does if the second nearest centroid is farther from its centre by more than twice the tile's radius.
    """
    if len(centroids) == 1:
        return np.ones(len(codes), dtype=np.bool_), np.zeros(len(codes), dtype=np.intp)
    centres = _centres(codes, TILE_ZOOM)
    chords, rows = cKDTree(centroids).query(centres, k=2)
    west, south, _, north = bounds_of_codes(codes, TILE_ZOOM)
    corners = [unit_vectors(west, edge) for edge in (south, north)]
    radius = np.max([np.linalg.norm(centres - corner, axis=1) for corner in corners], axis=0)
    return np.asarray(chords[:, 1] - chords[:, 0] > 2 * radius), np.asarray(rows[:, 0], dtype=np.intp)


def _centroid_keys(cells: Ints, centroids: Floats) -> NDArray[np.int64]:
    """For every cell that is not in `cells`, the key of it and the tile of its centroid."""
    missing = np.setdiff1d(np.arange(len(centroids)), cells)
    x, y, z = centroids[missing].T
    # Not `degrees_of`: its rounding differs in the last bit, and could move a centroid on an edge to the next tile.
    lng, lat = np.degrees(np.arctan2(y, x)), np.degrees(np.arcsin(np.clip(z, -1, 1)))
    return _keys(codes_at(lng, lat, TILE_ZOOM), missing, len(centroids))


def _without_zero_areas(table: NDArray[np.void], areas_km2: Floats) -> NDArray[np.void]:
    """Rows without a sampled centre get half a descendant's area, or the cell's area if that is less."""
    empty = table["area_km2"] <= 0
    half = _areas_km2(table["code"][empty].astype(np.uint64), TILE_ZOOM) / 4**_DEEPER / 2
    table["area_km2"][empty] = np.minimum(half, areas_km2[table["cell"][empty]])
    return table


def _keys(tiles: Codes, cells: Ints, count: int) -> NDArray[np.int64]:
    """One number for each pair of tile and cell, ordered by tile, then cell."""
    return tiles.astype(np.int64) * count + cells


def _centres(codes: Codes, zoom: int) -> Floats:
    return unit_vectors(*centres_of_codes(codes, zoom))


def _areas_km2(codes: Codes, zoom: int) -> Floats:
    west, south, east, north = bounds_of_codes(codes, zoom)
    return rectangle_km2(west, south, east, north)
