"""Percentile bootstrap over pictures, for many figures at once from one set of resamples.

A resample is an array of counts: how often each picture was drawn. A mean is then a product with the counts, and a
median comes from their running sum. All figures use the same resamples, and so do all rows of a table over the same
pictures, so that differences between rows are paired. Knows nothing of what the figures mean.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation.metrics import Bools, Floats, bin_of, percentiles

_MAX_COUNTS = 1_000_000  # counts in memory at once


class Figure(NamedTuple):
    """A figure with its 95% interval; all nan if there are no values."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Statistic:
    """Maps (b, n) counts of how often each of n pictures was drawn to (b,) values, nan if a resample has none.

    `biased`: resampling raises the value on average, by noise that does not cancel; the interval is shifted back.
    """

    of: Callable[[Floats], Floats]
    biased: bool = False


@dataclass(frozen=True)
class Resamples:
    """`replicates` draws of n pictures with replacement, by `seed`; 0 replicates give intervals of nan."""

    n: int
    replicates: int = 1000
    seed: int = 0

    def figures(self, statistics: Mapping[str, Statistic]) -> dict[str, Figure]:
        """Each statistic of the pictures themselves, with its interval over the resamples."""
        plain = np.ones((1, self.n))
        drawn: dict[str, list[Floats]] = {name: [] for name in statistics}
        for counts in self._counts():
            for name, statistic in statistics.items():
                drawn[name].append(statistic.of(counts))
        return {name: _figure(s, float(s.of(plain)[0]), drawn[name]) for name, s in statistics.items()}

    def _counts(self) -> Iterator[Floats]:
        rng = np.random.default_rng([self.seed, self.n])
        batch = max(1, _MAX_COUNTS // max(self.n, 1))
        for first in range(0, self.replicates, batch):
            b = min(batch, self.replicates - first)
            drawn = rng.integers(0, self.n, (b, self.n)) + np.arange(b)[:, None] * self.n
            yield np.bincount(drawn.ravel(), minlength=b * self.n).reshape(b, self.n).astype(np.float64)


def mean(values: NDArray[np.floating] | Bools, among: Bools | None = None) -> Statistic:
    """The mean of (n,) values, or of those in `among`, (n,) bool."""
    weights = np.ones(len(values)) if among is None else among.astype(np.float64)
    weighted = np.where(weights > 0, values, 0).astype(np.float64)

    def statistic(counts: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray((counts @ weighted) / (counts @ weights))

    return Statistic(statistic)


def median(values: Floats) -> Statistic:
    """The median of (n,) values; for an even number, the mean of the two in the middle."""
    order = np.argsort(values)
    ordered, n = values[order], len(values)
    ranks = ((n + 1) // 2, n // 2 + 1)

    def statistic(counts: Floats) -> Floats:
        reached = np.cumsum(counts[:, order], axis=1)
        low, high = (ordered[(reached < rank).sum(axis=1)] for rank in ranks)
        return np.asarray((low + high) / 2)

    return Statistic(statistic)


def calibration_error(confidence: Floats, right: Bools, among: Bools, bins: int = 15) -> Statistic:
    """Expected calibration error of the answers in `among`, (n,) bool, over bins of equal width."""
    weights = among.astype(np.float64)
    gaps = np.zeros((len(confidence), bins))
    gaps[np.arange(len(confidence)), bin_of(confidence, bins)] = np.where(among, right - confidence, 0.0)

    def statistic(counts: Floats) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray(np.abs(counts @ gaps).sum(axis=1) / (counts @ weights))

    return Statistic(statistic, biased=True)


def area_under_roc(score: Floats, positive: Bools, among: Bools | None = None) -> Statistic:
    """The probability that a positive has a higher score than a negative, ties counted half."""
    chosen = np.flatnonzero(np.ones(len(score), dtype=bool) if among is None else among)
    order = chosen[np.argsort(score[chosen], kind="stable")]
    starts = np.flatnonzero(np.diff(score[order], prepend=np.nan) != 0)
    up = positive[order].astype(np.float64)

    def statistic(counts: Floats) -> Floats:
        if not len(order):
            return np.full(len(counts), np.nan)
        drawn = counts[:, order]
        ups, downs = (np.add.reduceat(drawn * kind, starts, axis=1) for kind in (up, 1 - up))
        below = np.cumsum(downs, axis=1) - downs / 2
        with np.errstate(invalid="ignore"):
            return np.asarray((ups * below).sum(axis=1) / (ups.sum(axis=1) * downs.sum(axis=1)))

    return Statistic(statistic)


def difference(a: Statistic, b: Statistic) -> Statistic:
    """a - b, on the same resamples."""
    return Statistic(lambda counts: np.asarray(a.of(counts) - b.of(counts)))


def _figure(statistic: Statistic, value: float, drawn: list[Floats]) -> Figure:
    values = np.concatenate([*drawn, np.empty(0)])
    if statistic.biased and np.isfinite(values).any():
        values = np.maximum(0.0, values - np.nanmean(values) + value)
    return Figure(value, *percentiles(values))
