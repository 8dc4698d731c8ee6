"""Fitting "elsewhere": separating pictures that have an answer from out-of-scope pictures.

A logistic regression over features of the descent (docs/method.md, "Elsewhere"). A picture of no place has no answer. A
picture of a real place in another rendition has none if the index answers it more than WRONG_KM off. Families (kinds of
pictures) have equal weights, whatever their numbers of pictures. The two sides are weighted by the share of
out-of-scope pictures expected in use.
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

_RIDGE = 1e-3


@dataclass(frozen=True)
class OutOfScope:
    """Pictures of kinds that the index was not made for, and their families, (n,). Places are nan for no place."""

    pictures: KnownPictures
    families: NDArray[np.str_]


@dataclass(frozen=True)
class _Observed:
    """Features, (n, f), nan where a descent lacks one; km between answer and truth, (n,), nan without a place."""

    features: NDArray[np.float64]
    km: NDArray[np.float64]


def fit_elsewhere(
    index: TileIndex, pictures: KnownPictures, out_of_scope: OutOfScope, calibration: Calibration, k: int, share: float
) -> Calibration:
    """Add the model of elsewhere. All `pictures` are answerable; `share`: of out-of-scope pictures expected in use.

    The result has no model of elsewhere if the index answers all out-of-scope pictures correctly.
    """
    plain = replace(calibration, elsewhere=None)
    # If the prior has weight 0 at every zoom, leave its features out of this model too.
    names = feature_names(index.zooms, prior=any(n.lam > 0 for n in calibration.zooms.values()))
    known = _observed(index, pictures, plain, k, names)
    unknown = _observed(index, out_of_scope.pictures, plain, k, names)
    unanswered = ~(unknown.km <= WRONG_KM)  # nan counts as unanswered
    if not unanswered.any():
        return plain
    weights = np.concatenate(
        [np.full(len(pictures), (1 - share) / max(1, len(pictures))), _family_weights(out_of_scope, unanswered, share)]
    )
    features = np.concatenate([known.features, unknown.features])
    nowhere = np.concatenate([np.zeros(len(pictures), dtype=bool), unanswered])
    return replace(calibration, elsewhere=_logistic(names, features, nowhere, weights))


def _observed(
    index: TileIndex, pictures: KnownPictures, calibration: Calibration, k: int, names: Sequence[str]
) -> _Observed:
    truths = unit_vectors_of_sines(pictures.lng, np.sin(np.radians(pictures.lat)))
    features, km = np.full((len(pictures), len(names)), np.nan), np.full(len(pictures), np.nan)
    for i, descent in enumerate(descents(index, pictures, calibration, k)):
        by_name = features_of(descent.steps)
        features[i] = [by_name.get(name, np.nan) for name in names]
        if np.isfinite(truths[i]).all():
            km[i] = _error_km(descent, truths[i])
    return _Observed(features, km)


def _error_km(descent: Descent, truth: NDArray[np.float64]) -> float:
    place = next(places(descent, Support.of(descent, None), None))
    return float(distances_km(place.vector, truth[None])[0])


def _family_weights(out_of_scope: OutOfScope, unanswered: NDArray[np.bool_], share: float) -> NDArray[np.float64]:
    """Weights, (n,). The unanswered pictures of all families of one kind (with a place, without) have equal totals.

    Both kinds have the same total. A family's answered pictures have the same weight each as its unanswered ones, and
    no larger total.
    """
    placed, family_of = np.isfinite(out_of_scope.pictures.lng), out_of_scope.families
    weights = np.zeros(len(unanswered))
    kinds = [kind for kind in (placed, ~placed) if (kind & unanswered).any()]
    for kind in kinds:
        families = [f for f in np.unique(family_of[kind]) if (kind & unanswered)[family_of == f].any()]
        for family in families:
            members = kind & (family_of == family)
            bad, good = members & unanswered, members & ~unanswered
            family_share = share / len(kinds) / len(families)
            weights[bad] = family_share / bad.sum()
            weights[good] = family_share / max(bad.sum(), good.sum())
    return weights


def _logistic(
    names: Sequence[str], features: NDArray[np.float64], nowhere: NDArray[np.bool_], weights: NDArray[np.float64]
) -> ElsewhereNumbers:
    """Fit by maximum likelihood with a small ridge; features are standardised and held within CLIP."""
    observed = np.flatnonzero(np.isfinite(features).any(axis=0))  # zooms without vectors have no cosines
    names, features = [names[int(i)] for i in observed], features[:, observed]
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
