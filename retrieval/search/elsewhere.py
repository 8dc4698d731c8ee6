"""How likely a picture is of none of the covered tiles, from features of its whole descent.

A picture of something else is like no tile much (a low best cosine), like many tiles a little (a high entropy), or
unlike the usual spread of cosines. Which of these count, and how much, is fitted by `tilebeam calibrate`. Pure NumPy.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.index.calibration import ElsewhereNumbers

TOP = 16
CLIP = 5.0
"""Scales beyond which a feature says no more: a picture like nothing that was fitted to gets no absurd odds."""


def names(zooms: Sequence[int], *, prior: bool = False) -> list[str]:
    """All features of descents over these zooms, coarse to fine; `prior`: of descents under a prior."""
    first = [f"{name}_{zooms[0]}" for name in ("mean", "spread")]
    each = ("best", "top", "entropy", "outside") if prior else ("best", "top", "entropy")
    return first + [f"{name}_{zoom}" for zoom in zooms for name in each]


def level_features(
    zoom: int,
    similarities: NDArray[np.float32] | None,
    log_mass: NDArray[np.float64],
    log_prior: NDArray[np.float64] | None = None,
    *,
    first: bool,
) -> dict[str, float]:
    """Features of one level by name: `similarities`, (c,) cosines of its candidates, and their log masses, (c,).

    The best cosine, the mean of the `TOP` best, the entropy in nats of the mass (normalised); of the first level, whose
    candidates are the same at every beam width, also the mean and standard deviation of all cosines. Cosines are None
    where tiles have no vectors. Where there is a prior, `log_prior`, (c,) its log masses: also how much of it no
    candidate has.
    """
    share = np.exp(log_mass - np.maximum.reduce(log_mass))
    share /= np.add.reduce(share)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.add.reduce(np.where(share > 0, share * np.log(share), 0.0))
    found = {f"entropy_{zoom}": float(entropy)}
    if log_prior is not None:
        found[f"outside_{zoom}"] = 1 - float(np.add.reduce(np.exp(log_prior)))
    return found if similarities is None else _of_cosines(zoom, similarities, first) | found


def _of_cosines(zoom: int, similarities: NDArray[np.float32], first: bool) -> dict[str, float]:
    top = similarities if len(similarities) <= TOP else np.partition(similarities, -TOP)[-TOP:]
    found = {f"best_{zoom}": float(np.maximum.reduce(top)), f"top_{zoom}": float(top.mean(dtype=np.float64))}
    if first:
        found[f"mean_{zoom}"] = float(similarities.mean(dtype=np.float64))
        found[f"spread_{zoom}"] = float(similarities.std(dtype=np.float64))
    return found


def probability(numbers: ElsewhereNumbers, features: Mapping[str, float]) -> float:
    """The probability, 0 to 1, that a descent with these features is of a picture of none of the covered tiles."""
    log_odds = numbers.bias
    for name, feature in numbers.features.items():
        if name in features:
            z = (features[name] - feature.mean) / feature.scale
            log_odds += feature.weight * min(CLIP, max(-CLIP, z))
    return 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0
