"""How likely a picture is of none of the covered tiles, from features of its whole descent.

A picture of something else is like no tile much (a low best cosine), like many tiles a little (a high entropy), or
unlike the usual spread of cosines. Which of these count, and how much, is fitted by `tilebeam calibrate`. Pure NumPy.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from indexer.retrieval.calibration import ElsewhereNumbers

TOP = 16
CLIP = 5.0
"""Scales beyond which a feature says no more: a picture like nothing that was fitted to gets no absurd odds."""


def names(zooms: Sequence[int]) -> list[str]:
    """All features of descents over these zooms, coarse to fine."""
    first = [f"{name}_{zooms[0]}" for name in ("mean", "spread")]
    return first + [f"{name}_{zoom}" for zoom in zooms for name in ("best", "top", "entropy")]


def level_features(
    zoom: int, similarities: NDArray[np.float32], log_mass: NDArray[np.float64], *, first: bool
) -> dict[str, float]:
    """Features of one level by name: `similarities`, (c,) cosines of its candidates, and their log masses, (c,).

    The best cosine, the mean of the `TOP` best, the entropy in nats of the mass (normalised); of the first level, whose
    candidates are the same at every beam width, also the mean and standard deviation of all cosines.
    """
    share = np.exp(log_mass - np.maximum.reduce(log_mass))
    share /= np.add.reduce(share)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.add.reduce(np.where(share > 0, share * np.log(share), 0.0))
    top = similarities if len(similarities) <= TOP else np.partition(similarities, -TOP)[-TOP:]
    found = {
        f"best_{zoom}": float(np.maximum.reduce(top)),
        f"top_{zoom}": float(top.mean(dtype=np.float64)),
        f"entropy_{zoom}": float(entropy),
    }
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
