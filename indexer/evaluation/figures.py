"""Outcomes to figures, each with its bootstrap interval: errors, zooms, circles, ranks, "elsewhere" and abstaining.

This module knows nothing of files, indexes or how figures are shown.

"Elsewhere" is judged by whether it separates pictures that can be answered from those that cannot. All pictures of the
photo set can be answered. Pictures without an answer are those of no place, and those of real places in a foreign
rendition (a drawing, another map style) that are answered wrongly, that is, by more than WRONG_KM. A foreign rendition
that is answered within WRONG_KM does no harm: it is left out of the AUROC, and counts as right in risk-coverage.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation.bootstrap import (
    Figure,
    Resamples,
    Statistic,
    area_under_roc,
    calibration_error,
    difference,
    mean,
    median,
)
from indexer.evaluation.metrics import WITHIN_KM, Bools, Floats, geoscore, log_losses, risk_coverage
from indexer.evaluation.outcomes import Outcomes, ZoomOutcomes
from indexer.evaluation.request import EvaluatedScoring

Figures = Mapping[str, Figure]

WRONG_KM = 750.0
"""An answer that is farther off than this (the literature's "country") is wrong."""
COVERAGES = (0.5, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Row:
    """One row of the tables: an index searched in one way, or a prior that answers without any search.

    `k` is None for the exhaustive search and for a prior alone.
    """

    index: str
    k: int | None
    scoring: EvaluatedScoring
    outcomes: Outcomes
    peak_mb: float
    prior: str | None = None
    alone: bool = False

    @property
    def name(self) -> str:
        """The way of answering, without the index."""
        return row_name(self.k, self.scoring, self.prior, self.alone)

    @property
    def exhaustive(self) -> bool:
        """Whether nothing was pruned."""
        return self.k is None and not self.alone


def row_name(k: int | None, scoring: EvaluatedScoring, prior: str | None, alone: bool) -> str:
    """The name of a way of answering; for the arguments see `Row`."""
    if alone:
        return f"{prior} alone"
    return f"k={'all' if k is None else k} {scoring}{'' if prior is None else f' + {prior}'}"


@dataclass(frozen=True)
class RowFigures:
    """A row's figures: errors, zooms, circles, and the differences from the first row (empty for that row)."""

    errors: Figures
    zooms: Mapping[int, Figures]
    circles: Figures
    differences: Figures


def figures_of(row: Row, first: Row | None, resamples: Resamples) -> RowFigures:
    """All figures of a row. `first`: the row over the same pictures that it is compared with; None for that row."""
    groups = {"errors": errors(row.outcomes), "circles": circles(row.outcomes)}
    groups |= {f"zoom {zoom.zoom}": at_zoom(zoom) for zoom in row.outcomes.zooms}
    if first is not None:
        groups["differences"] = _differences(row.outcomes, first.outcomes)
    flat = {f"{group}/{name}": s for group, statistics in groups.items() for name, s in statistics.items()}
    figures = resamples.figures(flat)
    nested = {group: {name: figures[f"{group}/{name}"] for name in names} for group, names in groups.items()}
    zooms = {zoom.zoom: nested[f"zoom {zoom.zoom}"] for zoom in row.outcomes.zooms}
    return RowFigures(nested["errors"], zooms, nested["circles"], nested.get("differences", {}))


def errors(outcomes: Outcomes) -> dict[str, Statistic]:
    """Shares within the literature's limits, median and mean km, GeoScore."""
    km = outcomes.km
    shares = {f"within_{limit}_km": mean(km <= limit) for limit in WITHIN_KM}
    return shares | {"median_km": median(km), "mean_km": mean(km), "geoscore": mean(geoscore(km))}


def at_zoom(zoom: ZoomOutcomes) -> dict[str, Statistic]:
    """Recall of the search over all pictures; quality of the confidences over the answers that reach the zoom."""
    reached, right, confidence = zoom.reached, zoom.right, zoom.confidence
    return {
        "recall_at_1": mean(zoom.best),
        "beam_recall": mean(zoom.in_beam),
        "right": mean(right),
        "reached": mean(reached),
        "covered": mean(zoom.covered),
        "confidence": mean(confidence, reached),
        "ece": calibration_error(confidence, right, reached),
        "brier": mean((confidence - right) ** 2, reached),
        "nll": mean(log_losses(confidence, right), reached),
        "auroc": area_under_roc(confidence, right, reached),
    }


def circles(outcomes: Outcomes) -> dict[str, Statistic]:
    """The share of circles that hold the true place, among the answers that give one, and the share that do."""
    statistics: dict[str, Statistic] = {}
    for share, radius in (("50", outcomes.radius_50_km), ("90", outcomes.radius_90_km)):
        has_circle = np.isfinite(radius)
        statistics[f"holds_{share}"] = mean(np.where(has_circle, outcomes.km <= radius, False), has_circle)
        statistics[f"given_{share}"] = mean(has_circle)
    return statistics


def rank_statistics(ranks: NDArray[np.int64]) -> dict[str, Statistic]:
    """Recall at 1, 10 and 100 from the true tiles' ranks, (n,) from 0; a negative rank has no vector and counts."""
    return {f"recall_at_{top}": mean((ranks >= 0) & (ranks < top)) for top in (1, 10, 100)}


def milliseconds(seconds: Floats) -> dict[str, float]:
    """Median and 95th percentile of (n,) seconds, in milliseconds; nan for n = 0."""
    middle, high = np.quantile(seconds, (0.5, 0.95)) if len(seconds) else (np.nan, np.nan)
    return {"median": 1000 * float(middle), "p95": 1000 * float(high)}


@dataclass(frozen=True)
class Risk:
    """What abstaining buys: the share of wrong answers when only the surest are given, and the area under it."""

    score: Floats  # (n,) the pictures with the highest score are answered first
    wrong: Bools  # (n,)
    at: Mapping[float, float]  # coverage, the share of pictures answered, to the share of wrong answers among them
    aurc: float


@dataclass(frozen=True)
class Family:
    """Pictures of one kind that is not the photo set's: counts, and how well scores separate them from the photos."""

    pictures: int
    placed: int  # of a real place
    not_answerable: int
    elsewhere: Figure  # AUROC of Answer.elsewhere, higher for pictures without an answer
    doubt: Figure  # AUROC of `doubt`
    mean_elsewhere: float


@dataclass(frozen=True)
class Answerable:
    """Families by name, their groups (no place; foreign, answered wrongly; all, if both occur), and the risk of all."""

    families: Mapping[str, Family]
    groups: Mapping[str, Family]
    risk: Risk


def doubt(outcomes: Outcomes) -> Floats:
    """The score to abstain by, (n,): 1 - (1 - elsewhere) * confidence of the first zoom's tile; 0 is certainty."""
    return np.asarray(1 - (1 - outcomes.elsewhere) * outcomes.zooms[0].confidence)


def wrong(outcomes: Outcomes) -> Bools:
    """Which answers are more than WRONG_KM off, or of pictures of no place, (n,)."""
    return ~(outcomes.km <= WRONG_KM)


def answerable(inside: Outcomes, outside: Outcomes, families: NDArray[np.str_], resamples: Resamples) -> Answerable:
    """Compare the photo set's outcomes with those of pictures without an answer. `families`: (m,) the kind of each."""
    placed = np.isfinite(outside.km)
    names = sorted(set(families.tolist()))
    by_name = {name: _family(inside, outside, families == name, resamples) for name in names}
    groups = {"all": np.ones(len(outside), dtype=bool), "no place": ~placed, "foreign, answered wrongly": placed}
    if placed.all() or not placed.any():
        del groups["all"]  # it would repeat the only other group
    by_group = {name: _family(inside, outside, among, resamples) for name, among in groups.items() if among.any()}
    return Answerable(by_name, by_group, risk_of(inside, outside))


def risk_of(inside: Outcomes, outside: Outcomes | None = None) -> Risk:
    """The risk of the photo set's answers, or of those and the answers to pictures without an answer together."""
    sets = [inside] if outside is None else [inside, outside]
    score = np.concatenate([1 - doubt(outcomes) for outcomes in sets])
    mistakes = np.concatenate([wrong(outcomes) for outcomes in sets])
    curve = risk_coverage(score, mistakes)
    at = {share: float(np.interp(share, curve.coverage, curve.risk)) for share in COVERAGES}
    return Risk(score, mistakes, at, curve.aurc)


def plain(value: Any) -> Any:
    """Figures, NumPy numbers and mappings as JSON values; nan becomes null."""
    if isinstance(value, Figure):
        return {name: plain(number) for name, number in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _differences(outcomes: Outcomes, first: Outcomes) -> dict[str, Statistic]:
    """Figures of `outcomes` less those of `first`, on the same resamples of the same pictures."""
    own, others = errors(outcomes), errors(first)
    statistics = {name: difference(own[name], others[name]) for name in own}
    first_zooms = {zoom.zoom: zoom for zoom in first.zooms}
    for zoom in outcomes.zooms:
        if zoom.zoom in first_zooms:
            gain = difference(mean(zoom.best), mean(first_zooms[zoom.zoom].best))
            statistics[f"recall_at_1_zoom_{zoom.zoom}"] = gain
    return statistics


def _family(inside: Outcomes, outside: Outcomes, among: Bools, resamples: Resamples) -> Family:
    counted = among & wrong(outside)
    kinds = np.concatenate([np.zeros(len(inside), dtype=bool), np.ones(int(counted.sum()), dtype=bool)])
    scores = {
        "elsewhere": np.concatenate([inside.elsewhere, outside.elsewhere[counted]]),
        "doubt": np.concatenate([doubt(inside), doubt(outside)[counted]]),
    }
    statistics: dict[str, Statistic] = {name: area_under_roc(score, kinds) for name, score in scores.items()}
    figures = Resamples(len(kinds), resamples.replicates, resamples.seed).figures(statistics)
    return Family(
        pictures=int(among.sum()),
        placed=int((among & np.isfinite(outside.km)).sum()),
        not_answerable=int(counted.sum()),
        elsewhere=figures["elsewhere"],
        doubt=figures["doubt"],
        mean_elsewhere=float(outside.elsewhere[among].mean()),
    )
