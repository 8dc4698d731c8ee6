"""A belief along one descent: what the prior gains from parent to child, so that it counts once along a path.

`PriorPath.start` stands above the first level. At each level `at` gives a `PriorLevel`, whose `below` gives the path
for the next level. Nothing is changed in place, so the steps cannot be taken in another order. See "Priors" in
docs/method.md.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.reader import Candidates, Level
from retrieval.priors.base import Belief
from tile_cache.addressing import LngLat, codes_at

__all__ = ["NO_PRIOR_TERMS", "PriorLevel", "PriorPath", "PriorTerms", "with_place"]

Floats = NDArray[np.float64]
Positions = NDArray[np.intp]
_ROUNDING = 1e-5
"""A smaller share of the parents' prior mass outside the candidates is taken for rounding, hence for 0."""


class PriorTerms(NamedTuple):
    """The prior's part of one level's posterior, as `posterior.share` takes it.

    `gains`: (c,) log prior mass of each candidate less that of its parent, None without a prior; `outside`: log of the
    share of the parents' prior mass that no candidate has, -inf for none.
    """

    gains: Floats | None
    outside: float


NO_PRIOR_TERMS = PriorTerms(None, 0.0)


@dataclass(frozen=True)
class PriorPath:
    """A belief, and the log prior masses of the tiles whose children are looked at next, (m,)."""

    belief: Belief
    parents: Floats

    @classmethod
    def start(cls, belief: Belief) -> "PriorPath":
        """Above the first level lies the whole Earth, which has all of the prior's mass."""
        return cls(belief, np.zeros(1))

    def at(self, level: Level, candidates: Candidates) -> "PriorLevel":
        """The level's candidates without those that the belief rules out, and their log prior masses."""
        log_mass = self.belief.log_mass(level.codes[candidates.rows], level.zoom).astype(np.float64)
        possible = np.isfinite(log_mass)
        if possible.all():
            return PriorLevel(self, candidates, log_mass)
        rows, similarities, slots = candidates
        return PriorLevel(self, Candidates(rows[possible], similarities[possible], slots[possible]), log_mass[possible])


@dataclass(frozen=True)
class PriorLevel:
    """A path at one level: the candidates that the belief allows, and their log prior masses, (c,)."""

    path: PriorPath
    candidates: Candidates
    log_mass: Floats

    def terms(self, expanded: Positions | slice, slots: Positions) -> PriorTerms:
        """The prior's part of the posterior.

        `expanded` chooses the parents that have candidates; `slots`: (c,) each candidate's parent among these.
        """
        parents = self.path.parents[expanded]
        # Both sums are taken relative to the largest parent, as masses of small tiles underflow.
        top = parents.max()
        covered = np.exp(self.log_mass - top).sum() / np.exp(parents - top).sum()
        outside = np.log1p(-covered) if 1 - covered > _ROUNDING else -np.inf
        return PriorTerms(self.log_mass - parents[slots], float(outside))

    def below(self, beam: Positions) -> PriorPath:
        """The path beneath the candidates at these positions, (m,)."""
        return PriorPath(self.path.belief, self.log_mass[beam])


def with_place(beam: Positions, level: Level, rows: NDArray[np.int64], place: LngLat) -> Positions:
    """Add the tile that holds a place to the beam, if it is among the level's candidates.

    `beam`: ascending positions among `rows`, the candidates' rows.
    """
    code = codes_at(np.array([place.lng]), np.array([place.lat]), level.zoom)[0]
    return np.union1d(beam, np.flatnonzero(level.codes[rows] == code))
