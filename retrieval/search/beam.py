"""The descent: at each zoom the children of the kept tiles, their masses, and the k of them that are kept.

What it returns holds the whole posterior: each candidate that was not expanded further keeps the mass it had, and
these tiles together are the frontier. Tiles are rows of levels here, and nothing knows of places.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.index.calibration import Calibration
from retrieval.index.reader import Candidates, Level, TileIndex
from retrieval.priors.base import Belief
from retrieval.search.elsewhere import level_features, probability
from retrieval.search.neighbours import with_neighbours
from retrieval.search.posterior import Floats, best, share
from retrieval.search.prior_path import NO_PRIOR_TERMS, PriorLevel, PriorPath, with_place
from retrieval.search.query import LocateQuery, Scoring

Positions = NDArray[np.intp]
_MOST_NOWHERE = 1 - 1e-9  # some mass is always left, so that there is an answer


@dataclass
class Step:
    """One level of a descent. Arrays over its c candidates are in ascending row order.

    A candidate is a tile with a vector (and, where asked, in the bounding box) under a kept tile of the level above.
    """

    level: Level
    rows: NDArray[np.int64]  # (c,)
    similarities: NDArray[np.float32]  # (c,)
    log_mass: Floats  # (c,): log P when this level was scored
    slots: Positions  # (c,): position in the step above's `expanded` (zeros at the first)
    kept: Positions  # (m,) positions of the k best, ascending
    # (a,): those of `kept` that have candidates beneath, known once the next level is searched; all other candidates
    # keep their mass here.
    expanded: Positions = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    log_prior: Floats | None = None  # (c,) the prior's, where there is one

    def position_of(self, row: int) -> int | None:
        """The position of a row among the candidates; None if it is not one of them."""
        position = int(np.searchsorted(self.rows, row))
        return position if _at(self.rows, position, row) else None


class Frontier(NamedTuple):
    """(n,) arrays: which step each tile belongs to, its position among that step's candidates, its mass."""

    steps: Positions
    positions: Positions
    mass: Floats

    def take(self, which: Positions) -> "Frontier":
        """Some of them, in the given order."""
        return Frontier(self.steps[which], self.positions[which], self.mass[which])


@dataclass(frozen=True)
class Descent:
    """All steps, coarse to fine (at least one), and the mass that no covered tile has."""

    steps: tuple[Step, ...]
    elsewhere: float

    def confidences(self) -> list[Floats]:
        """Per step, each candidate's frontier mass, (c,): its own, or that of everything beneath it if expanded.

        The first step's sum with `elsewhere` is 1, and no candidate has less than any tile beneath it.
        """
        below: Floats | None = None
        found: list[Floats] = []
        for i in reversed(range(len(self.steps))):
            step = self.steps[i]
            mass = np.exp(step.log_mass)
            if below is not None:
                mass[step.expanded] = np.bincount(self.steps[i + 1].slots, below, len(step.expanded))
            found.append(mass)
            below = mass
        return found[::-1]

    def frontier(self) -> Frontier:
        """The tiles that hold the posterior: disjoint, and with `elsewhere` their masses sum to 1."""
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
        """The frontier tile over a tile of the deepest zoom or deeper, as `path_to` gives it; None in a hole."""
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
            if not _at(step.expanded, int(np.searchsorted(step.expanded, position)), position):
                return path
            parent = row
        return path


def descend(
    index: TileIndex,
    query: NDArray[np.float32],
    calibration: Calibration,
    k: int,
    scoring: Scoring,
    area: LocateQuery | None,
    belief: Belief | None = None,
) -> Descent:
    """Search every level for one embedding, (d,) float32, contiguous; `area`: the part of the Earth that it is in.

    `posterior` keeps the k tiles of most mass, `paper` the k of highest similarity, `bolted` also the one of the
    belief's best place; ties go to the lower row. A zoom of no vectors at all ends it, unless `posterior` has a belief
    to tell its tiles apart by. Raises QueryError if no tile qualifies.
    """
    steps: list[Step] = []
    elsewhere = 0.0
    parents, log_mass = np.zeros(1, dtype=np.int64), np.zeros(1)
    path = PriorPath.start(belief) if belief is not None and scoring == "posterior" else None
    bolt = belief.best() if belief is not None and scoring == "bolted" else None
    for level in index.levels:
        if path is None and not level.has_vectors:
            break
        found = _candidates(level, query, parents, area)
        prior: PriorLevel | None = None
        if path is not None:
            prior = path.at(level, found)
            found = prior.candidates
        if not len(found.rows):
            break
        alive, slots = _alive(found.slots, len(parents))
        if steps:
            steps[-1].expanded = steps[-1].kept[alive]
        numbers = calibration.numbers(level.zoom)
        terms = NO_PRIOR_TERMS if prior is None else prior.terms(alive, slots)
        shares = share(log_mass[alive], slots, _scores(level, found, numbers.kappa), numbers, *terms)
        elsewhere += shares.elsewhere
        kept = best(shares.log_mass if scoring == "posterior" else found.similarities, k)
        if bolt is not None:
            kept = with_place(kept, level, found.rows, bolt)
        log_prior = None if prior is None else prior.log_mass
        steps.append(Step(level, found.rows, found.similarities, shares.log_mass, slots, kept, log_prior=log_prior))
        path = None if prior is None else prior.below(kept)
        parents, log_mass = found.rows[kept], shares.log_mass[kept]
    if not steps:
        raise QueryError(_nothing(area))
    if area is not None:  # it says that the place is inside
        return Descent(tuple(steps), elsewhere)
    return weighed(steps, elsewhere, calibration)


def weighed(steps: Sequence[Step], elsewhere: float, calibration: Calibration) -> Descent:
    """The descent of these steps, with the mass that the model of elsewhere takes from them, where one was fitted."""
    if calibration.elsewhere is not None:
        nowhere = min(probability(calibration.elsewhere, features_of(steps)), _MOST_NOWHERE)
        elsewhere = nowhere + (1 - nowhere) * elsewhere
        for step in steps:
            step.log_mass += math.log1p(-nowhere)
    return Descent(tuple(steps), elsewhere)


def features_of(steps: Sequence[Step]) -> dict[str, float]:
    """What `retrieval.elsewhere` looks at, of every level; log masses count up to a constant."""
    features: dict[str, float] = {}
    for i, step in enumerate(steps):
        similarities = step.similarities if step.level.has_vectors else None
        features |= level_features(step.level.zoom, similarities, step.log_mass, step.log_prior, first=i == 0)
    return features


def _scores(level: Level, found: Candidates, kappa: float) -> NDArray[np.float32]:
    """Smoothed cosines, (c,); zeros at a zoom without vectors, whose tiles only a prior can tell apart."""
    if not level.has_vectors:
        return np.zeros(len(found.rows), dtype=np.float32)
    return with_neighbours(level.codes[found.rows], level.zoom, found.similarities, kappa)


def _candidates(
    level: Level,
    query: NDArray[np.float32],
    parents: NDArray[np.int64],
    area: LocateQuery | None,
) -> Candidates:
    """The parents' children that have a vector (at a zoom without any: all children) and meet the area."""
    found = level.search(query, parents)
    if area is not None:
        inside = area.meets(level.codes[found.rows], level.zoom)
        found = Candidates(found.rows[inside], found.similarities[inside], found.slots[inside])
    return found


def _alive(slots: Positions, parents: int) -> tuple[Positions | slice, Positions]:
    """Which of the parents have candidates, and `slots` renumbered to count only those."""
    counts = np.bincount(slots, minlength=parents)
    if np.minimum.reduce(counts):
        return slice(None), slots
    has = counts > 0
    return np.flatnonzero(has), (np.cumsum(has) - 1)[slots]


def _at(ascending: NDArray[np.signedinteger[Any]], position: int, value: int) -> bool:
    return position < len(ascending) and bool(ascending[position] == value)


def _nothing(area: LocateQuery | None) -> str:
    if area is None:
        return "the index holds no vector at its first zoom: ask with a prior and scoring posterior, or build it again"
    return f"{area.where()} covers no indexed tile: widen it, or look at the index's coverage"
