"""What became of each picture: its answer, how far off it is, and where on the way its true tile was lost.

One search a picture gives both. Arrays over n pictures; kilometres, degrees, seconds. Knows nothing of averages.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation.metrics import Bools, Floats
from indexer.photos.known import KnownPictures
from retrieval.index.reader import TileIndex
from retrieval.locator import Locator
from retrieval.priors.base import Belief
from retrieval.search.answer import Answer
from retrieval.search.beam import Descent
from retrieval.search.query import LocateQuery
from retrieval.sphere import great_circle_km
from tile_cache.addressing import code_of_tile

Rows = NDArray[np.int64]
Search = Callable[[NDArray[np.float32], Belief | None], Descent]
"""One embedding, (d,), and what the prior believes, to all candidates with their masses."""
OnPicture = Callable[[int], None]


@dataclass(frozen=True)
class ZoomOutcomes:
    """One zoom, (n,) arrays. A picture of no place, or of one that is not indexed, is right nowhere."""

    zoom: int
    covered: Bools  # the true tile is in the index, with a vector or without
    best: Bools  # the true tile scores highest of the level's candidates
    kept: Bools  # it is among those that the beam kept
    reached: Bools  # the answer has a tile at this zoom
    right: Bools  # and it is the true one
    confidence: Floats  # of that tile, 0 where there is none

    @classmethod
    def empty(cls, zoom: int, n: int) -> "ZoomOutcomes":
        """Nothing known yet."""
        covered, best, kept, reached, right = np.zeros((5, n), dtype=bool)
        return cls(zoom, covered, best, kept, reached, right, np.zeros(n))


@dataclass(frozen=True)
class Outcomes:
    """All pictures under one index, beam width and scoring. `km` is nan for a picture of no place."""

    lng: Floats
    lat: Floats
    km: Floats
    elsewhere: Floats
    radius_50_km: Floats  # nan: no circle given
    radius_90_km: Floats
    seconds: Floats  # the search and its answer, what a prior believes included, encoding not counted
    tiles: NDArray[np.uint64]  # the answer's deepest tile, as a Morton code
    depth: NDArray[np.intp]  # and its zoom
    calibrated: Bools
    zooms: tuple[ZoomOutcomes, ...]

    def __len__(self) -> int:
        return len(self.lng)

    @property
    def confidence(self) -> Floats:
        """Of the answer's deepest tile, (n,)."""
        deepest = np.zeros(len(self))
        for zoom in self.zooms:
            deepest = np.where(zoom.reached, zoom.confidence, deepest)
        return deepest


@dataclass(frozen=True)
class Pictures:
    """Pictures with places, and the rows of their true tiles in an index: per zoom (n,) int64, -1 where not indexed."""

    known: KnownPictures
    rows: tuple[Rows, ...] = field(repr=False)

    @classmethod
    def of(cls, known: KnownPictures, index: TileIndex) -> "Pictures":
        """Look the true tiles up."""
        rows = []
        for level in index.levels:
            codes, somewhere = known.codes(level.zoom)
            row = np.searchsorted(level.codes, codes).astype(np.int64)
            there = level.codes[np.minimum(row, len(level.codes) - 1)] == codes
            rows.append(np.where(there & somewhere, row, -1))
        return cls(known, tuple(rows))


def search_all(
    locator: Locator,
    pictures: Pictures,
    query: LocateQuery,
    search: Search | None = None,
    on_picture: OnPicture | None = None,
) -> Outcomes:
    """Search for every picture, with the beam or another `search`, and note what became of it.

    Where the query asks a prior, the pictures must be under it.
    """
    find = search or (lambda embedding, belief: locator.descend(embedding, query, belief))
    beliefs = pictures.known.beliefs(at_once=1)  # so that each takes its own time
    n = len(pictures.known)
    zooms = tuple(ZoomOutcomes.empty(zoom, n) for zoom in locator.index.zooms)
    for zoom, rows in zip(zooms, pictures.rows, strict=True):
        zoom.covered[:] = rows >= 0
    answers: list[Answer] = []
    seconds = np.empty(n)
    for i, embedding in enumerate(pictures.known.embeddings):
        begun = time.perf_counter()
        descent = find(embedding, next(beliefs))
        answer = locator.answer_of(descent, query)
        seconds[i] = time.perf_counter() - begun
        truth = [int(rows[i]) for rows in pictures.rows]
        _note_search(zooms, i, descent, truth, query)
        _note_answer(zooms, i, answer, [step.level.codes for step in descent.steps], truth)
        answers.append(answer)
        if on_picture is not None:
            on_picture(i + 1)
    return _gathered(answers, pictures.known, seconds, zooms)


def _note_search(
    zooms: tuple[ZoomOutcomes, ...], i: int, descent: Descent, truth: list[int], query: LocateQuery
) -> None:
    for zoom, step, row in zip(zooms, descent.steps, truth, strict=False):
        position = step.position_of(row)
        if position is not None:
            scores = step.log_mass if query.scoring == "posterior" else step.similarities
            zoom.best[i] = int(np.argmax(scores)) == position  # the first of equal ones: the lower row
            zoom.kept[i] = bool((step.kept == position).any())


def _note_answer(
    zooms: tuple[ZoomOutcomes, ...], i: int, answer: Answer, codes: list[NDArray[np.uint64]], truth: list[int]
) -> None:
    for zoom, level, of_rows, row in zip(zooms, answer.levels, codes, truth, strict=False):
        zoom.reached[i] = True
        zoom.right[i] = row >= 0 and int(of_rows[row]) == code_of_tile(level.tile)
        zoom.confidence[i] = level.confidence


def _gathered(
    answers: list[Answer], known: KnownPictures, seconds: Floats, zooms: tuple[ZoomOutcomes, ...]
) -> Outcomes:
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
        zooms=zooms,
    )
