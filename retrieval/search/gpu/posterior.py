"""`posterior` and `surroundings` for a batch of queries on a device: the same mathematics, in torch, on fixed shapes.

Candidates lie in (n, m, w): query, kept tile above, child; a mask says which are there, and masked ones have a log
mass of minus infinity. Nothing here waits for the device, so that all of it can be captured in a CUDA graph.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from retrieval.index.calibration import ZoomNumbers

_NONE = -math.inf


class DeviceShares(NamedTuple):
    """How a level divides the mass of the kept tiles above it, as `posterior.Shares`."""

    log_mass: Tensor  # (n, m, w) float64
    elsewhere: Tensor  # (n,) float64


def share(log_mass: Tensor, scores: Tensor, mask: Tensor, numbers: ZoomNumbers) -> DeviceShares:
    """As `posterior.share`: `log_mass`: (n, m) float64 of the kept tiles, `scores`: (n, m, w) float32, `mask` the same.

    A query without any candidate gets no mass and gives none to elsewhere.
    """
    alive = mask.any(2)
    total = log_mass.masked_fill(~alive, _NONE).logsumexp(1)
    weights = (scores.double() / numbers.tau).masked_fill(~mask, _NONE)
    of_parent = numbers.gamma * (log_mass - total[:, None])
    if numbers.rho != 1:
        of_parent = of_parent + (numbers.rho - 1) * weights.logsumexp(2)
    several = alive & (alive.sum(1, keepdim=True) > 1)
    weights = weights + of_parent.masked_fill(~several, 0.0)[:, :, None]
    norm = weights.flatten(1).logsumexp(1)
    elsewhere = torch.zeros_like(total)
    if numbers.b is not None:
        norm = torch.logaddexp(norm, torch.full_like(norm, numbers.b))
        elsewhere = (total + (numbers.b - norm)).exp()
    return DeviceShares((weights + (total - norm)[:, None, None]).masked_fill(~mask, _NONE), elsewhere)


def best(scores: Tensor, mask: Tensor, k: int) -> Tensor:
    """As `posterior.best`: positions of each query's k highest scores, (n, min(k, c)) ascending, -1 where fewer are.

    `scores`, `mask`: (n, c). Among equal scores the lower positions win, which no order of `topk` promises.
    """
    n, c = scores.shape
    k = min(k, c)
    scores = scores.masked_fill(~mask, _NONE)
    bar = scores.topk(k, dim=1, sorted=False).values.amin(1, keepdim=True)
    above, at_bar = (scores > bar) & mask, (scores == bar) & mask
    wanted = k - above.sum(1, keepdim=True)
    chosen = above | (at_bar & (at_bar.cumsum(1) <= wanted))
    # Each chosen position goes to where its number among the chosen says, all others to one more place that is cut off.
    place = (chosen.cumsum(1) - 1).masked_fill(~chosen, k)
    positions = torch.arange(c, device=scores.device).expand(n, c)
    return torch.full((n, k + 1), -1, device=scores.device).scatter(1, place, positions)[:, :k]


def with_neighbours(similarities: Tensor, codes: Tensor, mask: Tensor, zoom: int, kappa: float) -> Tensor:
    """The cosines mixed with their neighbours' mean as kappa says, (n, c) float32; `codes`: (n, c) int64.

    Codes ascend where `mask` says that they are there. As `surroundings.neighbours_mean` has it, in the same order of
    additions.
    """
    here = codes.masked_fill(~mask, -1).cummax(1).values  # ascending; a gap repeats the code before it
    c = codes.shape[1]
    total = torch.zeros((len(codes), c + 1), device=codes.device)
    count = torch.zeros_like(total)
    for wanted, there in _directions(here, zoom):
        at = torch.searchsorted(here, wanted).clamp_(max=c - 1)
        found = (here.gather(1, at) == wanted) & mask & there
        other = at.masked_fill(~found, c)
        total[:, :c] += similarities.gather(1, at).masked_fill(~found, 0.0)
        total = total.scatter_add(1, other, similarities.masked_fill(~found, 0.0))
        count[:, :c] += found
        count = count.scatter_add(1, other, found.float())
    around = torch.where(count[:, :c] > 0, total[:, :c] / count[:, :c].clamp(min=1), similarities)
    return similarities + kappa * (around - similarities)


def _directions(codes: Tensor, zoom: int) -> list[tuple[Tensor, Tensor]]:
    """Codes to the east, south, south-east and north-east, and where there are such; each pair counts both ways.

    Columns wrap at the date line, rows end at the poles: `surroundings._over_neighbours` has the arithmetic.
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
