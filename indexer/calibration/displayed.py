"""Fitting the deepest zoom's numbers to the confidences that users see, and the radii.

The likelihood over all candidates also depends on the far tail of hopeless pictures. Users see the confidence of the
answer's tile at every zoom. So tau, gamma, rho and lambda of the deepest zoom are fitted once more, to the Bernoulli
likelihood of these confidences: was the tile the right one, over all zooms. The answers change with the numbers, hence
two rounds. The numbers whose own answers have the best likelihood are returned, which may be the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.calibration.cases import Case, Chunk, case_of, descents
from indexer.calibration.likelihood import Free, log_posterior, minimise
from indexer.photos.embed import KnownPictures
from retrieval.index.calibration import Calibration
from retrieval.index.reader import TileIndex
from retrieval.search.answer_point import Place, places
from retrieval.search.beam import Descent
from retrieval.search.points import Support
from retrieval.sphere import distances_km, unit_vectors_of_sines

MAX_PICTURES = 3000
"""Limit for the pictures used here: more change little and take minutes."""
_ROUNDS = 2
_CHUNK_CASES = 256
_MIN_PROBABILITY = 1e-6


@dataclass(frozen=True)
class DisplayedCase:
    """One picture's answer at the z zooms of its path; c: the candidates of the deepest zoom."""

    case: Case
    fixed: NDArray[np.float64]  # (z,): the part of the tile's confidence that the deepest zoom's numbers cannot change
    under: NDArray[np.bool_]  # (z, c): which candidates lie under the tile
    right: NDArray[np.bool_]  # (z,): whether the tile holds the true place


def fit_displayed(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int) -> Calibration:
    """Refit the deepest zoom to the confidences of the answers.

    Returns `calibration` itself if the deepest zoom is not fitted or no picture has a place.
    """
    zoom = max(calibration.zooms, default=None)
    if zoom is None or zoom != index.zooms[-1]:
        return calibration
    sample = with_places(index, pictures)
    tried: list[tuple[float, Calibration]] = []
    for number in range(_ROUNDS + 1):
        cases = [case for case in displayed_cases(index, sample, calibration, k) if case is not None]
        if not cases:
            return calibration
        numbers = calibration.zooms[zoom]
        free = Free.start(numbers, neighbours=numbers.kappa > 0, prior=numbers.lam > 0)
        losses = [
            partial(DisplayedChunk.of(cases[i : i + _CHUNK_CASES]).loss, free)
            for i in range(0, len(cases), _CHUNK_CASES)
        ]
        tried.append((sum(float(loss().detach()) for loss in losses) / len(cases), calibration))
        if number < _ROUNDS:
            parameters = [free.log_tau, free.gamma, free.rho] + ([] if free.lam_root is None else [free.lam_root])
            minimise(parameters, losses, len(cases))
            refitted = replace(free.numbers(numbers), kappa=numbers.kappa)
            calibration = replace(calibration, zooms={**calibration.zooms, zoom: refitted})
    return min(tried, key=lambda pair: pair[0])[1]


def fit_radii(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int) -> Calibration:
    """Fit the shares of the mass that the 50% and 90% circles must hold.

    A share is the quantile, over pictures, of the mass that lies nearer to the answer than the truth does.
    """
    sample = with_places(index, pictures)
    truths = unit_vectors_of_sines(sample.lng, np.sin(np.radians(sample.lat)))
    nearer = [
        _nearer(descent, truth) for descent, truth in zip(descents(index, sample, calibration, k), truths, strict=True)
    ]
    if not nearer:
        return calibration
    shares = {p: float(np.clip(np.quantile(nearer, int(p) / 100), 1e-3, 1.0)) for p in ("50", "90")}
    return replace(calibration, extra={**calibration.extra, "radius_shares": shares})


def with_places(index: TileIndex, pictures: KnownPictures) -> KnownPictures:
    """At most MAX_PICTURES pictures with a place, spread evenly over the set."""
    at_places = np.flatnonzero(pictures.codes(index.zooms[-1])[1])
    count = min(MAX_PICTURES, len(at_places))
    return pictures.take(at_places[np.linspace(0, len(at_places) - 1, count).astype(int)] if count else at_places)


def displayed_cases(
    index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int
) -> list[DisplayedCase | None]:
    """One case for each picture; None where the search ended above the deepest zoom."""
    codes = [pictures.codes(zoom)[0] for zoom in index.zooms]
    every = enumerate(descents(index, pictures, calibration, k))
    return [_displayed(descent, [int(c[i]) for c in codes]) for i, descent in every]


def _displayed(descent: Descent, truths: Sequence[int]) -> DisplayedCase | None:
    """The case of one picture's answer. `truths`: the Morton code of the true tile at each zoom."""
    case = case_of(descent, len(truths) - 1, truths[-1])
    if case is None:
        return None
    place = next(places(descent, Support.of(descent, None), None))
    tiles = [step.level.codes[step.rows[p]] for step, p in zip(descent.steps, place.path, strict=False)]
    deepest = descent.steps[-1]
    candidates, mass = deepest.level.codes[deepest.rows], np.exp(deepest.log_mass)
    shifts = [np.uint64(2 * (deepest.level.zoom - step.level.zoom)) for step in descent.steps]
    under = np.stack([(candidates >> shift) == tile for tile, shift in zip(tiles, shifts, strict=False)])
    displayed = zip(descent.confidences(), place.path, strict=False)
    fixed = np.array([confidence[position] for confidence, position in displayed]) - under @ mass
    right = np.array([int(tile) == truth for tile, truth in zip(tiles, truths, strict=False)])
    return DisplayedCase(case, fixed, under, right)


@dataclass(frozen=True)
class DisplayedChunk:
    """Displayed cases, padded."""

    chunk: Chunk
    fixed: Tensor  # (n, z)
    under: Tensor  # (n, z, c)
    right: Tensor  # (n, z)
    present: Tensor  # (n, z): False where padded

    @classmethod
    def of(cls, cases: Sequence[DisplayedCase]) -> "DisplayedChunk":
        """Pad and stack."""
        chunk = Chunk.of([shown.case for shown in cases])
        n, z, c = len(cases), max(len(shown.right) for shown in cases), chunk.similarities.shape[1]
        fixed, under = np.zeros((n, z)), np.zeros((n, z, c), dtype=bool)
        right, present = np.zeros((n, z), dtype=bool), np.zeros((n, z), dtype=bool)
        for i, shown in enumerate(cases):
            depth, width = shown.under.shape
            fixed[i, :depth], under[i, :depth, :width] = shown.fixed, shown.under
            right[i, :depth], present[i, :depth] = shown.right, True
        return cls(chunk, *(torch.from_numpy(a) for a in (fixed, under, right, present)))

    def loss(self, free: Free) -> Tensor:
        """Minus the log of the probability of the outcome, right or wrong, summed over pictures and zooms."""
        mass = torch.exp(log_posterior(self.chunk, free) + self.chunk.log_total[:, None])
        confidence = self.fixed + torch.einsum("nzc,nc->nz", self.under.double(), mass)
        confidence = confidence.clamp(_MIN_PROBABILITY, 1 - _MIN_PROBABILITY)
        losses = -torch.where(self.right, confidence, 1 - confidence).log()
        return losses[self.present].sum()


def _nearer(descent: Descent, truth: NDArray[np.float64]) -> float:
    """The share of the mass that lies no farther from the answer than the truth. `truth`: (3,) unit vector."""
    support = Support.of(descent, None)
    place: Place = next(places(descent, support, None))
    km = distances_km(place.vector, support.vectors)
    return float(support.mass[km <= distances_km(place.vector, truth[None])[0]].sum()) / support.total
