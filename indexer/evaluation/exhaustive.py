"""Search without a beam: every reachable tile of every zoom is a candidate, and nothing is pruned.

A tile is reachable if it and each of its ancestors have a vector. A beam wide enough to keep everything gives the same
result, tile for tile. This module shares none of the beam's bookkeeping, on purpose, so that each can be tested against
the other. It also ranks the true tile among all tiles of its zoom, which depends on the encoders alone.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.index.calibration import Calibration
from retrieval.index.reader import Level, TileIndex
from retrieval.priors.base import Belief
from retrieval.search.beam import Descent, Step, with_elsewhere
from retrieval.search.neighbours import with_neighbours
from retrieval.search.posterior import share

Rows = NDArray[np.int64]
NO_RANK = -1
"""The rank of a tile that is not in the index, or has no vector there."""


@dataclass(frozen=True)
class _Zoom:
    """One level and its reachable rows. `parents`: the row of the level above, (n,), for each of the n rows."""

    level: Level
    all_parents: Rows  # all rows of the level above; one pseudo-parent at the first level
    parents: Rows
    reachable: NDArray[np.bool_]  # (n,)

    @classmethod
    def all_of(cls, index: TileIndex) -> "list[_Zoom]":
        """Every level of an index, coarse to fine."""
        zooms: list[_Zoom] = []
        for level in index.levels:
            n, above = len(level.codes), zooms[-1] if zooms else None
            all_parents = np.arange(1 if above is None else len(above.level.codes), dtype=np.int64)
            parents = np.zeros(n, dtype=np.int64)
            reachable = np.zeros(n, dtype=bool)
            reachable[level.search(np.zeros(index.dim, dtype=np.float32), all_parents).rows] = True
            if above is not None:
                shift = np.uint64(2 * (level.zoom - above.level.zoom))
                parents = np.searchsorted(above.level.codes, level.codes >> shift).astype(np.int64)
                reachable &= above.reachable[parents]
            zooms.append(cls(level, all_parents, parents, reachable))
        return zooms


class Exhaustive:
    """Scores every tile of an index. Safe to use from many threads."""

    def __init__(self, index: TileIndex) -> None:
        self._zooms = _Zoom.all_of(index)
        if not (self._zooms[0].level.has_vectors and self._zooms[0].reachable.any()):
            raise QueryError(f"{index.directory} has no vector at its first zoom: build it again")

    def similarities(self, embedding: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Per zoom the cosine of every row, (n,) float32, with one embedding, (d,) float32; -inf without vector."""
        scored = []
        for zoom in self._zooms:
            cosines = np.full(len(zoom.level.codes), -np.inf, dtype=np.float32)
            candidates = zoom.level.search(embedding, zoom.all_parents)
            cosines[candidates.rows] = candidates.similarities
            scored.append(cosines)
        return scored

    def ranks(self, embedding: NDArray[np.float32], truths: Rows) -> Rows:
        """Per zoom the rank of the true tile's cosine among all tiles, from 0; NO_RANK without vector.

        `truths`: (zooms,) int64, the true rows, negative for none. Of equal cosines the lower row comes first.
        """
        ranks = np.full(len(truths), NO_RANK, dtype=np.int64)
        for i, cosines in enumerate(self.similarities(embedding)):
            row = truths[i]
            if row >= 0 and np.isfinite(cosines[row]):
                ranks[i] = int((cosines > cosines[row]).sum()) + int((cosines[:row] == cosines[row]).sum())
        return ranks

    def descend(
        self, embedding: NDArray[np.float32], calibration: Calibration, belief: Belief | None = None
    ) -> Descent:
        """The posterior over every reachable tile, with nothing pruned; `embedding`: (d,) float32, contiguous.

        Tiles that the belief rules out count as unreachable.
        """
        steps: list[Step] = []
        elsewhere, log_mass = 0.0, np.zeros(1)
        for i, (zoom, cosines) in enumerate(zip(self._zooms, self.similarities(embedding), strict=True)):
            if belief is None and not zoom.level.has_vectors:
                break
            above = self._zooms[i - 1].level if i else None
            masses = None if belief is None else _PriorMasses.of(belief, zoom.level, above)
            rows = np.flatnonzero(zoom.reachable if masses is None else zoom.reachable & np.isfinite(masses.own))
            if not len(rows):
                break
            parents, slots = np.unique(zoom.parents[rows], return_inverse=True)
            if steps:  # parents with reachable children divide their mass among these; the others keep it
                steps[-1] = replace(steps[-1], expanded=np.searchsorted(steps[-1].rows, parents))
                log_mass = steps[-1].log_mass[steps[-1].expanded]
            numbers = calibration.numbers(zoom.level.zoom)
            scores = with_neighbours(zoom.level.codes[rows], zoom.level.zoom, cosines[rows], numbers.kappa)
            prior_terms = () if masses is None else masses.terms(rows, zoom.parents)
            shares = share(log_mass, slots, scores, numbers, *prior_terms)
            elsewhere += shares.elsewhere
            prior = None if masses is None else masses.own[rows]
            kept = np.arange(len(rows))
            steps.append(Step(zoom.level, rows, cosines[rows], shares.log_mass, slots, kept, log_prior=prior))
        return with_elsewhere(steps, elsewhere, calibration)


@dataclass(frozen=True)
class _PriorMasses:
    """A belief's log masses of all rows of a level, (n,), and of all rows of the level above."""

    own: NDArray[np.float64]
    above: NDArray[np.float64]

    @classmethod
    def of(cls, belief: Belief, level: Level, above: Level | None) -> "_PriorMasses":
        """Above the first level lies the Earth, which has all of the mass."""
        parents = np.zeros(1) if above is None else belief.log_mass(above.codes, above.zoom)
        return cls(belief.log_mass(level.codes, level.zoom).astype(np.float64), parents.astype(np.float64))

    def terms(self, rows: Rows, parents: Rows) -> tuple[NDArray[np.float64], float]:
        """Log gains of some rows over their parents, (c,), and the log share of the parents' mass that no row has."""
        covered = np.exp(self.own[rows]).sum() / np.exp(self.above[np.unique(parents[rows])]).sum()
        return self.own[rows] - self.above[parents[rows]], float(np.log(1 - covered)) if covered < 1 - 1e-5 else -np.inf
