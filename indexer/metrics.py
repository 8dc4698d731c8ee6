"""Figures that say how good answers and their confidences are. Plain arrays in, plain numbers out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EARTH_RADIUS_KM = 6371.0088

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """How well confidences match how often they are right."""

    ece: float  # expected calibration error over 15 equal-width bins
    nll: float  # mean negative log-likelihood of right / wrong
    brier: float
    auroc: float  # chance that a right answer has the higher confidence; nan if all are right or all wrong
    accuracy: float
    confidence: float


def great_circle_km(lng_a: Floats, lat_a: Floats, lng_b: Floats, lat_b: Floats) -> Floats:
    """Great-circle distance on a sphere of 6371.0088 km by the haversine formula; degrees in, km out, (n,)."""
    a, b = np.radians(lat_a), np.radians(lat_b)
    h = np.sin((b - a) / 2) ** 2 + np.cos(a) * np.cos(b) * np.sin(np.radians(lng_b - lng_a) / 2) ** 2
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0, 1))))


def reliability(confidence: Floats, right: NDArray[np.bool_], bins: int = 15) -> Reliability:
    """Figures for confidences, (n,) from 0 to 1, and whether each was right, (n,)."""
    truth = right.astype(np.float64)
    clipped = np.clip(confidence, 1e-7, 1 - 1e-7)
    nll = -np.where(right, np.log(clipped), np.log1p(-clipped)).mean()
    return Reliability(
        ece=expected_calibration_error(confidence, right, bins),
        nll=float(nll),
        brier=float(((confidence - truth) ** 2).mean()),
        auroc=auroc(confidence, right),
        accuracy=float(truth.mean()),
        confidence=float(confidence.mean()),
    )


def expected_calibration_error(confidence: Floats, right: NDArray[np.bool_], bins: int = 15) -> float:
    """Guo et al. 2017: bins of equal width, |accuracy - mean confidence| weighted by their share."""
    which = np.clip((confidence * bins).astype(int), 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    gap = np.abs(np.bincount(which, right, bins) - np.bincount(which, confidence, bins))
    return float(gap[count > 0].sum() / len(confidence))


def auroc(score: Floats, positive: NDArray[np.bool_]) -> float:
    """Area under the ROC curve by ranks, ties counted half; nan without both kinds."""
    n_positive, n = int(positive.sum()), len(positive)
    if n_positive in (0, n):
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * (n - n_positive)))
