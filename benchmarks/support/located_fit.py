"""Numbers of a calibration's `registration`, fitted on records of `benchmarks.located`.

The acceptance is a logistic on the features of a fit. The trust says how far retrieval is believed where no fit is
accepted. The error quantiles are those of accepted places, in edges of the footprint. The threshold of acceptance is
the least one that keeps the promises below on pictures whose style was left out of the fit.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.support.located_records import Record, accepted_stage, features_of, is_right
from indexer.calibration.likelihood import minimise
from retrieval.index.evidence_numbers import RegistrationNumbers
from retrieval.registration.accept import Acceptance, fit_acceptance

__all__ = ["error_quantiles", "fitted", "fitted_acceptance", "fitted_trust", "numbers_for"]

RIGHT, REMOVED, NOWHERE = 0.985, 0.015, 0.0
"""Of accepted fits at least so many are right; of pictures without their place, and of no place, so many accepted."""
_THRESHOLDS = (0.95, 0.965, 0.98, 0.99, 0.995)
"""Lower ones are not tried: some hundred pictures of no place do not show that fewer than 1 in 1,000 is accepted."""
_QUANTILES = 16
_FIRST_ZOOM_TILES = 124
"""Tiles of the built-in Earth's first zoom, over which mass that is not trusted is spread."""
_PENALTY, _RIDGE = 1.0, 1e-3


def fitted(records: Sequence[Record]) -> dict[str, Any]:
    """The `registration` object of a calibration, from all records."""
    acceptance = fitted_acceptance(records)
    errors = error_quantiles(records, lambda _: acceptance)
    numbers = {"acceptance": acceptance.to_json(), "trust": fitted_trust(records, lambda _: acceptance)}
    return numbers | ({"error_quantiles": errors} if errors else {})


def numbers_for(records: Sequence[Record]) -> Callable[[str], RegistrationNumbers]:
    """For each style, the numbers that are fitted on the records of all other styles."""

    @lru_cache(maxsize=64)
    def of(style: str) -> RegistrationNumbers:
        return RegistrationNumbers.from_json(fitted([record for record in records if record["style"] != style]))

    return of


def fitted_acceptance(records: Sequence[Record]) -> Acceptance:
    """Coefficients from the fits of all stages, and the least threshold that keeps the promises."""
    styles = {record["style"] for record in records}
    without = {style: _coefficients(record for record in records if record["style"] != style) for style in styles}
    beliefs = [_beliefs(record, without[record["style"]]) for record in records]
    threshold = next((t for t in _THRESHOLDS if _keeps_promises(records, beliefs, t)), _THRESHOLDS[-1])
    return Acceptance(**_coefficients(records).to_json() | {"threshold": threshold})


def fitted_trust(records: Sequence[Record], acceptance: Callable[[str], Acceptance]) -> dict[str, float]:
    """Weights of the trust: those that make retrieval's confidences likeliest where nothing is accepted."""
    left = [record for record in records if accepted_stage(record, acceptance(record["style"])) is None]
    rows = torch.tensor(np.stack([_trust_row(record) for record in left]))
    weights = torch.zeros(rows.shape[1], dtype=torch.float64, requires_grad=True)
    levels = [[record["retrieval"]["levels"].get(zoom, [0.0, False]) for record in left] for zoom in ("4", "6", "8")]
    said = torch.tensor([[confidence for confidence, _ in level] for level in levels], dtype=torch.float64)
    right = torch.tensor([[float(is_true) for _, is_true in level] for level in levels], dtype=torch.float64)
    spread = torch.tensor([(1 - record["retrieval"]["elsewhere"]) / _FIRST_ZOOM_TILES for record in left])
    spread = torch.stack([spread, torch.zeros_like(spread), torch.zeros_like(spread)]).double()

    def loss() -> Tensor:
        trust = torch.sigmoid(rows @ weights)
        p = torch.clamp(trust * said + (1 - trust) * spread, 1e-6, 1 - 1e-6)
        return torch.nn.functional.binary_cross_entropy(p, right, reduction="sum") + _RIDGE * len(left) * (
            weights[1:].square().sum()
        )

    minimise([weights], [loss], len(left))
    names = ("intercept", "score", "margin", "energy", "confidence", "elsewhere")
    return dict(zip(names, (float(weight) for weight in weights.detach()), strict=True))


def error_quantiles(records: Sequence[Record], acceptance: Callable[[str], Acceptance]) -> list[float]:
    """The middle quantiles of the errors of accepted places that are right, in edges of the fitted footprint."""
    errors = []
    for record in records:
        stage = accepted_stage(record, acceptance(record["style"]))
        if stage is not None and is_right(record, stage["fit"]["km"]):
            errors.append(stage["fit"]["km"] / stage["fit"]["edge_km"])
    if not errors:
        return []
    return [float(v) for v in np.quantile(errors, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)]


def _coefficients(records: Iterable[Record]) -> Acceptance:
    fits = [(record, stage["fit"]) for record in records for stage in record["stages"] if stage["fit"] is not None]
    right = np.array([is_right(record, fit["km"]) for record, fit in fits])
    return fit_acceptance([features_of(fit) for _, fit in fits], right, _PENALTY)


def _beliefs(record: Record, acceptance: Acceptance) -> list[float]:
    """The probability of each stage's fit; 0 where there is none."""
    fits = [stage["fit"] for stage in record["stages"]]
    return [0.0 if fit is None else acceptance.probability(features_of(fit)) for fit in fits]


def _keeps_promises(records: Sequence[Record], beliefs: Sequence[Sequence[float]], threshold: float) -> bool:
    taken: dict[str, list[bool]] = {"removed": [], "nowhere": []}
    right = []
    for record, chances in zip(records, beliefs, strict=True):
        stage = next((i for i, chance in enumerate(chances) if chance >= threshold), None)
        if record["set"] in taken:
            taken[record["set"]].append(stage is not None)
        elif stage is not None:
            right.append(is_right(record, record["stages"][stage]["fit"]["km"]))
    shares = [float(np.mean(values)) if values else 0.0 for values in taken.values()]
    return bool(right and np.mean(right) >= RIGHT and shares[0] <= REMOVED and shares[1] <= NOWHERE)


def _trust_row(record: Record) -> np.ndarray:
    """What the trust looks at, (6,), the first being 1; bounds as in `TrustNumbers.trust`."""
    fit = record["stages"][-1]["fit"] or {"score": 0.0, "margin": 0.0, "energy": 0.0}
    score, margin = np.clip(fit["score"], 0, 1), np.clip(fit["margin"], 0, 0.3)
    retrieval = record["retrieval"]
    first = retrieval["levels"]["4"][0]
    return np.array([1.0, score, margin, np.clip(fit["energy"], 0, 3), first, retrieval["elsewhere"]])
