"""Figures for the quality of answers and of their confidences: plain arrays in, plain numbers out."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

WITHIN_KM = (1, 25, 200, 750, 2500)
"""The literature's limits: street, city, region, country, continent."""

_GEOSCORE_KM = 1492.7

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Reliability:
    """How well confidences match the share of right answers."""

    ece: float  # expected calibration error over 15 equal-width bins
    nll: float  # mean negative log-likelihood of right / wrong
    brier: float
    auroc: float  # chance that a right answer has the higher confidence; nan if all are right or all wrong
    accuracy: float
    confidence: float


@dataclass(frozen=True)
class Bins:
    """Confidences in bins of equal width, (bins,) each; an empty bin has a count of 0 and means of 0."""

    count: Floats
    confidence: Floats  # mean
    accuracy: Floats


class RiskCoverage(NamedTuple):
    """Shares of pictures answered, highest score first, and of wrong answers among these, (n,) each, and the area."""

    coverage: Floats
    risk: Floats
    aurc: float


class Interval(NamedTuple):
    """A percentile bootstrap interval."""

    low: float
    high: float


def geoscore(km: Floats) -> Floats:
    """OSV-5M's score of each answer, 5000 exp(-km / 1492.7), (n,) from 0 to 5000."""
    return np.asarray(5000 * np.exp(-km / _GEOSCORE_KM))


def reliability(confidence: Floats, right: Bools, bins: int = 15) -> Reliability:
    """All figures of confidences, (n,) from 0 to 1, and whether each answer was right, (n,)."""
    truth = right.astype(np.float64)
    return Reliability(
        ece=expected_calibration_error(confidence, right, bins),
        nll=float(log_losses(confidence, right).mean()),
        brier=float(((confidence - truth) ** 2).mean()),
        auroc=auroc(confidence, right),
        accuracy=float(truth.mean()),
        confidence=float(confidence.mean()),
    )


def log_losses(confidence: Floats, right: Bools) -> Floats:
    """Negative log-likelihood of right / wrong, (n,); confidences are clipped, so a wrong certainty costs 16."""
    clipped = np.clip(confidence, 1e-7, 1 - 1e-7)
    return np.asarray(-np.where(right, np.log(clipped), np.log1p(-clipped)))


def expected_calibration_error(confidence: Floats, right: Bools, bins: int = 15) -> float:
    """Guo et al. 2017: bins of equal width, |accuracy - mean confidence| weighted by their share."""
    which = bin_of(confidence, bins)
    gap = np.abs(np.bincount(which, right, bins) - np.bincount(which, confidence, bins))
    return float(gap.sum() / len(confidence))


def binned(confidence: Floats, right: Bools, bins: int = 15) -> Bins:
    """The bins of a reliability diagram, from confidences, (n,), and whether each answer was right, (n,)."""
    which = bin_of(confidence, bins)
    count = np.bincount(which, minlength=bins).astype(np.float64)
    per = np.maximum(count, 1)
    return Bins(count, np.bincount(which, confidence, bins) / per, np.bincount(which, right, bins) / per)


def bin_of(confidence: Floats, bins: int) -> NDArray[np.intp]:
    """The bin of each confidence, (n,); bins are of equal width, and 1 falls into the last."""
    return np.clip((confidence * bins).astype(np.intp), 0, bins - 1)


def auroc(score: Floats, positive: Bools) -> float:
    """Area under the ROC curve, computed by ranks with ties counted half; nan unless both kinds occur."""
    n_positive, n = int(positive.sum()), len(positive)
    if n_positive in (0, n):
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * (n - n_positive)))


def risk_coverage(score: Floats, wrong: Bools) -> RiskCoverage:
    """Answer the pictures with the highest scores, (n,), first; equal scores are answered together.

    The area is the mean risk over all coverages (Geifman and El-Yaniv 2017); within a tie the risk grows evenly.
    """
    n = len(score)
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), n - 1)  # the last of each run of equal scores
    answered = np.concatenate([[0], last + 1])
    errors = np.concatenate([[0], np.cumsum(wrong[order])[last]])
    steps = np.arange(1, n + 1)
    risk = np.interp(steps, answered, errors) / steps
    return RiskCoverage(steps / n, np.asarray(risk), float(risk.mean()))


def percentiles(values: Floats, level: float = 0.95) -> Interval:
    """The interval of the middle `level` of bootstrap values, (n,), without nan; nan if nothing is left."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))
