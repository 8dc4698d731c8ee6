"""Whether a fit is right: a logistic on what is known of it, and the fit of its coefficients.

Coefficients are fitted on pictures in styles that the reference lacks, some with their true place removed from the
search, and must be reported on others. Knows no pixels.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["BUILT_IN", "Acceptance", "Features", "fit_acceptance"]

Floats = NDArray[np.float64]

LEAST_MARGIN = 0.03
"""Right fits have more. With less, a logistic would take a high score for proof, which false places reach too."""


@dataclass(frozen=True)
class Features:
    """What acceptance looks at.

    `score`: the best fit's, -1 to 1. `margin`: its lead over the best fit at another place. `energy`: the mean squared
    length of the picture's field. `log_confidence`: the retrieval's confidence of the place, natural logarithm; 0 where
    there is none. `log_jobs`: natural logarithm of how many cells were searched, each counted once for each turn; the
    lead of the best of few places says less than that of the best of many. `residual`: how far parts of the picture
    still lie off the fit, as a share of the footprint's edge; a false fit holds only in places. `log_edge`: natural
    logarithm of the edge in km. `tilted`: 1 if the fit has tilt, whose freedom raises false scores, else 0.
    """

    score: float
    margin: float
    energy: float
    log_confidence: float = 0.0
    log_jobs: float = 0.0
    residual: float = 0.0
    log_edge: float = 6.2
    tilted: float = 0.0

    def row(self) -> Floats:
        """The terms of the logistic, (11,), the first being 1."""
        # Beyond these bounds a feature says no more, and must not outweigh the others.
        score, margin = np.clip(self.score, 0.0, 0.8), np.clip(self.margin, 0.0, 0.3)
        energy, log_energy = np.clip(self.energy, 0.0, 3.0), np.log(np.clip(self.energy, 0.05, 3.0))
        belief, jobs = np.clip(self.log_confidence, -12.0, 0.0), np.clip(self.log_jobs, 0.0, 14.0)
        residual, edge = np.clip(self.residual, 0.0, 0.12), np.clip(self.log_edge, 4.6, 8.1)
        return np.array(
            [1.0, score, margin, np.sqrt(margin), energy, log_energy, belief, jobs, residual, edge, self.tilted]
        )


@dataclass(frozen=True)
class Acceptance:
    """The coefficients, and the probability from which a fit counts as accepted."""

    intercept: float = 2.714
    score: float = 5.194
    margin: float = 9.057
    root_margin: float = 7.999
    energy: float = -3.766
    log_energy: float = 4.155
    log_confidence: float = 0.218
    log_jobs: float = -0.666
    residual: float = -55.577
    log_edge: float = 1.12
    tilted: float = -1.113
    threshold: float = 0.95

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Acceptance":
        """From a JSON object with a number for each field. Raises ValueError for another set of names."""
        names = {f.name for f in fields(cls)}
        if set(values) != names:
            raise ValueError(f"acceptance has the fields {sorted(values)}: give {sorted(names)}")
        return cls(**{name: float(value) for name, value in values.items()})

    def to_json(self) -> dict[str, float]:
        """A JSON object that `from_json` reads."""
        return {f.name: float(getattr(self, f.name)) for f in fields(self)}

    def probability(self, features: Features) -> float:
        """The probability that the fit is at the right place; at most a half without a lead over another place."""
        logit = float(self._coefficients() @ features.row())
        return float(1 / (1 + np.exp(-np.clip(logit, -40, 40 if features.margin >= LEAST_MARGIN else 0))))

    def _coefficients(self) -> Floats:
        values = [getattr(self, field.name) for field in fields(self)]
        return np.array(values[:-1])  # the threshold is none


BUILT_IN = Acceptance()
"""The built-in calibration's numbers, rounded: fitted on products and renditions of the Earth, each left out of the
reference. docs/registration.md has the command.
"""


def fit_acceptance(
    features: list[Features], right: NDArray[np.bool_], penalty: float = 0.3, threshold: float = 0.95
) -> Acceptance:
    """The coefficients of the highest likelihood, by Newton's method with an L2 penalty on all but the intercept.

    The penalty counts in units of each term's standard deviation. Raises ValueError without right or wrong examples.
    """
    if not 0 < int(right.sum()) < len(right):
        raise ValueError(f"{int(right.sum())} of {len(right)} examples are right: give some of each kind")
    rows = np.stack([f.row() for f in features])
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    mean[0], spread[0] = 0.0, 1.0
    spread[spread < 1e-9] = 1.0
    scaled, target = (rows - mean) / spread, right.astype(np.float64)
    ridge = np.diag([1e-6] + [penalty] * (rows.shape[1] - 1))
    w = np.zeros(rows.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(scaled @ w, -40, 40)))
        gradient = scaled.T @ (p - target) + ridge @ w
        hessian = (scaled * (p * (1 - p) + 1e-9)[:, None]).T @ scaled + ridge
        step = np.linalg.solve(hessian, gradient)
        w -= step
        if np.abs(step).max() < 1e-8:
            break
    w = w / spread
    w[0] -= float(mean[1:] @ w[1:])
    return Acceptance(*(float(value) for value in [*w, threshold]))
