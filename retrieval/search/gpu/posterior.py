"""`retrieval.search.posterior` and `neighbours` for a batch of queries: the same formulas in torch, on fixed shapes.

Candidates lie in (n, m, w): query, tile above, child. A mask says which of them exist; the others have a log mass of
minus infinity. No function here waits for the device. Symbols are those of the glossary in docs/method.md.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from retrieval.index.calibration import ZoomNumbers

_NO_MASS = -math.inf


class DeviceShares(NamedTuple):
    """The masses of a level's candidates and the mass that went elsewhere, as `posterior.Shares`."""

    log_mass: Tensor  # (n, m, w) float64
    elsewhere: Tensor  # (n,) float64


def share(log_mass: Tensor, scores: Tensor, mask: Tensor, numbers: ZoomNumbers) -> DeviceShares:
    """As `posterior.share` without a prior.

    `log_mass`: (n, m) float64 of the tiles above; `scores`: (n, m, w) float32; `mask`: (n, m, w). A query without
    candidates has no mass, and adds nothing to elsewhere.
    """
    expanded = mask.any(2)
    total = log_mass.masked_fill(~expanded, _NO_MASS).logsumexp(1)
    weights = (scores.double() / numbers.tau).masked_fill(~mask, _NO_MASS)
    of_parent = numbers.gamma * (log_mass - total[:, None])
    if numbers.rho != 1:
        of_parent = of_parent + (numbers.rho - 1) * weights.logsumexp(2)
    several = expanded & (expanded.sum(1, keepdim=True) > 1)
    weights = weights + of_parent.masked_fill(~several, 0.0)[:, :, None]
    norm = weights.flatten(1).logsumexp(1)
    elsewhere = torch.zeros_like(total)
    if numbers.b is not None:
        norm = torch.logaddexp(norm, torch.full_like(norm, numbers.b))
        elsewhere = (total + (numbers.b - norm)).exp()
    return DeviceShares((weights + (total - norm)[:, None, None]).masked_fill(~mask, _NO_MASS), elsewhere)


def best(scores: Tensor, mask: Tensor, k: int) -> Tensor:
    """As `posterior.best`: positions of each query's k highest scores, (n, min(k, c)) ascending, then -1.

    `scores`, `mask`: (n, c). Among equal scores the lower positions win, which `topk` does not promise.
    """
    n, c = scores.shape
    k = min(k, c)
    scores = scores.masked_fill(~mask, _NO_MASS)
    threshold = scores.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    above, at_threshold = (scores > threshold) & mask, (scores == threshold) & mask
    wanted = k - above.sum(1, keepdim=True)
    chosen = above | (at_threshold & (at_threshold.cumsum(1) <= wanted))
    # The j-th chosen position is written to place j, all others to one more place that is cut off.
    place = (chosen.cumsum(1) - 1).masked_fill(~chosen, k)
    positions = torch.arange(c, device=scores.device).expand(n, c)
    return torch.full((n, k + 1), -1, device=scores.device).scatter(1, place, positions)[:, :k]


def with_neighbours(similarities: Tensor, codes: Tensor, mask: Tensor, zoom: int, kappa: float) -> Tensor:
    """As `neighbours.with_neighbours`, with the same order of additions: (n, c) float32 cosines, smoothed by `kappa`.

    `codes`: (n, c) int64 Morton codes, ascending where `mask` is True.
    """
    ascending = codes.masked_fill(~mask, -1).cummax(1).values  # a gap repeats the code before it
    c = codes.shape[1]
    total = torch.zeros((len(codes), c + 1), device=codes.device)
    count = torch.zeros_like(total)
    for neighbour, exists in _directions(ascending, zoom):
        at = torch.searchsorted(ascending, neighbour).clamp_(max=c - 1)
        matches = (ascending.gather(1, at) == neighbour) & mask & exists
        other = at.masked_fill(~matches, c)  # column c collects what does not count
        total[:, :c] += similarities.gather(1, at).masked_fill(~matches, 0.0)
        total = total.scatter_add(1, other, similarities.masked_fill(~matches, 0.0))
        count[:, :c] += matches
        count = count.scatter_add(1, other, matches.float())
    around = torch.where(count[:, :c] > 0, total[:, :c] / count[:, :c].clamp(min=1), similarities)
    return similarities + kappa * (around - similarities)


def _directions(codes: Tensor, zoom: int) -> list[tuple[Tensor, Tensor]]:
    """The neighbours to the east, south, south-east and north-east, and which exist; each pair counts both ways.

    Columns wrap at the date line, rows end at the poles. The arithmetic is that of `neighbours._over_neighbours`.
    """
    inside = (1 << (2 * zoom)) - 1
    xs, ys = 0x5555555555555555 & inside, 0x2AAAAAAAAAAAAAAA & inside
    x, y = codes & xs, codes & ys
    east = ((x | ys) + 1) & xs
    south, has_south = ((y | xs) + 2) & ys, y != ys
    north, has_north = (y - 2) & ys, y != 0
    real = codes >= 0
    return [
        (east | y, real),
        (x | south, real & has_south),
        (east | south, real & has_south),
        (east | north, real & has_north),
    ]
