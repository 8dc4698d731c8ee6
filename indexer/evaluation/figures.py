"""Outcomes to figures: what the tables' columns are, each with its bootstrap interval.

Knows nothing of files, indexes or how figures are shown.
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
from indexer.evaluation.metrics import WITHIN_KM, Floats, geoscore, log_losses
from indexer.evaluation.outcomes import Outcomes, ZoomOutcomes
from retrieval.search.query import Scoring

Figures = Mapping[str, Figure]


@dataclass(frozen=True)
class Row:
    """One row of the tables: an index searched in one way, or a prior that answers alone.

    `k` is None for the exhaustive search and for a prior alone.
    """

    index: str
    k: int | None
    scoring: Scoring
    outcomes: Outcomes
    peak_mb: float
    prior: str | None = None
    alone: bool = False

    @property
    def name(self) -> str:
        """Without the index."""
        return row_name(self.k, self.scoring, self.prior, self.alone)

    @property
    def exhaustive(self) -> bool:
        """Whether nothing was pruned."""
        return self.k is None and not self.alone


def row_name(k: int | None, scoring: Scoring, prior: str | None, alone: bool) -> str:
    """Of a row, without its index; see `Row`."""
    if alone:
        return f"{prior} alone"
    return f"k={'all' if k is None else k} {scoring}{'' if prior is None else f' + {prior}'}"


@dataclass(frozen=True)
class RowFigures:
    """A row's figures: of its errors, of each zoom, of its circles, and its differences from the first row."""

    errors: Figures
    zooms: Mapping[int, Figures]
    circles: Figures
    differences: Figures  # empty for the first row


def figures_of(row: Row, first: Row | None, resamples: Resamples) -> RowFigures:
    """All figures of a row; `first`: the row over the same pictures that it is held against."""
    asked = {"errors": errors(row.outcomes), "circles": circles(row.outcomes)}
    asked |= {f"zoom {zoom.zoom}": at_zoom(zoom) for zoom in row.outcomes.zooms}
    if first is not None:
        asked["differences"] = _differences(row.outcomes, first.outcomes)
    flat = {f"{group}/{name}": s for group, statistics in asked.items() for name, s in statistics.items()}
    found = resamples.figures(flat)
    nested = {group: {name: found[f"{group}/{name}"] for name in names} for group, names in asked.items()}
    zooms = {zoom.zoom: nested[f"zoom {zoom.zoom}"] for zoom in row.outcomes.zooms}
    return RowFigures(nested["errors"], zooms, nested["circles"], nested.get("differences", {}))


def errors(outcomes: Outcomes) -> dict[str, Statistic]:
    """Shares within the literature's limits, mean and median km, GeoScore."""
    km = outcomes.km
    shares = {f"within_{limit}_km": mean(km <= limit) for limit in WITHIN_KM}
    return shares | {"median_km": median(km), "mean_km": mean(km), "geoscore": mean(geoscore(km))}


def at_zoom(zoom: ZoomOutcomes) -> dict[str, Statistic]:
    """Recall of the search over all pictures; how true the confidences are, over the answers that reach the zoom."""
    reached, right, confidence = zoom.reached, zoom.right, zoom.confidence
    return {
        "recall_at_1": mean(zoom.best),
        "beam_recall": mean(zoom.kept),
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
    """How many truths the circles hold, of the answers that give one, and how many do."""
    found: dict[str, Statistic] = {}
    for promised, radius in (("50", outcomes.radius_50_km), ("90", outcomes.radius_90_km)):
        given = np.isfinite(radius)
        found[f"holds_{promised}"] = mean(np.where(given, outcomes.km <= radius, False), given)
        found[f"given_{promised}"] = mean(given)
    return found


def ranks(found: NDArray[np.int64]) -> dict[str, Statistic]:
    """Where true tiles stand among all tiles of a zoom, (n,) from 0, negative where they have no vector."""
    return {f"recall_at_{top}": mean((found >= 0) & (found < top)) for top in (1, 10, 100)}


def milliseconds(seconds: Floats) -> dict[str, float]:
    """Median and 95th percentile."""
    middle, high = np.quantile(seconds, (0.5, 0.95)) if len(seconds) else (np.nan, np.nan)
    return {"median": 1000 * float(middle), "p95": 1000 * float(high)}


def plain(value: Any) -> Any:
    """Figures, NumPy numbers and mappings as JSON has them: nan becomes null."""
    if isinstance(value, Figure):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(part) for part in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _differences(one: Outcomes, other: Outcomes) -> dict[str, Statistic]:
    """Figures of `one` less those of `other`, on the same resamples of the same pictures."""
    mine, theirs = errors(one), errors(other)
    found = {name: difference(mine[name], theirs[name]) for name in mine}
    there = {zoom.zoom: zoom for zoom in other.zooms}
    for zoom in one.zooms:
        if zoom.zoom in there:
            found[f"recall_at_1_zoom_{zoom.zoom}"] = difference(mean(zoom.best), mean(there[zoom.zoom].best))
    return found
