"""The mathematics of the beam's posterior (design section 5), in logs, pure NumPy.

It knows masses, similarities and who is whose child, as arrays; nothing of tiles, zooms or FAISS.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.retrieval.calibration import ZoomNumbers

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
) -> Shares:
    """Divide the mass of the kept tiles with children among their children and "elsewhere".

    `log_mass`: (m,) of the kept tiles that have children, and no others; `slots`: (c,) whose child each candidate is;
    `similarities`: (c,) cosines, c at least 1; `prior_gain`: (c,) log prior(c) - log prior(p), where there is a prior.

    w(c) = gamma log(P(p) / M) + s(c) / tau + lambda gain(c);  P(c) = M exp w(c) / (exp b + sum exp w).
    """
    total = log_sum_exp(log_mass)
    weights = np.divide(similarities, numbers.tau, dtype=np.float64)
    if len(log_mass) > 1:
        weights += (numbers.gamma * (log_mass - total))[slots]
    if prior_gain is not None and numbers.lam:
        weights += numbers.lam * prior_gain
    norm = log_sum_exp(weights)
    if numbers.b is None:
        weights += total - norm
        return Shares(weights, 0.0)
    norm = float(np.logaddexp(norm, numbers.b))
    weights += total - norm
    return Shares(weights, math.exp(total + numbers.b - norm))


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
