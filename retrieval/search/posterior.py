"""How one level divides the mass of the beam above among its candidates; log masses, pure NumPy.

See "The posterior" and "Nested logit" in docs/method.md; the symbols are in its glossary. This module knows arrays of
masses, similarities and parents, and nothing of tiles, zooms or FAISS.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.calibration import ZoomNumbers

Floats = NDArray[np.float64]


class Shares(NamedTuple):
    """How a level divides the mass of the beam above it."""

    log_mass: Floats  # (c,), of each candidate
    elsewhere: float  # mass of "none of these candidates"


def share(
    log_mass: Floats,
    slots: NDArray[np.intp],
    similarities: NDArray[np.float32],
    numbers: ZoomNumbers,
    prior_gain: Floats | None = None,
    outside: float = 0.0,
) -> Shares:
    """Divide the mass of m parents among their c candidates, c at least 1.

    `log_mass`: (m,), of the parents that have candidates; `slots`: (c,), each candidate's parent, ascending;
    `similarities`: (c,) cosines. With a prior, `prior_gain`: (c,) log prior(c) - log prior(p), finite, and `outside`:
    log of the share of the parents' prior mass that no candidate has, -inf for none.

    w(c) = gamma log(P(p) / M) + s(c) / tau + lambda gain(c) + (rho - 1) I(p);  P(c) = M exp w(c) / (exp b + sum exp w),
    where M is the parents' total mass, and b stands for b + lambda outside if there is a prior.

    I(p) is the log-sum of exp(s(c) / tau + lambda gain(c)) over the candidates of p. rho is the dissimilarity parameter
    of a nested logit (McFadden 1978); with rho = 1 this is a softmax over all candidates.
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
    log_none = numbers.b + numbers.lam * outside if numbers.lam else numbers.b
    norm = float(np.logaddexp(norm, log_none))
    weights += total - norm
    return Shares(weights, math.exp(total + log_none - norm))


def _inclusive(weights: Floats, slots: NDArray[np.intp]) -> Floats:
    """Log-sum of exp weights, (c,), over each parent's candidates: (m,). Each slot from 0 to m - 1 occurs."""
    starts = np.searchsorted(slots, np.arange(slots[-1] + 1))
    top = np.maximum.reduceat(weights, starts)
    return np.asarray(top + np.log(np.add.reduceat(np.exp(weights - top[slots]), starts)))


def log_sum_exp(values: Floats) -> float:
    """log(sum(exp(values))) of a non-empty (n,) array, without overflow."""
    top = float(np.maximum.reduce(values))
    return top + math.log(float(np.add.reduce(np.exp(values - top))))


def best(scores: NDArray[np.floating[Any]], k: int) -> NDArray[np.intp]:
    """Positions of the k highest scores, ascending; of equal scores the lower positions win."""
    n = len(scores)
    if n <= k:
        return np.arange(n)
    ordered = scores.copy()
    ordered.partition(n - k)
    threshold = ordered[n - k]
    chosen: NDArray[np.intp] = (scores >= threshold).nonzero()[0]
    if len(chosen) == k:
        return chosen
    equal = np.flatnonzero(scores[chosen] == threshold)
    return np.delete(chosen, equal[k - len(chosen) :])
