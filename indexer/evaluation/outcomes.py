"""The outcome of each picture: its answer, the error, and the zoom at which the search lost the true tile.

Both come from one search per picture. Arrays are over n pictures; units are kilometres, degrees and seconds. This
module takes no averages.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation.metrics import Bools, Floats
from indexer.photos.embed import KnownPictures
from retrieval.index.reader import TileIndex
from retrieval.locator import Locator
from retrieval.priors.base import Belief
from retrieval.search.answer import Answer
from retrieval.search.beam import Descent
from retrieval.search.plan import SearchPlan
from retrieval.sphere import great_circle_km
from tile_cache.addressing import code_of_tile

Rows = NDArray[np.int64]
Search = Callable[[NDArray[np.float32], Belief | None], Descent]
"""One embedding, (d,), and the prior's belief, to all candidates with their masses."""
OnPicture = Callable[[int], None]
"""Takes the number of pictures done."""


@dataclass(frozen=True)
class ZoomOutcomes:
    """One zoom, (n,) arrays. A picture of no place, or of a place that is not indexed, is right nowhere."""

    zoom: int
    covered: Bools  # the true tile is in the index, with a vector or without
    best: Bools  # the true tile has the highest score of the level's candidates
    in_beam: Bools  # the beam kept the true tile
    reached: Bools  # the answer has a tile at this zoom
    right: Bools  # that tile is the true one
    confidence: Floats  # of that tile, 0 if there is none


@dataclass(frozen=True)
class Outcomes:
    """All pictures with one index, beam width and scoring. `km` is nan for a picture of no place."""

    lng: Floats
    lat: Floats
    km: Floats
    elsewhere: Floats
    radius_50_km: Floats  # nan: no circle given
    radius_90_km: Floats
    seconds: Floats  # for the prior's belief, the search and its answer; without encoding
    tiles: NDArray[np.uint64]  # the answer's deepest tile, as a Morton code
    depth: NDArray[np.intp]  # the zoom of that tile
    calibrated: Bools
    zooms: tuple[ZoomOutcomes, ...]

    def __len__(self) -> int:
        return len(self.lng)

    @property
    def confidence(self) -> Floats:
        """The confidence of each answer's deepest tile, (n,)."""
        deepest = np.zeros(len(self))
        for zoom in self.zooms:
            deepest = np.where(zoom.reached, zoom.confidence, deepest)
        return deepest


@dataclass(frozen=True)
class Pictures:
    """Pictures with places, and the rows of their true tiles in an index: per zoom (n,) int64, -1 if not indexed."""

    known: KnownPictures
    rows: tuple[Rows, ...] = field(repr=False)

    @classmethod
    def of(cls, known: KnownPictures, index: TileIndex) -> "Pictures":
        """Look the true tiles up."""
        rows = []
        for level in index.levels:
            codes, has_place = known.codes(level.zoom)
            row = np.searchsorted(level.codes, codes).astype(np.int64)
            indexed = level.codes[np.minimum(row, len(level.codes) - 1)] == codes
            rows.append(np.where(indexed & has_place, row, -1))
        return cls(known, tuple(rows))


def search_all(
    locator: Locator,
    pictures: Pictures,
    plan: SearchPlan,
    search: Search | None = None,
    on_picture: OnPicture | None = None,
) -> Outcomes:
    """Search for every picture, with the beam or another `search`, and record the outcomes.

    If the plan has a prior, `pictures.known` must be under that prior.
    """
    find = search or (lambda embedding, belief: locator.descend(embedding, plan, belief))
    beliefs = pictures.known.beliefs(batch=1)  # one by one, so that each picture's time includes its own belief
    answers: list[Answer] = []
    traces: list[list[_ZoomTrace]] = []
    seconds = np.empty(len(pictures.known))
    for i, embedding in enumerate(pictures.known.embeddings):
        start = time.perf_counter()
        descent = find(embedding, next(beliefs))
        answer = locator.answer_of(descent, plan)
        seconds[i] = time.perf_counter() - start
        answers.append(answer)
        traces.append(_trace(descent, answer, [int(rows[i]) for rows in pictures.rows], plan))
        if on_picture is not None:
            on_picture(i + 1)
    return _outcomes(locator.index.zooms, pictures, answers, traces, seconds)


@dataclass(frozen=True)
class _ZoomTrace:
    """What the search did with one picture's true tile at one zoom, and the answer's tile there; see ZoomOutcomes."""

    best: bool = False
    in_beam: bool = False
    reached: bool = False
    right: bool = False
    confidence: float = 0.0


def _trace(descent: Descent, answer: Answer, truth: Sequence[int], plan: SearchPlan) -> list[_ZoomTrace]:
    """One entry for each zoom of the index. `truth`: the true tile's row at each, -1 if not indexed."""
    traces = []
    for i, row in enumerate(truth):
        step = descent.steps[i] if i < len(descent.steps) else None
        position = None if step is None else step.position_of(row)
        best = in_beam = reached = right = False
        confidence = 0.0
        if step is not None and position is not None:
            scores = step.log_mass if plan.scoring == "posterior" else step.similarities
            best = int(np.argmax(scores)) == position  # the first of equal scores: the lower row
            in_beam = bool((step.beam == position).any())
        if step is not None and i < len(answer.levels):
            level = answer.levels[i]
            reached, confidence = True, level.confidence
            right = row >= 0 and int(step.level.codes[row]) == code_of_tile(level.tile)
        traces.append(_ZoomTrace(best, in_beam, reached, right, confidence))
    return traces


def _outcomes(
    zooms: Sequence[int],
    pictures: Pictures,
    answers: Sequence[Answer],
    traces: Sequence[Sequence[_ZoomTrace]],
    seconds: Floats,
) -> Outcomes:
    known = pictures.known
    lng, lat = (np.array([getattr(a, name) for a in answers], dtype=np.float64) for name in ("lng", "lat"))
    deepest = [a.levels[-1].tile for a in answers]
    return Outcomes(
        lng=lng,
        lat=lat,
        km=great_circle_km(lng, lat, known.lng, known.lat),
        elsewhere=np.array([a.elsewhere for a in answers], dtype=np.float64),
        radius_50_km=np.array([a.radius_50_km for a in answers], dtype=np.float64),  # None becomes nan
        radius_90_km=np.array([a.radius_90_km for a in answers], dtype=np.float64),
        seconds=seconds,
        tiles=np.array([code_of_tile(tile) for tile in deepest], dtype=np.uint64),
        depth=np.array([tile.z for tile in deepest], dtype=np.intp),
        calibrated=np.array([a.calibrated for a in answers], dtype=bool),
        zooms=tuple(
            _zoom_outcomes(zoom, rows >= 0, [trace[i] for trace in traces])
            for i, (zoom, rows) in enumerate(zip(zooms, pictures.rows, strict=True))
        ),
    )


def _zoom_outcomes(zoom: int, covered: Bools, traces: Sequence[_ZoomTrace]) -> ZoomOutcomes:
    return ZoomOutcomes(
        zoom=zoom,
        covered=covered,
        best=np.array([t.best for t in traces], dtype=bool),
        in_beam=np.array([t.in_beam for t in traces], dtype=bool),
        reached=np.array([t.reached for t in traces], dtype=bool),
        right=np.array([t.right for t in traces], dtype=bool),
        confidence=np.array([t.confidence for t in traces], dtype=np.float64),
    )
