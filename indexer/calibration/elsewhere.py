"""Fitting "elsewhere": telling pictures that have an answer from pictures that have none.

Logistic regression over features of the descent. Pictures of no place have no answer; a picture of a real place in
another rendition has none where the index answers it more than WRONG_KM off. Kinds of pictures (families) weigh alike,
however many pictures each has, and the two sides are weighted to the share of pictures without an answer that is
expected in use.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.calibration.cases import descents
from indexer.calibration.likelihood import minimise
from indexer.evaluation.figures import WRONG_KM
from indexer.photos.embed import KnownPictures
from retrieval.index.calibration import Calibration, ElsewhereNumbers, Feature
from retrieval.index.reader import TileIndex
from retrieval.search.answer_point import places
from retrieval.search.beam import Descent, features_of
from retrieval.search.elsewhere import CLIP
from retrieval.search.elsewhere import names as feature_names
from retrieval.search.points import Support
from retrieval.sphere import distances_km, unit_vectors_of_sines

EXPECTED_SHARE = 0.1
"""Of pictures without an answer among those that a service is sent, where nobody says otherwise."""
_RIDGE = 1e-3


@dataclass(frozen=True)
class Strangers:
    """Pictures of kinds that the index was not made for; places are nan for pictures of no place."""

    pictures: KnownPictures
    families: NDArray[np.str_]


@dataclass(frozen=True)
class _Looks:
    """Features, (n, f) with nan where a descent lacks one, and km between answer and truth, (n,), nan: no place."""

    features: NDArray[np.float64]
    km: NDArray[np.float64]


def with_elsewhere(
    index: TileIndex, pictures: KnownPictures, strangers: Strangers, calibration: Calibration, k: int, share: float
) -> Calibration:
    """Fit the model of elsewhere. `pictures` are answerable all; `share` of strangers is expected in use."""
    plain = replace(calibration, elsewhere=None)
    # A prior that no zoom hears says nothing of this either.
    names = feature_names(index.zooms, prior=any(n.lam > 0 for n in calibration.zooms.values()))
    known = _look(index, pictures, plain, k, names)
    strange = _look(index, strangers.pictures, plain, k, names)
    unanswered = ~(strange.km <= WRONG_KM)
    if not unanswered.any():
        return plain
    weights = np.concatenate(
        [np.full(len(pictures), (1 - share) / max(1, len(pictures))), _family_weights(strangers, unanswered, share)]
    )
    features = np.concatenate([known.features, strange.features])
    nowhere = np.concatenate([np.zeros(len(pictures), dtype=bool), unanswered])
    return replace(calibration, elsewhere=_logistic(names, features, nowhere, weights))


def _look(index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int, names: Sequence[str]) -> _Looks:
    truths = unit_vectors_of_sines(pictures.lng, np.sin(np.radians(pictures.lat)))
    features, km = np.full((len(pictures), len(names)), np.nan), np.full(len(pictures), np.nan)
    for i, descent in enumerate(descents(index, pictures, calibration, k)):
        found = features_of(descent.steps)
        features[i] = [found.get(name, np.nan) for name in names]
        if np.isfinite(truths[i]).all():
            km[i] = _error_km(descent, truths[i])
    return _Looks(features, km)


def _error_km(descent: Descent, truth: NDArray[np.float64]) -> float:
    place = next(places(descent, Support.of(descent, None), None))
    return float(distances_km(place.vector, truth[None])[0])


def _family_weights(strangers: Strangers, unanswered: NDArray[np.bool_], share: float) -> NDArray[np.float64]:
    """(n,): families without an answer weigh alike, those of real places together as much as those of none.

    The answerable among them weigh as much as their likes without an answer, together no more than these.
    """
    placed = np.isfinite(strangers.pictures.lng)
    weights = np.zeros(len(unanswered))
    kinds = [kind for kind in (placed, ~placed) if (kind & unanswered).any()]
    for kind in kinds:
        families = [
            f for f in np.unique(strangers.families[kind]) if (kind & unanswered)[strangers.families == f].any()
        ]
        for family in families:
            here = kind & (strangers.families == family)
            bad, good = here & unanswered, here & ~unanswered
            part = share / len(kinds) / len(families)
            weights[bad] = part / bad.sum()
            weights[good] = part / max(bad.sum(), good.sum())
    return weights


def _logistic(
    names: Sequence[str], features: NDArray[np.float64], nowhere: NDArray[np.bool_], weights: NDArray[np.float64]
) -> ElsewhereNumbers:
    there = np.flatnonzero(np.isfinite(features).any(axis=0))  # zooms without vectors have no cosines
    names, features = [names[int(i)] for i in there], features[:, there]
    means, scales = np.nanmean(features, 0), np.maximum(np.nanstd(features, 0), 1e-6)
    z = torch.from_numpy(np.nan_to_num(np.clip((features - means) / scales, -CLIP, CLIP)))
    target, weight = torch.from_numpy(nowhere.astype(np.float64)), torch.from_numpy(weights / weights.sum())
    slope = torch.zeros(len(names), dtype=torch.float64, requires_grad=True)
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def loss() -> Tensor:
        losses = torch.nn.functional.binary_cross_entropy_with_logits(z @ slope + bias, target, reduction="none")
        return (weight * losses).sum() + _RIDGE * (slope**2).sum()

    minimise([slope, bias], [loss], 1)
    fitted = zip(names, means.tolist(), scales.tolist(), slope.tolist(), strict=True)
    return ElsewhereNumbers(float(bias.detach()), {name: Feature(m, s, w) for name, m, s, w in fitted})
