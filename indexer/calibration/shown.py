"""The deepest zoom's numbers once more, on the confidences that users see; then the circles.

Likelihood over all candidates also pays for the far tail of hopeless pictures; users see the tile that the answer lies
in, at every zoom. So tau, gamma, rho and lambda of the deepest zoom are moved to where those confidences are likeliest
(Bernoulli: the tile was the right one or not, over all zooms). The answers move with them, hence two rounds, of which
those numbers are kept whose own answers came out best: the first, if no others are better.
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

LOOKED_AT = 3000
"""Pictures that are looked at; more say little more and take minutes."""
_ROUNDS = 2
_CHUNK = 256
_LEAST = 1e-6  # of a confidence, and of what it lacks to 1


@dataclass(frozen=True)
class Seen:
    """What one picture's answer shows. Per zoom of its path, (z,): `settled` mass that the deepest zoom cannot move,
    which of its candidates lie under the path's tile, (z, c), and whether that tile was the right one."""

    case: Case
    settled: NDArray[np.float64]
    under: NDArray[np.bool_]
    right: NDArray[np.bool_]


def as_shown(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int) -> Calibration:
    """Refit the deepest fitted zoom to the confidences of the answers. Needs pictures with places."""
    zoom = max(calibration.zooms, default=None)
    if zoom is None or zoom != index.zooms[-1]:
        return calibration
    chosen = some_with_places(index, pictures)
    tried: list[tuple[float, Calibration]] = []
    for number in range(_ROUNDS + 1):
        seen = [s for s in _seen(index, chosen, calibration, k) if s is not None]
        if not seen:
            return calibration
        numbers = calibration.zooms[zoom]
        free = Free.start(numbers, neighbours=numbers.kappa > 0, prior=numbers.lam > 0)
        losses = [partial(_Shown.of(seen[i : i + _CHUNK]).loss, free) for i in range(0, len(seen), _CHUNK)]
        tried.append((sum(float(loss().detach()) for loss in losses) / len(seen), calibration))
        if number < _ROUNDS:
            moving = [free.log_tau, free.gamma, free.rho] + ([] if free.lam_root is None else [free.lam_root])
            minimise(moving, losses, len(seen))
            moved = replace(free.numbers(numbers), kappa=numbers.kappa)
            calibration = replace(calibration, zooms={**calibration.zooms, zoom: moved})
    return min(tried, key=lambda pair: pair[0])[1]


def with_circles(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int) -> Calibration:
    """Fit the share of the mass that circles must hold: the quantile of the mass nearer than the truth."""
    chosen = some_with_places(index, pictures)
    truths = unit_vectors_of_sines(chosen.lng, np.sin(np.radians(chosen.lat)))
    nearer = [
        _nearer(descent, truth) for descent, truth in zip(descents(index, chosen, calibration, k), truths, strict=True)
    ]
    if not nearer:
        return calibration
    shares = {p: float(np.clip(np.quantile(nearer, int(p) / 100), 1e-3, 1.0)) for p in ("50", "90")}
    return replace(calibration, extra={**calibration.extra, "radius_shares": shares})


def some_with_places(index: TileIndex, pictures: KnownPictures) -> KnownPictures:
    """At most LOOKED_AT pictures with a place, spread evenly over the set."""
    at_places = np.flatnonzero(pictures.codes(index.zooms[-1])[1])
    count = min(LOOKED_AT, len(at_places))
    return pictures.take(at_places[np.linspace(0, len(at_places) - 1, count).astype(int)] if count else at_places)


def _seen(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int) -> list[Seen | None]:
    codes = [pictures.codes(zoom)[0] for zoom in index.zooms]
    found = enumerate(descents(index, pictures, calibration, k))
    return [_look(descent, [int(c[i]) for c in codes]) for i, descent in found]


def _look(descent: Descent, truths: Sequence[int]) -> Seen | None:
    """One picture's answer; None where the search ended above the deepest zoom. `truths`: the true code by zoom."""
    case = case_of(descent, len(truths) - 1, truths[-1])
    if case is None:
        return None
    place = next(places(descent, Support.of(descent, None), None))
    tiles = [step.level.codes[step.rows[p]] for step, p in zip(descent.steps, place.path, strict=False)]
    deepest = descent.steps[-1]
    candidates, mass = deepest.level.codes[deepest.rows], np.exp(deepest.log_mass)
    up = [np.uint64(2 * (deepest.level.zoom - step.level.zoom)) for step in descent.steps]
    under = np.stack([(candidates >> shift) == tile for tile, shift in zip(tiles, up, strict=False)])
    shown = zip(descent.confidences(), place.path, strict=False)
    settled = np.array([confidence[position] for confidence, position in shown]) - under @ mass
    right = np.array([int(tile) == truth for tile, truth in zip(tiles, truths, strict=False)])
    return Seen(case, settled, under, right)


@dataclass(frozen=True)
class _Shown:
    """A chunk of what is seen, padded: (n, z) and (n, z, c)."""

    chunk: Chunk
    settled: Tensor
    under: Tensor
    right: Tensor
    there: Tensor

    @classmethod
    def of(cls, seen: Sequence[Seen]) -> "_Shown":
        chunk = Chunk.of([s.case for s in seen])
        n, z, c = len(seen), max(len(s.right) for s in seen), chunk.similarities.shape[1]
        settled, under = np.zeros((n, z)), np.zeros((n, z, c), dtype=bool)
        right, there = np.zeros((n, z), dtype=bool), np.zeros((n, z), dtype=bool)
        for i, s in enumerate(seen):
            depth, width = s.under.shape
            settled[i, :depth], under[i, :depth, :width] = s.settled, s.under
            right[i, :depth], there[i, :depth] = s.right, True
        return cls(chunk, *(torch.from_numpy(a) for a in (settled, under, right, there)))

    def loss(self, free: Free) -> Tensor:
        """Summed over pictures and zooms: minus the log of the probability of right or wrong."""
        mass = torch.exp(log_posterior(self.chunk, free) + self.chunk.log_total[:, None])
        confidence = self.settled + torch.einsum("nzc,nc->nz", self.under.double(), mass)
        confidence = confidence.clamp(_LEAST, 1 - _LEAST)
        losses = -torch.where(self.right, confidence, 1 - confidence).log()
        return losses[self.there].sum()


def _nearer(descent: Descent, truth: NDArray[np.float64]) -> float:
    """The share of the mass that lies nearer to the answer than the truth does. `truth`: (3,) unit vector."""
    support = Support.of(descent, None)
    place: Place = next(places(descent, support, None))
    km = distances_km(place.vector, support.vectors)
    return float(support.mass[km <= distances_km(place.vector, truth[None])[0]].sum()) / support.total
