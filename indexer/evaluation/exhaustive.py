"""Search without a beam: every reachable tile of every zoom is a candidate, and nothing is pruned.

Reachable: the tile has a vector, and so has each of its ancestors. What a beam wide enough to keep everything finds is
the same, tile for tile; this module shares none of its bookkeeping, so that the two can be held against each other. It
also tells where the true tile ranks among all tiles of its zoom, which depends on the encoders alone.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.index.calibration import Calibration
from retrieval.index.reader import Level, TileIndex
from retrieval.priors.base import Belief
from retrieval.search.beam import Descent, Step, weighed
from retrieval.search.neighbours import with_neighbours
from retrieval.search.posterior import share

Rows = NDArray[np.int64]
NO_RANK = -1
"""The rank of a tile that the index does not hold, or holds without vector."""


@dataclass(frozen=True)
class _Zoom:
    """One level, and which of its rows count. `parents`: (n,) rows of the level above, for all n rows."""

    level: Level
    everything: Rows  # all rows of the level above (one pseudo-parent at the first)
    parents: Rows
    reachable: NDArray[np.bool_]  # (n,)

    @classmethod
    def all_of(cls, index: TileIndex) -> "list[_Zoom]":
        """Every level of an index, coarse to fine."""
        found: list[_Zoom] = []
        for level in index.levels:
            n, above = len(level.codes), found[-1] if found else None
            everything = np.arange(1 if above is None else len(above.level.codes), dtype=np.int64)
            parents = np.zeros(n, dtype=np.int64)
            reachable = np.zeros(n, dtype=bool)
            reachable[level.search(np.zeros(index.dim, dtype=np.float32), everything).rows] = True
            if above is not None:
                shift = np.uint64(2 * (level.zoom - above.level.zoom))
                parents = np.searchsorted(above.level.codes, level.codes >> shift).astype(np.int64)
                reachable &= above.reachable[parents]
            found.append(cls(level, everything, parents, reachable))
        return found


class Exhaustive:
    """Every level of an index, scored whole. Safe to use from many threads."""

    def __init__(self, index: TileIndex) -> None:
        self._zooms = _Zoom.all_of(index)
        if not (self._zooms[0].level.has_vectors and self._zooms[0].reachable.any()):
            raise QueryError(f"{index.directory} holds no vector at its first zoom: build it again")

    def similarities(self, embedding: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Per zoom the cosine of every row, (n,) float32, to one embedding, (d,); -inf without vector."""
        scored = []
        for zoom in self._zooms:
            cosines = np.full(len(zoom.level.codes), -np.inf, dtype=np.float32)
            found = zoom.level.search(embedding, zoom.everything)
            cosines[found.rows] = found.similarities
            scored.append(cosines)
        return scored

    def ranks(self, embedding: NDArray[np.float32], truths: Rows) -> Rows:
        """Where the true tile's cosine stands among all tiles of its zoom, per zoom, 0 first; NO_RANK without vector.

        `truths`: (zooms,) int64, the true rows, negative where there is none. Of equal cosines the lower row is first.
        """
        ranks = np.full(len(truths), NO_RANK, dtype=np.int64)
        for i, cosines in enumerate(self.similarities(embedding)):
            row = truths[i]
            if row >= 0 and np.isfinite(cosines[row]):
                ranks[i] = int((cosines > cosines[row]).sum()) + int((cosines[:row] == cosines[row]).sum())
        return ranks

    def best_leaf(self, embedding: NDArray[np.float32]) -> tuple[int, int, float]:
        """Paper H's answer over all leaves: zoom, row and cosine of the most similar one, of equal ones the lower row.

        Leaves are the reachable tiles of the deepest zoom that has any.
        """
        deepest = max(i for i, zoom in enumerate(self._zooms) if zoom.level.has_vectors and zoom.reachable.any())
        zoom = self._zooms[deepest]
        cosines = np.where(zoom.reachable, self.similarities(embedding)[deepest], -np.inf)
        row = int(np.argmax(cosines))
        return zoom.level.zoom, row, float(cosines[row])

    def descend(
        self, embedding: NDArray[np.float32], calibration: Calibration, belief: Belief | None = None
    ) -> Descent:
        """The posterior with nothing pruned, over every reachable tile, for one embedding, (d,) float32, contiguous.

        Tiles that a belief rules out are not reachable.
        """
        steps: list[Step] = []
        elsewhere, log_mass = 0.0, np.zeros(1)
        for i, (zoom, cosines) in enumerate(zip(self._zooms, self.similarities(embedding), strict=True)):
            if belief is None and not zoom.level.has_vectors:
                break
            said = None if belief is None else _Said.of(belief, zoom.level, self._zooms[i - 1].level if i else None)
            rows = np.flatnonzero(zoom.reachable if said is None else zoom.reachable & np.isfinite(said.own))
            if not len(rows):
                break
            mothers, slots = np.unique(zoom.parents[rows], return_inverse=True)
            if steps:  # those that have reachable children divide their mass; the others keep it
                steps[-1].expanded = np.searchsorted(steps[-1].rows, mothers)
                log_mass = steps[-1].log_mass[steps[-1].expanded]
            numbers = calibration.numbers(zoom.level.zoom)
            scores = with_neighbours(zoom.level.codes[rows], zoom.level.zoom, cosines[rows], numbers.kappa)
            shares = share(log_mass, slots, scores, numbers, *(() if said is None else said.hint(rows, zoom.parents)))
            elsewhere += shares.elsewhere
            prior = None if said is None else said.own[rows]
            kept = np.arange(len(rows))
            steps.append(Step(zoom.level, rows, cosines[rows], shares.log_mass, slots, kept, log_prior=prior))
        return weighed(steps, elsewhere, calibration)


@dataclass(frozen=True)
class _Said:
    """What a belief says of all rows of a level, (n,), and of all rows above it: logs of masses."""

    own: NDArray[np.float64]
    above: NDArray[np.float64]

    @classmethod
    def of(cls, belief: Belief, level: Level, above: Level | None) -> "_Said":
        """Ask the belief; above the first level lies the Earth, which has all."""
        over = np.zeros(1) if above is None else belief.log_mass(above.codes, above.zoom)
        return cls(belief.log_mass(level.codes, level.zoom).astype(np.float64), over.astype(np.float64))

    def hint(self, rows: Rows, parents: Rows) -> tuple[NDArray[np.float64], float]:
        """Gains of some rows, (c,), and the log of the share that they leave of what their parents have."""
        held = np.exp(self.own[rows]).sum() / np.exp(self.above[np.unique(parents[rows])]).sum()
        return self.own[rows] - self.above[parents[rows]], float(np.log(1 - held)) if held < 1 - 1e-5 else -np.inf
