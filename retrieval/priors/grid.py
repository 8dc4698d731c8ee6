"""A belief as the masses of all tiles of one zoom. In Morton order, any coarser tile is a run of them.

It is built once for each picture and looked up for the candidates of every level. Areas are those on the sphere.
"""

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import PriorError
from tile_cache.addressing import LngLat, area_shares, centres_of_codes

__all__ = ["FLOOR", "GridBelief"]

FLOOR = 1e-7
"""Share of a soft belief's mass that is spread evenly by area, so that even a firm belief can be outvoted."""
MAX_BASE_ZOOM = 8
"""Zoom 8 has 65,536 masses, half a megabyte for each picture."""

Codes = NDArray[np.uint64]
Floats = NDArray[np.float64]


class GridBelief:
    """Masses at one base zoom. The mass of a base tile is even over its area."""

    def __init__(self, zoom: int, mass: Floats, best: LngLat | None) -> None:
        """Use `of`. `mass`: (4**zoom,), sums to 1."""
        self.zoom, self._mass, self._best = zoom, mass, best
        self._before = np.empty(len(mass) + 1)
        self._before[0] = 0.0
        np.cumsum(mass, out=self._before[1:])

    @classmethod
    def of(
        cls, mass: NDArray[np.floating], zoom: int, *, floor: float = FLOOR, best: LngLat | None = None
    ) -> "GridBelief":
        """From masses of all tiles of a zoom, (4**zoom,), not negative, of any sum above 0; 0 <= zoom <= 8.

        `floor`: the share spread evenly by area, 0 for a hard belief; `best`: the prior's own answer, None for the
        centre of the heaviest tile. Raises PriorError for other masses.
        """
        if not 0 <= zoom <= MAX_BASE_ZOOM or mass.shape != (4**zoom,):
            raise PriorError(
                f"masses of shape {mass.shape} at zoom {zoom}: give 4**zoom masses, zoom at most {MAX_BASE_ZOOM}"
            )
        total = float(mass.sum(dtype=np.float64))
        if not (math.isfinite(total) and total > 0) or float(mass.min()) < 0:
            raise PriorError(
                f"masses from {mass.min()} up, of sum {total}: give masses of 0 or more and a finite sum above 0"
            )
        shares = np.multiply(mass, (1 - floor) / total, dtype=np.float64)
        if floor:
            shares += floor * _all_areas(zoom)
        return cls(zoom, shares, best)

    def log_mass(self, codes: Codes, zoom: int) -> NDArray[np.float32]:
        """(n,) Morton codes to (n,) logs; see `base.Belief`."""
        with np.errstate(divide="ignore"):
            return np.log(self._of(codes, zoom)).astype(np.float32)

    def best(self) -> LngLat:
        """The prior's own answer, or the centre of the heaviest base tile; among equal tiles the lower code wins."""
        if self._best is not None:
            return self._best
        lng, lat = centres_of_codes(np.array([self._mass.argmax()], dtype=np.uint64), self.zoom)
        return LngLat(float(lng[0]), float(lat[0]))

    def _of(self, codes: Codes, zoom: int) -> Floats:
        if zoom < self.zoom:
            shift = np.uint64(2 * (self.zoom - zoom))
            return np.asarray(self._before[(codes + np.uint64(1)) << shift] - self._before[codes << shift])
        if zoom == self.zoom:
            return np.asarray(self._mass[codes])
        base = codes >> np.uint64(2 * (zoom - self.zoom))
        return np.asarray(self._mass[base] * (area_shares(codes, zoom) / area_shares(base, self.zoom)))


@cache
def _all_areas(zoom: int) -> Floats:
    every = area_shares(np.arange(4**zoom, dtype=np.uint64), zoom)
    every.setflags(write=False)  # cached: all callers share it
    return every
