"""The probability of elsewhere (none of the covered tiles), from features of a whole descent; pure NumPy.

A picture that no tile shows has a low best cosine, similar cosines with many tiles (a high entropy), or an unusual
spread of cosines. `tilebeam calibrate` chooses the features and fits their weights. See "Elsewhere" in docs/method.md.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.index.calibration import ElsewhereNumbers

TOP = 16
CLIP = 5.0
"""A standardised feature is clipped to this range, so that a picture unlike all fitted ones gets no extreme odds."""


def names(zooms: Sequence[int], *, prior: bool = False) -> list[str]:
    """The names of all features of descents over these zooms, coarse to fine; `prior`: of descents with a prior."""
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
    """The features of one level, by name.

    `similarities`: (c,) cosines of its candidates, None without vectors; `log_mass`: (c,); `log_prior`: (c,), None
    without a prior. The features are the best cosine, the mean of the `TOP` best, the entropy of the normalised mass in
    nats, and with a prior the share of it outside all candidates. The first level, whose candidates are the same at
    every beam width, adds the mean and standard deviation of all cosines.
    """
    share = np.exp(log_mass - np.maximum.reduce(log_mass))
    share /= np.add.reduce(share)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.add.reduce(np.where(share > 0, share * np.log(share), 0.0))
    features = {f"entropy_{zoom}": float(entropy)}
    if log_prior is not None:
        features[f"outside_{zoom}"] = 1 - float(np.add.reduce(np.exp(log_prior)))
    return features if similarities is None else _cosine_features(zoom, similarities, first) | features


def _cosine_features(zoom: int, similarities: NDArray[np.float32], first: bool) -> dict[str, float]:
    top = similarities if len(similarities) <= TOP else np.partition(similarities, -TOP)[-TOP:]
    features = {f"best_{zoom}": float(np.maximum.reduce(top)), f"top_{zoom}": float(top.mean(dtype=np.float64))}
    if first:
        features[f"mean_{zoom}"] = float(similarities.mean(dtype=np.float64))
        features[f"spread_{zoom}"] = float(similarities.std(dtype=np.float64))
    return features


def probability(numbers: ElsewhereNumbers, features: Mapping[str, float]) -> float:
    """The probability, 0 to 1, that a picture with these features lies in none of the covered tiles."""
    log_odds = numbers.bias
    for name, feature in numbers.features.items():
        if name in features:
            z = (features[name] - feature.mean) / feature.scale
            log_odds += feature.weight * min(CLIP, max(-CLIP, z))
    return 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0
