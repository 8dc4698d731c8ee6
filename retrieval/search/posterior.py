"""The mathematics of the beam's posterior (design section 5), in logs, pure NumPy.

It knows masses, similarities and who is whose child, as arrays; nothing of tiles, zooms or FAISS.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.calibration import ZoomNumbers

Floats = NDArray[np.float64]


class Shares(NamedTuple):
    """How a level divides the mass of the kept tiles above it."""

    log_mass: Floats  # (c,), of each candidate
    elsewhere: float  # mass that went to "none of these"


def share(
    log_mass: Floats,
    slots: NDArray[np.intp],
    similarities: NDArray[np.float32],
    numbers: ZoomNumbers,
    prior_gain: Floats | None = None,
    outside: float = 0.0,
) -> Shares:
    """Divide the mass of the kept tiles with children among their children and "elsewhere".

    `log_mass`: (m,) of the kept tiles that have children, and no others; `slots`: (c,) ascending, whose child each is;
    `similarities`: (c,) cosines, c at least 1. Where there is a prior, `prior_gain`: (c,) log prior(c) - log prior(p),
    finite, and `outside`: log of the share of the parents' prior mass that no candidate has, -inf for none.

    w(c) = gamma log(P(p) / M) + s(c) / tau + lambda gain(c) + (rho - 1) I(p);  P(c) = M exp w(c) / (exp b + sum exp w),
    where b is b + lambda outside.

    I(p) is the log-sum of exp(s(c) / tau + lambda gain(c)) over p's candidates, so that rho is how far they speak for
    their parent against other parents: the nested logit's dissimilarity parameter (McFadden 1978); at 1 it is a plain
    softmax over all candidates.
    """
    total = log_sum_exp(log_mass)
    weights = np.divide(similarities, numbers.tau, dtype=np.float64)
    if prior_gain is not None and numbers.lam:
        weights += numbers.lam * prior_gain
    if len(log_mass) > 1:
        of_parent = numbers.gamma * (log_mass - total)
        if numbers.rho != 1:
            of_parent += (numbers.rho - 1) * _inclusive(weights, slots)
        weights += of_parent[slots]
    norm = log_sum_exp(weights)
    if numbers.b is None:
        weights += total - norm
        return Shares(weights, 0.0)
    nowhere = numbers.b + numbers.lam * outside if numbers.lam else numbers.b
    norm = float(np.logaddexp(norm, nowhere))
    weights += total - norm
    return Shares(weights, math.exp(total + nowhere - norm))


def _inclusive(weights: Floats, slots: NDArray[np.intp]) -> Floats:
    """Log-sum of exp weights, (c,), over each slot's candidates, (m,); slots ascend from 0 and leave none out."""
    starts = np.searchsorted(slots, np.arange(slots[-1] + 1))
    top = np.maximum.reduceat(weights, starts)
    return np.asarray(top + np.log(np.add.reduceat(np.exp(weights - top[slots]), starts)))


def log_sum_exp(values: Floats) -> float:
    """log(sum(exp(values))) of a non-empty (n,) array, whatever its scale."""
    top = float(np.maximum.reduce(values))
    return top + math.log(float(np.add.reduce(np.exp(values - top))))


def best(scores: NDArray[np.floating[Any]], k: int) -> NDArray[np.intp]:
    """Positions of the k highest scores, ascending; among equal scores the lower positions win."""
    n = len(scores)
    if n <= k:
        return np.arange(n)
    ordered = scores.copy()
    ordered.partition(n - k)
    bar = ordered[n - k]
    chosen: NDArray[np.intp] = (scores >= bar).nonzero()[0]
    if len(chosen) == k:
        return chosen
    at_bar = np.flatnonzero(scores[chosen] == bar)
    return np.delete(chosen, at_bar[k - len(chosen) :])
