"""What pictures whose places are known say of one zoom: its candidates, the masses above, the true one among them.

Cases are gathered by the beam as it is served, and held in padded chunks for torch. Knows rows and masses, not places.
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

_CHUNK = 256
ABSENT = -1


class Case(NamedTuple):
    """One picture at one zoom.

    `log_mass`: (m,) of the expanded tiles above; `slots`, `similarities`, `around`: (c,) of the candidates, whose
    children they are, their cosines and their neighbours' mean cosines; `truth`: the candidate that holds the place;
    `gains`: (c,) what a prior gains from parent to candidate.
    """

    log_mass: NDArray[np.float64]
    slots: NDArray[np.intp]
    similarities: NDArray[np.float32]
    around: NDArray[np.float32]
    truth: int
    gains: NDArray[np.float64] | None = None


def descents(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int) -> Iterator[Descent]:
    """The beam as it is served, picture by picture, under what the pictures' prior believes of each."""
    for embedding, belief in zip(pictures.embeddings, pictures.beliefs(), strict=True):
        yield descend(index, embedding, calibration, k, "posterior", None, belief)


def cases_of(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int, level: int) -> list[Case]:
    """The cases of one zoom: of the pictures whose true tile is among its candidates; no others speak of it."""
    codes, somewhere = pictures.codes(index.zooms[level])
    found = (
        case_of(descent, level, int(code)) if there else None
        for descent, code, there in zip(descents(index, pictures, calibration, k), codes, somewhere, strict=True)
    )
    return [case for case in found if case is not None and case.truth != ABSENT]


def case_of(descent: Descent, level: int, code: int) -> Case | None:
    """One descent's case; None where it ends above that level. `code`: the true tile's."""
    if level >= len(descent.steps):
        return None
    step = descent.steps[level]
    if level == 0:  # elsewhere may have taken its part already
        above = np.logaddexp.reduce(step.log_mass, keepdims=True)
    else:
        above = descent.steps[level - 1].log_mass[descent.steps[level - 1].expanded]
    similarities = step.similarities if step.level.has_vectors else np.zeros(len(step.rows), dtype=np.float32)
    around = neighbours_mean(step.level.codes[step.rows], step.level.zoom, similarities)
    gains = _gains(step, descent.steps[level - 1] if level else None)
    return Case(above, np.asarray(step.slots), similarities, around, position_of(step, code), gains)


def _gains(step: Step, above: Step | None) -> NDArray[np.float64] | None:
    if step.log_prior is None or above is None or above.log_prior is None:
        return step.log_prior  # above the first level lies the Earth, which has all of a prior
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
    """Some cases as rectangles: n pictures, at most c candidates of at most m parents; pads are False in `there`."""

    similarities: Tensor  # (n, c) float64, 0 where padded
    around: Tensor  # (n, c) float64
    slots: Tensor  # (n, c) int64; m where padded
    there: Tensor  # (n, c) bool
    log_share: Tensor  # (n, m) float64, of the mass above; -inf where padded
    log_total: Tensor  # (n,) float64
    truth: Tensor  # (n,) int64
    gains: Tensor | None  # (n, c) float64, 0 where padded; None: no prior

    @classmethod
    def of(cls, cases: Sequence[Case]) -> "Chunk":
        """Pad and stack."""
        n, c, m = len(cases), max(len(x.slots) for x in cases), max(len(x.log_mass) for x in cases)
        similarities, around, there = np.zeros((n, c)), np.zeros((n, c)), np.zeros((n, c), dtype=bool)
        slots, log_share = np.full((n, c), m, dtype=np.int64), np.full((n, m), -np.inf)
        gains = None if cases[0].gains is None else np.zeros((n, c))
        totals = np.array([np.logaddexp.reduce(case.log_mass) for case in cases])
        for i, case in enumerate(cases):
            count = len(case.slots)
            similarities[i, :count], around[i, :count] = case.similarities, case.around
            slots[i, :count], there[i, :count] = case.slots, True
            log_share[i, : len(case.log_mass)] = case.log_mass - totals[i]
            if gains is not None:
                gains[i, :count] = case.gains
        return cls(
            similarities=torch.from_numpy(similarities),
            around=torch.from_numpy(around),
            slots=torch.from_numpy(slots),
            there=torch.from_numpy(there),
            log_share=torch.from_numpy(log_share),
            log_total=torch.from_numpy(totals),
            truth=torch.tensor([case.truth for case in cases]),
            gains=None if gains is None else torch.from_numpy(gains),
        )


def chunks_of(cases: Sequence[Case]) -> list[Chunk]:
    """All cases, cases of like width together."""
    ordered = sorted(cases, key=lambda case: len(case.slots))
    return [Chunk.of(ordered[i : i + _CHUNK]) for i in range(0, len(ordered), _CHUNK)]
