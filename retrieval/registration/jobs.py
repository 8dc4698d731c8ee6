"""What to search: candidates, hints and effort, turned into cells of the grid and the turns to try in each.

Degrees, kilometres, and edges of the picture's central square. Knows no pixels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from retrieval.registration.canvases import EDGES_KM, Cell, cells_near, cells_with

__all__ = [
    "NEAR",
    "NO_HINTS",
    "WORLD",
    "Candidate",
    "Effort",
    "Hints",
    "Job",
    "jobs_anywhere",
    "jobs_near",
    "reduced",
]

Floats = NDArray[np.float64]
Job = tuple[Cell, NDArray[np.intp]]
"""A cell, and the numbers of the turns to try there."""

_HINT_DEGREES, _TURN_DEGREES = 15.0, 22.5
"""How far a picture's heading may be from the hint, and from the turn with which retrieval found its place."""


@dataclass(frozen=True)
class Candidate:
    """A place near which the picture may lie: degrees, the retrieval's confidence as a natural logarithm, km around.

    `heading`: the heading with which retrieval found it, if it looked for several; turns near it are searched.
    """

    lng: float
    lat: float
    log_confidence: float = 0.0
    km: float = 200.0
    heading: float | None = None


@dataclass(frozen=True)
class Hints:
    """What is known of a picture: the width of its footprint, and its top's compass direction, within some 15 degrees.

    `edges_km`: without a width, the footprints of the central square that are tried.
    """

    width_km: float | None = None
    heading: float | None = None
    edges_km: tuple[float, float] = (120.0, 3000.0)


@dataclass(frozen=True)
class Effort:
    """What a registration may cost.

    `px`: pixels of a template of the search (16, 24 or 32); `turns`: how many turns make a circle; `shortlist`: how
    many hypotheses are aligned in 16 pixels, and `aligned`: how many of these in 32; `refined`: how many of these are
    fitted exactly, and `tilted`: how many of those with tilt. Where few of the turns are searched, `reduced` keeps
    fewer.
    """

    px: int = 16
    turns: int = 24
    shortlist: int = 700
    aligned: int = 150
    refined: int = 8
    tilted: int = 3


NO_HINTS, NEAR = Hints(), Effort()
"""For pictures of which nothing is known, and for `register`."""
WORLD = Effort(shortlist=1500, aligned=250)
"""For `register_anywhere`: of a search over so many places, more is kept."""
_LEAST_SHARE, _FEWEST_REFINED = 1 / 3, 4


def reduced(effort: Effort, jobs: Sequence[Job]) -> Effort:
    """The effort for jobs that are only in some turns, of which fewer false places can be better than the true one."""
    share = float(np.mean([len(turns) for _, turns in jobs])) / effort.turns
    counts = {name: getattr(effort, name) * max(share, _LEAST_SHARE) for name in ("shortlist", "aligned")}
    refined = min(effort.refined, _FEWEST_REFINED)  # without a second place, nothing is accepted
    kept = {name: max(1, round(count)) for name, count in counts.items()}
    return replace(effort, **kept, refined=max(refined, round(effort.refined * share)))


def jobs_near(candidates: Sequence[Candidate], hints: Hints, effort: Effort, aspect: float) -> list[Job]:
    """The cells around candidates, each once; the first candidate's first. `aspect`: width in edges of the square."""
    scales = _scales(hints, aspect)
    turns: dict[Cell, NDArray[np.bool_]] = {}
    for candidate in candidates:
        heading = candidate.heading if hints.heading is None else hints.heading
        wanted = _turns_near(heading, effort.turns, _HINT_DEGREES if hints.heading is not None else _TURN_DEGREES)
        for scale in scales:
            for cell in cells_near(scale, candidate.lng, candidate.lat, candidate.km):
                turns[cell] = turns[cell] | wanted if cell in turns else wanted
    return [(cell, np.flatnonzero(wanted)) for cell, wanted in turns.items()]


def jobs_anywhere(
    has_ground: Callable[[Floats, Floats], NDArray[np.bool_]], hints: Hints, effort: Effort, aspect: float
) -> list[Job]:
    """All cells with ground; `has_ground` takes degrees of any shape."""
    turns = np.flatnonzero(_turns_near(hints.heading, effort.turns, _HINT_DEGREES))
    return [(cell, turns) for scale in _scales(hints, aspect) for cell in cells_with(scale, has_ground)]


def _scales(hints: Hints, aspect: float) -> list[int]:
    """The scales to search, for pictures whose width is `aspect` edges of their central square."""
    if hints.width_km is None:
        low, high = hints.edges_km
    else:
        low = high = hints.width_km / aspect
    # The nearest scale is off by a factor of 1.118 at most.
    return [i for i, edge in enumerate(EDGES_KM) if low / 1.12 <= edge <= high * 1.12]


def _turns_near(heading: float | None, count: int, reach: float) -> NDArray[np.bool_]:
    """Which of the `count` turns lie within `reach` degrees of a heading, or a step beyond: (count,) bool."""
    if heading is None:
        return np.ones(count, dtype=np.bool_)
    step = 360 / count
    away = np.abs((np.arange(count) * step - heading + 180) % 360 - 180)
    return np.asarray(away < reach + step / 2)
