"""The beam search: at each zoom, score the children of the beam and keep the k best as the next beam.

A `Descent` holds the whole posterior: a candidate that was not expanded keeps the mass that it had, and these tiles
together are the frontier. Tiles are rows of levels here; this module knows nothing of geographic positions.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.index.calibration import Calibration
from retrieval.index.reader import Candidates, Level, TileIndex
from retrieval.priors.base import Belief
from retrieval.search.elsewhere import level_features, probability
from retrieval.search.neighbours import with_neighbours
from retrieval.search.plan import SearchPlan
from retrieval.search.posterior import Floats, best, share
from retrieval.search.prior_path import NO_PRIOR_TERMS, PriorLevel, PriorPath, with_place
from retrieval.search.query import Constraint
from tile_cache.addressing import LngLat

Positions = NDArray[np.intp]
_MAX_ELSEWHERE = 1 - 1e-9  # some mass must stay on tiles, so that there is an answer


@dataclass(frozen=True)
class Step:
    """One level of a descent. Arrays over its c candidates are in ascending row order.

    A candidate is a tile with a vector (inside the constraint, if there is one) under a tile of the beam above. While a
    search runs, `expanded` of its last step is empty: it is known once the next level is searched.
    """

    level: Level
    rows: NDArray[np.int64]  # (c,)
    similarities: NDArray[np.float32]  # (c,)
    log_mass: Floats  # (c,): log of each candidate's mass when this level was scored
    slots: Positions  # (c,): each candidate's parent, as a position in the step above's `expanded`; zeros at the first
    beam: Positions  # (m,): positions of the candidates in the beam, ascending
    # (a,): positions of the beam's tiles that have candidates at the next level. All other candidates keep their mass.
    expanded: Positions = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    log_prior: Floats | None = None  # (c,): log of the prior's mass; None without a prior

    def position_of(self, row: int) -> int | None:
        """The position of a row among the candidates; None if it is not one of them."""
        position = int(np.searchsorted(self.rows, row))
        return position if _has_at(self.rows, position, row) else None


class Frontier(NamedTuple):
    """Tiles of several steps, (n,) arrays: the step, the position among its candidates, and the mass of each tile."""

    steps: Positions
    positions: Positions
    mass: Floats

    def take(self, which: Positions) -> "Frontier":
        """The tiles at these positions, in this order."""
        return Frontier(self.steps[which], self.positions[which], self.mass[which])


@dataclass(frozen=True)
class Descent:
    """All steps of a search, coarse to fine (at least one), and the probability of elsewhere."""

    steps: tuple[Step, ...]
    elsewhere: float

    def confidences(self) -> list[Floats]:
        """Per step, the frontier mass of each candidate, (c,): its own, or if expanded the sum of its descendants'.

        The first step's sum plus `elsewhere` is 1, and no candidate has less mass than a tile inside it.
        """
        below: Floats | None = None
        confidences: list[Floats] = []
        for i in reversed(range(len(self.steps))):
            step = self.steps[i]
            mass = np.exp(step.log_mass)
            if below is not None:
                mass[step.expanded] = np.bincount(self.steps[i + 1].slots, below, len(step.expanded))
            confidences.append(mass)
            below = mass
        return confidences[::-1]

    def frontier(self) -> Frontier:
        """The tiles that hold the posterior: they are disjoint, and their masses plus `elsewhere` sum to 1."""
        positions = [np.delete(np.arange(len(step.rows)), step.expanded) for step in self.steps]
        mass = [np.exp(step.log_mass[p]) for step, p in zip(self.steps, positions, strict=True)]
        steps = np.arange(len(self.steps)).repeat([len(p) for p in positions])
        return Frontier(steps, np.concatenate(positions), np.concatenate(mass))

    def path_to(self, step: int, position: int) -> list[int]:
        """A candidate and its ancestors, as positions in the steps 0 to `step`."""
        path = [position]
        for i in range(step, 0, -1):
            path.append(int(self.steps[i - 1].expanded[self.steps[i].slots[path[-1]]]))
        return path[::-1]

    def path_at(self, code: int, zoom: int) -> list[int] | None:
        """The frontier tile that holds a tile of the deepest zoom or deeper, as positions like `path_to`'s.

        None if no candidate holds it.
        """
        path: list[int] = []
        parent = 0
        for step in self.steps:
            level = step.level
            wanted = np.uint64(code >> (2 * (zoom - level.zoom)))
            start, stop = level.starts[parent], level.starts[parent + 1]
            row = int(start + np.searchsorted(level.codes[start:stop], wanted))
            if row == stop or level.codes[row] != wanted:
                return None
            position = step.position_of(row)
            if position is None:
                return None
            path.append(position)
            if not _has_at(step.expanded, int(np.searchsorted(step.expanded, position)), position):
                return path
            parent = row
        return path


def descend(
    index: TileIndex,
    embedding: NDArray[np.float32],
    plan: SearchPlan,
    belief: Belief | None = None,
    always_keep: LngLat | None = None,
) -> Descent:
    """Search every level for one embedding, (d,) float32, contiguous.

    The beam holds the k tiles of highest mass (scoring `posterior`) or highest similarity (scoring `paper`); of equal
    tiles the lower row wins. `always_keep`: the tile that holds this place is added to every beam where it is a
    candidate. The search ends at a zoom without any vectors, unless a belief can rank its tiles (scoring `posterior`).
    Raises QueryError if no tile qualifies.
    """
    steps: list[Step] = []
    elsewhere = 0.0
    parents, log_mass = np.zeros(1, dtype=np.int64), np.zeros(1)
    by_mass = plan.scoring == "posterior"
    path = PriorPath.start(belief) if belief is not None and by_mass else None
    for level in index.levels:
        plan.deadline.check()
        if path is None and not level.has_vectors:
            break
        candidates = _candidates(level, embedding, parents, plan.constraint)
        prior: PriorLevel | None = None
        if path is not None:
            prior = path.at(level, candidates)
            candidates = prior.candidates
        if not len(candidates.rows):
            break
        alive, slots = _alive(candidates.slots, len(parents))
        if steps:
            steps[-1] = replace(steps[-1], expanded=steps[-1].beam[alive])
        numbers = plan.calibration.numbers(level.zoom)
        terms = NO_PRIOR_TERMS if prior is None else prior.terms(alive, slots)
        shares = share(log_mass[alive], slots, _scores(level, candidates, numbers.kappa), numbers, *terms)
        elsewhere += shares.elsewhere
        beam = best(shares.log_mass if by_mass else candidates.similarities, plan.k)
        if always_keep is not None:
            beam = with_place(beam, level, candidates.rows, always_keep)
        step = Step(
            level,
            candidates.rows,
            candidates.similarities,
            shares.log_mass,
            slots,
            beam,
            log_prior=None if prior is None else prior.log_mass,
        )
        steps.append(step)
        path = None if prior is None else prior.below(beam)
        parents, log_mass = candidates.rows[beam], shares.log_mass[beam]
    if not steps:
        raise QueryError(_why_no_tiles(plan.constraint))
    if plan.constraint is not None:  # the caller says that the place is inside, so it cannot be elsewhere
        return Descent(tuple(steps), elsewhere)
    return with_elsewhere(steps, elsewhere, plan.calibration)


def with_elsewhere(steps: Sequence[Step], elsewhere: float, calibration: Calibration) -> Descent:
    """The descent of these steps after the calibration's model of elsewhere, if it has one, took its mass from them."""
    if calibration.elsewhere is None:
        return Descent(tuple(steps), elsewhere)
    modelled = min(probability(calibration.elsewhere, features_of(steps)), _MAX_ELSEWHERE)
    lost = math.log1p(-modelled)
    scaled = tuple(replace(step, log_mass=step.log_mass + lost) for step in steps)
    return Descent(scaled, modelled + (1 - modelled) * elsewhere)


def features_of(steps: Sequence[Step]) -> dict[str, float]:
    """The features of all levels that `retrieval.search.elsewhere` uses; a constant added to log masses cancels."""
    features: dict[str, float] = {}
    for i, step in enumerate(steps):
        similarities = step.similarities if step.level.has_vectors else None
        features |= level_features(step.level.zoom, similarities, step.log_mass, step.log_prior, first=i == 0)
    return features


def _scores(level: Level, candidates: Candidates, kappa: float) -> NDArray[np.float32]:
    """Cosines after neighbour smoothing, (c,); zeros at a zoom without vectors, where only a prior ranks the tiles."""
    if not level.has_vectors:
        return np.zeros(len(candidates.rows), dtype=np.float32)
    return with_neighbours(level.codes[candidates.rows], level.zoom, candidates.similarities, kappa)


def _candidates(
    level: Level, embedding: NDArray[np.float32], parents: NDArray[np.int64], constraint: Constraint | None
) -> Candidates:
    """The parents' children that have a vector (at a zoom without any: all children) and meet the constraint."""
    candidates = level.search(embedding, parents)
    if constraint is None:
        return candidates
    inside = constraint.meets(level.codes[candidates.rows], level.zoom)
    return Candidates(candidates.rows[inside], candidates.similarities[inside], candidates.slots[inside])


def _alive(slots: Positions, parents: int) -> tuple[Positions | slice, Positions]:
    """Which parents have candidates, and `slots` renumbered to count only those parents."""
    counts = np.bincount(slots, minlength=parents)
    if np.minimum.reduce(counts):
        return slice(None), slots
    has_candidates = counts > 0
    return np.flatnonzero(has_candidates), (np.cumsum(has_candidates) - 1)[slots]


def _has_at(ascending: NDArray[np.signedinteger[Any]], position: int, value: int) -> bool:
    return position < len(ascending) and bool(ascending[position] == value)


def _why_no_tiles(constraint: Constraint | None) -> str:
    if constraint is None:
        return "the index has no vectors at its first zoom: query with a prior and scoring posterior, or build it again"
    return f"{constraint} covers no indexed tile: use a larger area, or check the index's coverage"
