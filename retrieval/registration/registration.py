"""A picture, candidate places and a reference to a registration: where the picture lies, and how sure that is.

`register` is where callers start; `Search` is the same in stages. It searches the canvases near the candidates with
templates in every turn, corrects the best places for scale and turn, fits the best of these exactly, and judges the
result by its lead over the best fit at another place. It stops at its deadline with what it has. Knows no encoders,
indexes and HTTP.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.registration.accept import BUILT_IN, Acceptance, Features
from retrieval.registration.canvases import CanvasCache, Cell
from retrieval.registration.jobs import (
    NEAR,
    NO_HINTS,
    WORLD,
    Candidate,
    Effort,
    Hints,
    Job,
    jobs_anywhere,
    jobs_near,
    reduced,
)
from retrieval.registration.reference import Reference
from retrieval.registration.refine import Fit, refined, residual_km
from retrieval.registration.result import Registration
from retrieval.registration.search import OTHER_PLACE, Hypothesis, aligned, distance_km, distinct, peaks
from retrieval.registration.templates import Query, Templates
from retrieval.search.deadline import NO_DEADLINE, Deadline

__all__ = ["NEAR", "WORLD", "Candidate", "Effort", "Hints", "Registration", "Search", "register", "register_anywhere"]

Floats = NDArray[np.float64]

_NO_BELIEF = -12.0
_NO_EDGES = 1e-3
_TILT_GAIN = 0.02
_COARSE_PX, _MEDIUM_PX = 16, 32
_STEPS = {_COARSE_PX: 4, _MEDIUM_PX: 4}
"""Pixels in which hypotheses are aligned, and the most steps there."""
_MOST_RESIDUAL = 0.1
"""Edges: of fits of which too few parts can be compared to say how far off they are."""


class Search:
    """The search for one picture, (h, w, 3) uint8 RGB, in stages: each adds places, and nothing is computed twice.

        search = Search(picture, cache)
        search.near(candidates, Deadline.after(0.2))
        if not search.result().accepted:
            search.anywhere(earth.has_ground)
        print(search.result().to_json())

    A stage ends at its deadline with what it has, and raises what the reference raises. `effort` holds for all stages;
    without it, `near` takes `NEAR` and `anywhere` takes `WORLD`. For one thread.
    """

    def __init__(
        self,
        picture: NDArray[np.uint8],
        cache: CanvasCache,
        hints: Hints = NO_HINTS,
        effort: Effort | None = None,
    ) -> None:
        self._size = picture.shape[1], picture.shape[0]
        self._aspect = self._size[0] / min(self._size)
        self._query, self._cache, self._hints, self._effort = Query(picture), cache, hints, effort
        self._templates: dict[tuple[int, int], Templates] = {}
        self._candidates: list[Candidate] = []
        self._searched: dict[tuple[int, int, Cell], NDArray[np.bool_]] = {}
        self._hypotheses: list[Hypothesis] = []
        self._aligned: dict[int, dict[Hypothesis, Hypothesis]] = {}
        self._refined: dict[Hypothesis, Fit] = {}
        self._tilted: dict[Fit, Fit] = {}
        self._is_empty, self._finished = True, True

    @property
    def job_count(self) -> int:
        """How many cells were searched, each counted once for each of its turns."""
        return sum(int(turns.sum()) for turns in self._searched.values())

    def near(self, candidates: Sequence[Candidate], deadline: Deadline = NO_DEADLINE) -> "Search":
        """Search the places around candidates, the first one's first, and fit the best. Returns this search."""
        effort = self._effort or NEAR
        self._candidates += candidates
        self._add(jobs_near(candidates, self._hints, effort, self._aspect), effort, deadline)
        return self

    def anywhere(
        self, has_ground: Callable[[Floats, Floats], NDArray[np.bool_]], deadline: Deadline = NO_DEADLINE
    ) -> "Search":
        """Search all places where the reference has ground, and fit the best. Returns this search.

        `has_ground`: takes degrees of any shape. Slow until the cache holds the canvases.
        """
        effort = self._effort or WORLD
        self._add(jobs_anywhere(has_ground, self._hints, effort, self._aspect), effort, deadline)
        return self

    def result(self, acceptance: Acceptance = BUILT_IN) -> Registration:
        """Judge what was found so far; more stages may follow."""
        if self._is_empty:
            return Registration(self._size, reason="there is no candidate place: give some, or search all land")
        if self._energy() < _NO_EDGES:
            return Registration(self._size, reason="the picture shows no edges")
        fits = self._best_fits()
        if not fits:
            return Registration(self._size, reason="the picture fits no place at all", finished=self._finished)
        best = fits[0]
        residual = residual_km(self._query, self._cache.reference, best.frame)
        features = self._features(fits, _MOST_RESIDUAL if residual is None else residual / best.frame.edge_km)
        belief = acceptance.probability(features)
        accepted = belief >= acceptance.threshold
        return Registration(
            self._size,
            accepted,
            belief,
            best.frame,
            features,
            best.method,
            None if accepted else "the picture fits no place clearly better than others",
            finished=self._finished,
            residual_km=residual,
        )

    def _energy(self) -> float:
        return next(iter(self._templates.values())).energy

    def _templates_for(self, effort: Effort) -> Templates:
        grid = effort.px, effort.turns
        if grid not in self._templates:
            headings = np.arange(effort.turns, dtype=np.float64) * (360 / effort.turns)
            self._templates[grid] = self._query.templates(effort.px, headings)
        return self._templates[grid]

    def _add(self, jobs: Sequence[Job], effort: Effort, deadline: Deadline) -> None:
        if not jobs:
            return
        self._is_empty = False
        effort, templates = reduced(effort, jobs), self._templates_for(effort)
        if templates.energy < _NO_EDGES:
            return
        for cell, turns in jobs:
            done = self._searched.setdefault((effort.px, effort.turns, cell), np.zeros(effort.turns, dtype=np.bool_))
            left = turns[~done[turns]]
            if not len(left):
                continue
            self._hypotheses += peaks(self._cache.canvas(cell, templates.px), templates.take(left))
            done[left] = True
            if deadline.is_over:
                break
        self._hypotheses.sort(key=lambda h: -h.score)
        self._fit(effort, deadline)
        self._finished = self._finished and not deadline.is_over

    def _fit(self, effort: Effort, deadline: Deadline) -> None:
        """Align the best hypotheses, in few pixels and in more, and fit the best of these exactly; at least one."""
        best = self._hypotheses[: effort.shortlist]
        for px, count in ((_COARSE_PX, effort.aligned), (_MEDIUM_PX, effort.refined)):
            if deadline.is_over:
                break
            best = self._align(best, px, count, deadline)
        query, reference = self._query, self._cache.reference
        for hypothesis in best[: effort.refined]:
            if self._refined and deadline.is_over:
                break
            if hypothesis not in self._refined:
                self._refined[hypothesis] = refined(query, reference, hypothesis.frame)
        for fit in distinct_fits(list(self._refined.values()))[: effort.tilted]:
            if deadline.is_over:
                break
            if fit not in self._tilted:
                self._tilted[fit] = with_tilt(query, reference, fit)

    def _align(self, hypotheses: Sequence[Hypothesis], px: int, count: int, deadline: Deadline) -> list[Hypothesis]:
        """The best distinct results of these and all earlier ones in `px` pixels."""
        known = self._aligned.setdefault(px, {})
        new = [h for h in hypotheses if h not in known]
        known |= zip(new, aligned(self._query, self._cache, new, px, _STEPS[px], deadline), strict=False)
        return distinct(list(known.values()), count, by_place=px == _MEDIUM_PX)

    def _best_fits(self) -> list[Fit]:
        """Best first; places are distinct."""
        return distinct_fits([self._tilted.get(fit, fit) for fit in self._refined.values()])

    def _features(self, fits: Sequence[Fit], residual: float) -> Features:
        """What acceptance looks at; `fits`: at least one, best first; `residual`: of the best, in edges."""
        best = fits[0]
        second = fits[1].score if len(fits) > 1 else best.score  # with no other place, nothing shows that it is right
        near = [
            c.log_confidence for c in self._candidates if distance_km(best.frame, c) < c.km + 0.5 * best.frame.edge_km
        ]
        return Features(
            best.score,
            best.score - max(second, 0.0),
            self._energy(),
            max(near, default=_NO_BELIEF),
            float(np.log(max(1, self.job_count))),
            residual,
            float(np.log(best.frame.edge_km)),
            float(best.method == "homography"),
        )


def register(
    picture: NDArray[np.uint8],
    candidates: Sequence[Candidate],
    cache: CanvasCache,
    hints: Hints = NO_HINTS,
    effort: Effort = NEAR,
    acceptance: Acceptance = BUILT_IN,
    deadline: Deadline = NO_DEADLINE,
) -> Registration:
    """Register a picture, (h, w, 3) uint8 RGB, near some of the candidates. Raises what the reference raises."""
    return Search(picture, cache, hints, effort).near(candidates, deadline).result(acceptance)


def register_anywhere(
    picture: NDArray[np.uint8],
    has_ground: Callable[[Floats, Floats], NDArray[np.bool_]],
    cache: CanvasCache,
    hints: Hints = NO_HINTS,
    effort: Effort = WORLD,
    acceptance: Acceptance = BUILT_IN,
    deadline: Deadline = NO_DEADLINE,
) -> Registration:
    """Register a picture wherever the reference has ground. Slow until the cache holds the canvases."""
    return Search(picture, cache, hints, effort).anywhere(has_ground, deadline).result(acceptance)


def distinct_fits(fits: Sequence[Fit]) -> list[Fit]:
    """Best first; of several that show the same place, the best."""
    chosen: list[Fit] = []
    for fit in sorted(fits, key=lambda f: -f.score):
        if all(
            distance_km(fit.frame, other.frame) > OTHER_PLACE * max(fit.frame.edge_km, other.frame.edge_km)
            for other in chosen
        ):
            chosen.append(fit)
    return chosen


def with_tilt(query: Query, reference: Reference, fit: Fit) -> Fit:
    """The fit with tilt, if that is better and a camera can see it."""
    tilted = refined(query, reference, fit.frame, tilt=True)
    return tilted if tilted.score > fit.score + _TILT_GAIN and tilted.frame.is_plausible else fit
