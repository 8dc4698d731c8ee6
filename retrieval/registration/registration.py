"""A picture, candidate places and a reference to a registration: where the picture lies, and how sure that is.

`register` is where callers start. It searches the canvases near the candidates with templates in every turn, corrects
the best places for scale and turn, fits the best of these exactly, and judges the result by its lead over the best fit
at another place. It stops at its deadline with what it has. Knows no encoders, indexes and HTTP.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.registration.accept import BUILT_IN, Acceptance, Features
from retrieval.registration.canvases import CanvasCache
from retrieval.registration.footprint import ControlPoint, as_stored, control_points, corners, holds_pole, outline
from retrieval.registration.geometry import Frame
from retrieval.registration.jobs import NEAR, NO_HINTS, WORLD, Candidate, Effort, Hints, Job, jobs_anywhere, jobs_near
from retrieval.registration.reference import Reference
from retrieval.registration.refine import Fit, aligned, refined
from retrieval.registration.search import Hypothesis, distance_km, distinct, search
from retrieval.registration.templates import Query
from retrieval.search.deadline import NO_DEADLINE, Deadline
from retrieval.search.rounding import degrees, kilometres, probability

__all__ = ["WORLD", "Candidate", "Effort", "Hints", "Registration", "register", "register_anywhere"]

Floats = NDArray[np.float64]

_NO_BELIEF = -12.0
_NO_EDGES = 1e-3
_TILT_GAIN = 0.02
_SAME_PLACE = 0.5
"""Fits nearer than so many edges show the same place."""


@dataclass(frozen=True, eq=False)
class Registration:
    """Where a picture lies. Without a frame, `reason` says why there is none.

    `probability`: of the place being right. `finished` is False if the deadline ended the search. `size`: of the
    upright picture, pixels. `turn`: EXIF's orientation of its file, 1 to 8, which control points take back.
    """

    size: tuple[int, int]
    accepted: bool = False
    probability: float = 0.0
    frame: Frame | None = None
    features: Features | None = None
    method: str = "none"
    reason: str | None = None
    finished: bool = True
    turn: int = 1

    @property
    def aspect(self) -> tuple[float, float]:
        """Width and height in edges of the central square."""
        return self.size[0] / min(self.size), self.size[1] / min(self.size)

    @property
    def width_km(self) -> float | None:
        """The width of the whole picture on the ground, at the scale of its centre."""
        return None if self.frame is None else self.frame.edge_km * self.aspect[0]

    @property
    def corners(self) -> list[tuple[float, float]]:
        """The corners as (lng, lat), upper left first, then clockwise; empty without a frame."""
        return [] if self.frame is None else corners(self.frame, self.aspect)

    @property
    def control_points(self) -> tuple[ControlPoint, ...]:
        """Places in the file's pixels as stored, before EXIF's turn, and on the ground; empty without a frame."""
        if self.frame is None:
            return ()
        return as_stored(control_points(self.frame, self.size), self.size, self.turn)

    @property
    def holds_pole(self) -> bool:
        """Whether a pole lies in the picture."""
        return self.frame is not None and holds_pole(self.frame, self.aspect)

    def to_json(self) -> dict[str, Any]:
        """The contract's `registration` object."""
        verdict = {"accepted": self.accepted, "probability": probability(self.probability), "method": self.method}
        if self.frame is None or self.features is None:
            return verdict | {"reason": self.reason}
        return verdict | {
            "score": probability(self.features.score),
            "margin": probability(self.features.margin),
            "lat": degrees(self.frame.lat),
            "lon": degrees(self.frame.lng),
            "width_km": kilometres(self.frame.edge_km * self.aspect[0]),
            "heading_deg": round(self.frame.heading, 2) + 0.0,
            "footprint": outline(self.frame, self.aspect),
            "gcps": [
                {"x": round(p.x, 2), "y": round(p.y, 2), "lon": degrees(p.lng), "lat": degrees(p.lat)}
                for p in self.control_points
            ],
            "homography": self.frame.matrix.tolist(),
            "reason": self.reason,
        }


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
    size = picture.shape[1], picture.shape[0]
    jobs = jobs_near(candidates, hints, effort, size[0] / min(size))
    return _searched(picture, jobs, candidates, cache, effort, acceptance, deadline)


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
    jobs = jobs_anywhere(has_ground, hints, effort, picture.shape[1] / min(picture.shape[:2]))
    return _searched(picture, jobs, (), cache, effort, acceptance, deadline)


def _searched(
    picture: NDArray[np.uint8],
    jobs: Sequence[Job],
    candidates: Sequence[Candidate],
    cache: CanvasCache,
    effort: Effort,
    acceptance: Acceptance,
    deadline: Deadline,
) -> Registration:
    size = picture.shape[1], picture.shape[0]
    query = Query(picture)
    if not jobs:
        return Registration(size, reason="there is no candidate place: give some, or search all land")
    templates = query.templates(effort.px, np.arange(effort.turns, dtype=np.float64) * (360 / effort.turns))
    if templates.energy < _NO_EDGES:
        return Registration(size, reason="the picture shows no edges")
    hypotheses = search(cache, jobs, templates, deadline)
    fits = fits_of(query, cache.reference, hypotheses, effort, deadline)
    if not fits:
        return Registration(size, reason="the picture fits no place at all", finished=not deadline.is_over)
    features = features_of(fits, templates.energy, candidates)
    belief = acceptance.probability(features)
    accepted = belief >= acceptance.threshold
    reason = None if accepted else "the picture fits no place clearly better than others"
    best = fits[0]
    return Registration(
        size, accepted, belief, best.frame, features, best.method, reason, finished=not deadline.is_over
    )


def fits_of(
    query: Query, reference: Reference, hypotheses: Sequence[Hypothesis], effort: Effort, deadline: Deadline
) -> list[Fit]:
    """Exact fits of the best places, best first; places are distinct."""
    quick: list[Fit] = []
    for hypothesis in distinct(hypotheses, effort.aligned):
        if quick and deadline.is_over:
            break
        quick.append(aligned(query, reference, hypothesis))
    fits: list[Fit] = []
    for fit in distinct_fits(quick)[: effort.refined]:
        if fits and deadline.is_over:
            break
        fits.append(refined(query, reference, fit.frame))
    fits = distinct_fits(fits)
    for i, fit in enumerate(fits[: effort.tilted]):
        if deadline.is_over:
            break
        fits[i] = with_tilt(query, reference, fit)
    return distinct_fits(fits)


def distinct_fits(fits: Sequence[Fit]) -> list[Fit]:
    """Best first; of several that show the same place, the best."""
    chosen: list[Fit] = []
    for fit in sorted(fits, key=lambda f: -f.score):
        if all(
            distance_km(fit.frame, other.frame) > _SAME_PLACE * max(fit.frame.edge_km, other.frame.edge_km)
            for other in chosen
        ):
            chosen.append(fit)
    return chosen


def features_of(fits: Sequence[Fit], energy: float, candidates: Sequence[Candidate]) -> Features:
    """What acceptance looks at; `fits`: at least one, best first."""
    best = fits[0]
    second = fits[1].score if len(fits) > 1 else best.score  # without a second place, nothing shows that it is right
    near = [c.log_confidence for c in candidates if distance_km(best.frame, c) < c.km + 0.5 * best.frame.edge_km]
    return Features(best.score, best.score - max(second, 0.0), energy, max(near, default=_NO_BELIEF))


def with_tilt(query: Query, reference: Reference, fit: Fit) -> Fit:
    """The fit with tilt, if that is better and a camera can see it."""
    tilted = refined(query, reference, fit.frame, tilt=True)
    return tilted if tilted.score > fit.score + _TILT_GAIN and tilted.frame.is_plausible else fit
