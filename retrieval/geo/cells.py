"""An intricate geometry cut along coarse tiles, once, so that comparing it with many tiles stays cheap.

GEOS compares a tile with all edges of a polygon that lie at the tile's latitudes: of a comb with long teeth these are
all. In a cell, which is the part of the geometry in one coarse tile, few of them are left. Knows nothing of queries.
"""

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from retrieval.geo.polygons import prepared
from tile_cache.addressing import bounds_of_codes

__all__ = ["Cells"]

_FIRST = 4
"""Zoom of the largest cells. The tiles of a zoom are compared in the cells two zooms above, each cut from its own."""
_MARGIN = 1e-6
"""Degrees that a cell reaches beyond its tile, so that no cut lies where a tile is compared."""


class Cells:
    """The cells of one geometry, cut when they are first needed. Safe to share between threads."""

    def __init__(self, geometry: Any) -> None:
        self._geometry = geometry
        self._cells: dict[tuple[int, int], tuple[Any, int]] = {}  # by zoom and code: the part, and its corners

    def intersects(self, codes: NDArray[np.uint64], zoom: int, boxes: Any, most: int) -> tuple[NDArray[np.bool_], int]:
        """Which boxes, (n,) rectangles inside the tiles (n,) uint64 of this zoom, meet the geometry; and the work.

        The work is the sum of the corners that each box was compared with. Beyond `most` the comparison ends early, and
        the first result means nothing.
        """
        met = np.zeros(len(codes), dtype=np.bool_)
        if not len(codes):
            return met, 0
        if zoom < _FIRST:
            return np.asarray(shapely.intersects(self._geometry, boxes)), 0
        cell_zoom = max(_FIRST, zoom - 2 - zoom % 2)
        of_cell = codes >> np.uint64(2 * (zoom - cell_zoom))
        order = np.argsort(of_cell, kind="stable")
        cells, starts = np.unique(of_cell[order], return_index=True)
        work = 0
        for cell, rows in zip(cells.tolist(), np.split(order, starts[1:]), strict=True):
            part, corners = self._cell(cell_zoom, cell)
            work += (corners + 8) * len(rows)
            if work > most:
                break
            if corners:
                met[rows] = shapely.intersects(part, boxes[rows])
        return met, work

    def _cell(self, zoom: int, code: int) -> tuple[Any, int]:
        known = self._cells.get((zoom, code))
        if known is None:
            whole = self._geometry if zoom == _FIRST else self._cell(zoom - 2, code >> 4)[0]
            west, south, east, north = (float(v[0]) for v in bounds_of_codes(np.array([code], dtype=np.uint64), zoom))
            part = shapely.clip_by_rect(whole, west - _MARGIN, south - _MARGIN, east + _MARGIN, north + _MARGIN)
            corners = int(shapely.get_num_coordinates(part))
            known = (prepared(part) if corners else part, corners)
            self._cells[zoom, code] = known
        return known
