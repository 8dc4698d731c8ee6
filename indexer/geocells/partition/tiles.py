"""Which cells each tile of a zoom meets, and what area of it they have: the table that spreads cells over tiles."""

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from indexer.geocells.partition.outliers import nearest
from retrieval.priors.partition import TILE_ZOOM, TILES
from retrieval.sphere import rectangle_km2, unit_vectors
from tile_cache.addressing import bounds_of_codes, centres_of_codes, children_of_codes, codes_at

__all__ = ["share_out"]

_DEEPER = 3
"""A tile that may meet several cells is asked at the centres of its 64 descendants so many zooms down."""

Codes = NDArray[np.uint64]
Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


def share_out(centroids: Floats, areas_km2: Floats, lng: Floats, lat: Floats, cell: Ints) -> NDArray[np.void]:
    """The TILES table: `centroids` (c, 3) unit vectors and areas of the cells, places of photos and their cells, (n,).

    A descendant counts with its area for the cell that its centre is in. A cell that is too small to have any such
    centre, or a tile that it has photos in, still gets a row.
    """
    codes = np.arange(4**TILE_ZOOM, dtype=np.uint64)
    whole, owner = _undivided(codes, centroids)
    parts = children_of_codes(codes[~whole], _DEEPER)
    tiles = np.concatenate([codes[whole], parts >> np.uint64(2 * _DEEPER)])
    cells = np.concatenate([owner[whole], nearest(_centres(parts, TILE_ZOOM + _DEEPER), centroids)])
    areas = np.concatenate([_areas_km2(codes[whole], TILE_ZOOM), _areas_km2(parts, TILE_ZOOM + _DEEPER)])
    rows, places = _with_homes(tiles, cells, centroids), codes_at(lng, lat, TILE_ZOOM)
    keys = np.unique(np.concatenate([rows, _keys(places, cell, len(centroids))]))
    table = np.zeros(len(keys), dtype=TILES)
    table["code"], table["cell"] = keys // len(centroids), keys % len(centroids)
    at = np.searchsorted(keys, _keys(tiles, cells, len(centroids)))
    table["area_km2"] = np.bincount(at, areas, len(keys))
    photos_at = np.searchsorted(keys, _keys(places, cell, len(centroids)))
    table["photos"] = np.bincount(photos_at, minlength=len(keys))
    return _none_empty(table, areas_km2)


def _undivided(codes: Codes, centroids: Floats) -> tuple[NDArray[np.bool_], Ints]:
    """Whether a tile is surely in one cell, and its centre's cell: the next centroid is farther by twice its radius."""
    if len(centroids) == 1:
        return np.ones(len(codes), dtype=np.bool_), np.zeros(len(codes), dtype=np.intp)
    centres = _centres(codes, TILE_ZOOM)
    chords, found = cKDTree(centroids).query(centres, k=2)
    west, south, _, north = bounds_of_codes(codes, TILE_ZOOM)
    corners = [unit_vectors(west, edge) for edge in (south, north)]
    radius = np.max([np.linalg.norm(centres - corner, axis=1) for corner in corners], axis=0)
    return np.asarray(chords[:, 1] - chords[:, 0] > 2 * radius), np.asarray(found[:, 0], dtype=np.intp)


def _with_homes(tiles: Codes, cells: Ints, centroids: Floats) -> NDArray[np.int64]:
    """The keys of all pairs, with each cell that has none in the tile that its centroid is in."""
    lacking = np.setdiff1d(np.arange(len(centroids)), cells)
    # Not `degrees_of`: its rounding differs in the last bit, and could move a centroid on an edge to the next tile.
    lng = np.degrees(np.arctan2(centroids[lacking, 1], centroids[lacking, 0]))
    homes = codes_at(lng, np.degrees(np.arcsin(np.clip(centroids[lacking, 2], -1, 1))), TILE_ZOOM)
    keys = [_keys(tiles, cells, len(centroids)), _keys(homes, lacking, len(centroids))]
    return np.unique(np.concatenate(keys))


def _none_empty(table: NDArray[np.void], areas_km2: Floats) -> NDArray[np.void]:
    """Rows without a sample get a little: half a descendant's area, or the cell's where that is less."""
    none = table["area_km2"] <= 0
    least = _areas_km2(table["code"][none].astype(np.uint64), TILE_ZOOM) / 4**_DEEPER / 2
    table["area_km2"][none] = np.minimum(least, areas_km2[table["cell"][none]])
    return table


def _keys(tiles: Codes, cells: Ints, count: int) -> NDArray[np.int64]:
    return tiles.astype(np.int64) * count + cells


def _centres(codes: Codes, zoom: int) -> Floats:
    return unit_vectors(*centres_of_codes(codes, zoom))


def _areas_km2(codes: Codes, zoom: int) -> Floats:
    west, south, east, north = bounds_of_codes(codes, zoom)
    return rectangle_km2(west, south, east, north)
