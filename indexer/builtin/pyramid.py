"""The tiles that the built-in model learns to tell apart, as classes 0 to n-1 a zoom, coarse to fine."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tile_cache.addressing import centres_of_codes, codes_at, parents_of_codes


@dataclass(frozen=True)
class Pyramid:
    """Covered tiles by zoom, closed upward: codes (n,) uint64 ascending, parents (n,) int64 rows of the zoom above."""

    zooms: tuple[int, ...]
    codes: dict[int, NDArray[np.uint64]]
    parents: dict[int, NDArray[np.int64]]

    @classmethod
    def from_codes(cls, codes: dict[int, NDArray[np.uint64]]) -> "Pyramid":
        """From ascending codes by zoom, which must be closed upward."""
        zooms = tuple(sorted(codes))
        parents: dict[int, NDArray[np.int64]] = {zooms[0]: np.zeros(len(codes[zooms[0]]), dtype=np.int64)}
        for above, z in pairwise(zooms):
            up = parents_of_codes(codes[z], z - above)
            parents[z] = np.searchsorted(codes[above], up)
            if not np.array_equal(codes[above][np.minimum(parents[z], len(codes[above]) - 1)], up):
                raise ValueError(f"a tile of zoom {z} has no ancestor at zoom {above}: coverage must be closed upward")
        return cls(zooms, codes, parents)

    def classes(self, lng: NDArray[np.float64], lat: NDArray[np.float64]) -> dict[int, NDArray[np.int64]]:
        """For each zoom the row of the tile that contains each point, (n,) int64; -1 where none is covered."""
        rows = {}
        for z in self.zooms:
            wanted = codes_at(lng, lat, z)
            found = np.minimum(np.searchsorted(self.codes[z], wanted), len(self.codes[z]) - 1)
            rows[z] = np.where(self.codes[z][found] == wanted, found, -1).astype(np.int64)
        return rows

    def centres(self, zoom: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Tile centres as (lng, lat), (n,) float64 degrees each."""
        return centres_of_codes(self.codes[zoom], zoom)
