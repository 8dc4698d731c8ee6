"""Training data for one zoom's numbers: for each picture the candidates, the masses above, and the true candidate.

Cases come from the beam as it is served, and are padded into chunks for torch. The module knows rows and masses, not
places.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.photos.embed import KnownPictures
from retrieval.index.calibration import Calibration
from retrieval.index.reader import TileIndex
from retrieval.search.beam import Descent, Step, descend
from retrieval.search.neighbours import neighbours_mean
from retrieval.search.plan import SearchPlan

_CHUNK_CASES = 256
ABSENT = -1
"""Position of a true tile that is not among the candidates."""


class Case(NamedTuple):
    """One picture at one zoom.

    `log_mass`: (m,) of the expanded tiles above. Of the candidates, (c,) each: `slots`, the position of the parent
    among these tiles; `similarities`, cosines; `around`, the mean cosine of the neighbours; `gains`, log prior of the
    candidate less that of its parent. `truth`: the position of the candidate that holds the place.
    """

    log_mass: NDArray[np.float64]
    slots: NDArray[np.intp]
    similarities: NDArray[np.float32]
    around: NDArray[np.float32]
    truth: int
    gains: NDArray[np.float64] | None = None


def descents(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int) -> Iterator[Descent]:
    """The search as it is served, one descent for each picture, with the beliefs of the pictures' prior."""
    plan = SearchPlan(calibration, k=k)
    for embedding, belief in zip(pictures.embeddings, pictures.beliefs(), strict=True):
        yield descend(index, embedding, plan, belief)


def cases_of(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int, level: int) -> list[Case]:
    """The cases of one zoom, for the pictures whose true tile is among its candidates."""
    codes, has_place = pictures.codes(index.zooms[level])
    cases = (
        case_of(descent, level, int(code)) if placed else None
        for descent, code, placed in zip(descents(index, pictures, calibration, k), codes, has_place, strict=True)
    )
    return [case for case in cases if case is not None and case.truth != ABSENT]


def case_of(descent: Descent, level: int, code: int) -> Case | None:
    """One descent's case at a level; None if it ends above the level. `code`: the true tile's Morton code."""
    if level >= len(descent.steps):
        return None
    step = descent.steps[level]
    if level == 0:  # not 0 if the model of elsewhere has taken its share
        above = np.logaddexp.reduce(step.log_mass, keepdims=True)
    else:
        above = descent.steps[level - 1].log_mass[descent.steps[level - 1].expanded]
    similarities = step.similarities if step.level.has_vectors else np.zeros(len(step.rows), dtype=np.float32)
    around = neighbours_mean(step.level.codes[step.rows], step.level.zoom, similarities)
    gains = _gains(step, descent.steps[level - 1] if level else None)
    return Case(above, np.asarray(step.slots), similarities, around, position_of(step, code), gains)


def _gains(step: Step, above: Step | None) -> NDArray[np.float64] | None:
    if step.log_prior is None or above is None or above.log_prior is None:
        return step.log_prior  # above the first level lies the Earth, with log prior mass 0
    return np.asarray(step.log_prior - above.log_prior[above.expanded][step.slots])


def position_of(step: Step, code: int) -> int:
    """The position of the tile with this code among a step's candidates; ABSENT if it is not one of them."""
    codes = step.level.codes
    row = int(np.searchsorted(codes, np.uint64(code)))
    if row == len(codes) or codes[row] != np.uint64(code):
        return ABSENT
    position = step.position_of(row)
    return ABSENT if position is None else position


@dataclass(frozen=True)
class Chunk:
    """Cases padded to rectangles: n pictures, at most c candidates of at most m parents."""

    similarities: Tensor  # (n, c) float64, 0 where padded
    around: Tensor  # (n, c) float64
    slots: Tensor  # (n, c) int64; m where padded
    present: Tensor  # (n, c) bool, False where padded
    log_share: Tensor  # (n, m) float64, each parent's share of the mass above; -inf where padded
    log_total: Tensor  # (n,) float64
    truth: Tensor  # (n,) int64
    gains: Tensor | None  # (n, c) float64, 0 where padded; None without a prior

    @classmethod
    def of(cls, cases: Sequence[Case]) -> "Chunk":
        """Pad and stack."""
        n, c, m = len(cases), max(len(x.slots) for x in cases), max(len(x.log_mass) for x in cases)
        similarities, around, present = np.zeros((n, c)), np.zeros((n, c)), np.zeros((n, c), dtype=bool)
        slots, log_share = np.full((n, c), m, dtype=np.int64), np.full((n, m), -np.inf)
        gains = None if cases[0].gains is None else np.zeros((n, c))
        totals = np.array([np.logaddexp.reduce(case.log_mass) for case in cases])
        for i, case in enumerate(cases):
            count = len(case.slots)
            similarities[i, :count], around[i, :count] = case.similarities, case.around
            slots[i, :count], present[i, :count] = case.slots, True
            log_share[i, : len(case.log_mass)] = case.log_mass - totals[i]
            if gains is not None:
                gains[i, :count] = case.gains
        return cls(
            similarities=torch.from_numpy(similarities),
            around=torch.from_numpy(around),
            slots=torch.from_numpy(slots),
            present=torch.from_numpy(present),
            log_share=torch.from_numpy(log_share),
            log_total=torch.from_numpy(totals),
            truth=torch.tensor([case.truth for case in cases]),
            gains=None if gains is None else torch.from_numpy(gains),
        )


def chunks_of(cases: Sequence[Case]) -> list[Chunk]:
    """All cases in chunks, sorted by their number of candidates so that padding stays small."""
    ordered = sorted(cases, key=lambda case: len(case.slots))
    return [Chunk.of(ordered[i : i + _CHUNK_CASES]) for i in range(0, len(ordered), _CHUNK_CASES)]
