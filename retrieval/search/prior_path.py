"""A belief along one descent: what the prior gains from parent to child, so that it counts once along a path."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.reader import Candidates, Level
from retrieval.priors.base import Belief
from tile_cache.addressing import LngLat, codes_at

__all__ = ["NO_HINT", "Guidance", "Hint", "with_place"]

Floats = NDArray[np.float64]
_NOTHING = 1e-5
"""Of the parents' prior mass: less than this outside the candidates is what rounding leaves."""


class Hint(NamedTuple):
    """What the prior says of a level: (c,) logs of its candidates' masses and gains, and log of what lies outside."""

    log_mass: Floats | None
    gains: Floats | None
    outside: float


NO_HINT = Hint(None, None, 0.0)


class Guidance:
    """One belief on its way down. Of each level `among` is asked first, then `hint`, then `keep` what was kept."""

    def __init__(self, belief: Belief) -> None:
        self._belief = belief
        self._above = self._here = np.zeros(1)

    def among(self, level: Level, found: Candidates) -> Candidates:
        """The candidates that the belief does not rule out."""
        here = self._belief.log_mass(level.codes[found.rows], level.zoom).astype(np.float64)
        possible = np.isfinite(here)
        self._here = here
        if possible.all():
            return found
        self._here = here[possible]
        return Candidates(found.rows[possible], found.similarities[possible], found.slots[possible])

    def hint(self, alive: NDArray[np.intp] | slice, slots: NDArray[np.intp]) -> Hint:
        """Of the candidates; `alive` chooses the kept tiles above that have any, `slots`: (c,) whose child each is."""
        above = self._above[alive]
        held = np.exp(self._here - above.max()).sum() / np.exp(above - above.max()).sum()
        outside = np.log1p(-held) if 1 - held > _NOTHING else -np.inf
        return Hint(self._here, self._here - above[slots], float(outside))

    def keep(self, kept: NDArray[np.intp]) -> None:
        """Go on beneath these candidates."""
        self._above = self._here[kept]


def with_place(kept: NDArray[np.intp], level: Level, rows: NDArray[np.int64], place: LngLat) -> NDArray[np.intp]:
    """`kept`, positions among a level's `rows`, ascending, and that of the tile that holds a place, if it is there."""
    code = codes_at(np.array([place.lng]), np.array([place.lat]), level.zoom)[0]
    positions = np.flatnonzero(level.codes[rows] == code)
    return np.union1d(kept, positions)
