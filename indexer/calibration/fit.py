"""Calibration: the posterior's numbers per zoom, by maximum likelihood on pictures whose places are known.

Coarse to fine: at each zoom the beam is run as it is served, with the numbers already fitted above, and tau, gamma and
b maximise the likelihood of the frontier tile that holds each picture's place, or of "elsewhere" where none does. Knows
embeddings and indexes, not pictures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.metrics import expected_calibration_error
from indexer.photos.known import KnownPictures
from indexer.retrieval.beam import Descent, descend
from indexer.retrieval.calibration import Calibration, ZoomNumbers
from indexer.retrieval.index import TileIndex
from indexer.retrieval.point import places
from indexer.retrieval.support import Support, distances_km, unit_vectors

_NOWHERE = -1
_B_UNIT = 10.0  # b lives on the scale of logits, some tens; the other two near 1
_START = ZoomNumbers(tau=0.05, gamma=1.0, b=None)


@dataclass(frozen=True)
class LevelCase:
    """What one picture says about one zoom's numbers: the masses above, the candidates, and the truth among them.

    `log_mass`: (m,) of the expanded tiles; `settled`: mass that earlier levels gave to "elsewhere"; `truth`:
    position of the candidate that holds the place, or -1 for "elsewhere".
    """

    log_mass: NDArray[np.float64]
    slots: NDArray[np.int64]
    similarities: NDArray[np.float32]
    settled: float
    truth: int


def fit(index: TileIndex, pictures: KnownPictures, k: int, *, elsewhere: bool) -> Calibration:
    """Fit every zoom at beam width `k`; `elsewhere` fits b too, which needs pictures of no covered place."""
    calibration = Calibration(
        k=k, coverage=index.manifest.coverage_hash, photo_encoder=index.manifest.photo_encoder["fingerprint"]
    )
    for i, zoom in enumerate(index.zooms):
        start = replace(_START, b=_B_UNIT) if elsewhere else _START
        trial = replace(calibration, zooms={**calibration.zooms, zoom: start})
        cases = [c for c in _cases(index, pictures, trial, k, i) if c is not None]
        if len(cases) < 50:
            break  # too few pictures reach this zoom to say anything about it
        calibration = replace(calibration, zooms={**calibration.zooms, zoom: _maximise(cases, start)})
    return calibration


def _cases(
    index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int, level: int
) -> Sequence[LevelCase | None]:
    codes, somewhere = pictures.codes(index.zooms[level])
    return [
        _case(descend(index, row, calibration, k, "posterior", None), level, int(code), bool(real))
        for row, code, real in zip(pictures.embeddings, codes, somewhere, strict=True)
    ]


def _case(descent: Descent, level: int, code: int, somewhere: bool) -> LevelCase | None:
    """One picture's case; None where this zoom's numbers do not change the likelihood of its place."""
    if level >= len(descent.steps):
        return None
    step = descent.steps[level]
    truth = _position(step.level.codes, step.rows, code) if somewhere else _NOWHERE
    if level == 0:
        return LevelCase(np.zeros(1), np.asarray(step.slots), step.similarities, 0.0, truth)
    above = descent.steps[level - 1]
    if truth == _NOWHERE and somewhere:
        shift = 2 * (step.level.zoom - above.level.zoom)
        parent = _position(above.level.codes, above.rows, code >> shift)
        if parent != _NOWHERE and parent not in above.expanded:
            return None  # pruned above: its mass is settled
    given = sum(float(np.exp(np.delete(s.log_mass, s.expanded)).sum()) for s in descent.steps[: level - 1])
    settled = max(0.0, 1.0 - given - float(np.exp(above.log_mass).sum()))
    return LevelCase(above.log_mass[above.expanded], np.asarray(step.slots), step.similarities, settled, truth)


def _position(codes: NDArray[np.uint64], rows: NDArray[np.int64], code: int) -> int:
    """Where among a step's candidate rows the tile with this code stands; -1 if it is none of them."""
    row = int(np.searchsorted(codes, np.uint64(code)))
    if row == len(codes) or codes[row] != np.uint64(code):
        return _NOWHERE
    position = int(np.searchsorted(rows, row))
    return position if position < len(rows) and rows[position] == row else _NOWHERE


def _maximise(cases: Sequence[LevelCase], start: ZoomNumbers) -> ZoomNumbers:
    """Maximum likelihood by L-BFGS over log tau, gamma and b."""
    batch = _Padded.of(cases)
    log_tau = torch.tensor(math.log(start.tau), dtype=torch.float64, requires_grad=True)
    gamma = torch.tensor(start.gamma, dtype=torch.float64, requires_grad=True)
    b = torch.tensor((start.b or 0.0) / _B_UNIT, dtype=torch.float64, requires_grad=True)
    free = [log_tau, gamma] if start.b is None else [log_tau, gamma, b]
    optimiser = torch.optim.LBFGS(free, lr=0.5, max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = batch.loss(log_tau, gamma, None if start.b is None else b * _B_UNIT)
        torch.autograd.backward(loss)
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]  # torch leaves L-BFGS untyped
    fitted_b = None if start.b is None else float(b.detach()) * _B_UNIT
    return replace(start, tau=math.exp(float(log_tau.detach())), gamma=float(gamma.detach()), b=fitted_b)


@dataclass(frozen=True)
class _Padded:
    """Cases as rectangles: (n, c) similarities and parents' log shares, -inf where there is no candidate."""

    similarities: Tensor
    log_share: Tensor
    log_total: Tensor
    settled: Tensor
    truth: Tensor

    @classmethod
    def of(cls, cases: Sequence[LevelCase]) -> "_Padded":
        n, width = len(cases), max(len(c.similarities) for c in cases)
        similarities, log_share = np.zeros((n, width)), np.full((n, width), -np.inf)
        totals = np.zeros(n)
        for i, case in enumerate(cases):
            count = len(case.similarities)
            totals[i] = np.logaddexp.reduce(case.log_mass)
            similarities[i, :count] = case.similarities
            log_share[i, :count] = (case.log_mass - totals[i])[case.slots]
        settled = torch.tensor([c.settled for c in cases], dtype=torch.float64)
        truth = torch.tensor([c.truth for c in cases])
        return cls(
            torch.from_numpy(similarities), torch.from_numpy(log_share), torch.from_numpy(totals), settled, truth
        )

    def loss(self, log_tau: Tensor, gamma: Tensor, b: Tensor | None) -> Tensor:
        """Mean negative log-likelihood of the truths; -inf candidates stay out without spoiling gradients."""
        there = torch.isfinite(self.log_share)
        share = torch.where(there, self.log_share, torch.zeros(()).double())
        weights = torch.where(there, gamma * share + self.similarities * torch.exp(-log_tau), -torch.inf)
        norm = torch.logsumexp(weights, 1)
        if b is not None:
            norm = torch.logaddexp(norm, b)
        found = weights.gather(1, self.truth.clamp_min(0)[:, None])[:, 0] - norm + self.log_total
        nowhere = self.settled.clamp_min(1e-12).log()
        if b is not None:
            nowhere = torch.logaddexp(nowhere, b - norm + self.log_total)
        real = self.truth >= 0
        likelihood = torch.where(real, found, nowhere) if b is not None else found[real]
        return -likelihood.mean()


_SHARPER = (1.0, 1.06, 1.12, 1.18, 1.25)
_SHOWN = 2000  # pictures looked at for what users see


def as_shown(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int) -> Calibration:
    """Sharpen the deepest zoom as far as the confidences that users see get truer, then fit the circles.

    Maximum likelihood over all candidates also pays for the far tail; the tile that is answered is the one of least
    expected error, right more often than its own share of that posterior says. All log-weights of the deepest zoom are
    multiplied by one factor from a short list: that with the least calibration error at the zoom that has most of it.
    The circles' shares go into `radius_shares`, the factor into `sharpened`.
    """
    at_places = np.flatnonzero(pictures.codes(index.zooms[-1])[1])
    some = at_places[:: max(1, len(at_places) // _SHOWN)]
    chosen = KnownPictures(pictures.embeddings[some], pictures.lng[some], pictures.lat[some])
    deepest = max(calibration.zooms, default=None)
    if deepest is None or not len(chosen):
        return calibration
    trials = [_sharper(calibration, deepest, factor) for factor in _SHARPER]
    seen = [_shown(index, chosen, trial, k) for trial in trials]
    best = min(range(len(trials)), key=lambda i: seen[i].worst_ece)
    nearer = seen[best].nearer
    shares = {p: float(np.clip(np.quantile(nearer, int(p) / 100), 1e-3, 1.0)) for p in ("50", "90")}
    return replace(trials[best], extra={**calibration.extra, "radius_shares": shares, "sharpened": _SHARPER[best]})


def _sharper(calibration: Calibration, zoom: int, factor: float) -> Calibration:
    n = calibration.zooms[zoom]
    b = None if n.b is None else n.b * factor
    changed = ZoomNumbers(tau=n.tau / factor, gamma=n.gamma * factor, b=b, lam=n.lam * factor)
    return replace(calibration, zooms={**calibration.zooms, zoom: changed})


@dataclass(frozen=True)
class _Shown:
    """What users see of a set.

    `worst_ece`: the largest calibration error that a zoom of the answers has; `nearer`: per picture the share of
    the mass that lies nearer to the answer than the truth does, (n,).
    """

    worst_ece: float
    nearer: NDArray[np.float64]


def _shown(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int) -> _Shown:
    codes = {zoom: pictures.codes(zoom)[0] for zoom in index.zooms}
    truths = unit_vectors(pictures.lng, np.sin(np.radians(pictures.lat)))
    nearer: list[float] = []
    shown: dict[int, list[tuple[float, bool]]] = {zoom: [] for zoom in index.zooms}
    for i, embedding in enumerate(pictures.embeddings):
        descent = descend(index, embedding, calibration, k, "posterior", None)
        support = Support.of(descent, None)
        place = next(places(descent, support, None))
        for step, confidence, position in zip(descent.steps, descent.confidences(), place.path, strict=False):
            right = step.level.codes[step.rows[position]] == codes[step.level.zoom][i]
            shown[step.level.zoom].append((min(1.0, float(confidence[position])), bool(right)))
        km = distances_km(place.vector, support.vectors)
        inside = km <= distances_km(place.vector, truths[i : i + 1])[0]
        nearer.append(float(support.mass[inside].sum()) / support.total)
    errors = [
        expected_calibration_error(np.array([p for p, _ in pairs]), np.array([right for _, right in pairs]))
        for pairs in shown.values()
        if pairs
    ]
    return _Shown(max(errors), np.array(nearer))
