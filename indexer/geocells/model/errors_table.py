"""Errors in kilometres as figures with intervals, and those as a Markdown table. Knows no models."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation.bootstrap import Figure, Resamples, Statistic, difference, mean, median
from indexer.evaluation.figures import plain
from indexer.evaluation.metrics import WITHIN_KM
from indexer.evaluation.tables import figure_text, markdown_table, percent

__all__ = ["ErrorRow", "error_figures", "error_table"]

Floats = NDArray[np.float64]
_LIMITS = tuple(limit for limit in WITHIN_KM if limit >= 25)


@dataclass(frozen=True)
class ErrorRow:
    """A way of answering and how far off it was for each photo, (n,) km, in the same order in every row."""

    name: str
    km: Floats


def error_figures(rows: list[ErrorRow], replicates: int = 1000, seed: int = 0) -> list[dict[str, Figure]]:
    """Mean, median, shares within the usual limits, and the mean less that of the first row, with 95% intervals.

    All rows see the same resamples, so differences are paired.
    """
    return [Resamples(len(row.km), replicates, seed).figures(_statistics(row.km, rows[0].km)) for row in rows]


def error_table(rows: list[ErrorRow], figures: list[dict[str, Figure]]) -> str:
    """One line a row, in Markdown."""
    head = ["", "average km", "median km", *(f"≤ {limit:,} km %" for limit in _LIMITS), "average less first row's"]
    lines = []
    for row, found in zip(rows, figures, strict=True):
        shares = [percent(found[f"within_{limit}_km"]) for limit in _LIMITS]
        less = "" if row is rows[0] else figure_text(found["less_first"], ",.1f")
        lines.append(
            [row.name, figure_text(found["mean_km"], ",.1f"), figure_text(found["median_km"], ",.1f"), *shares, less]
        )
    return markdown_table(head, lines)


def as_json(rows: list[ErrorRow], figures: list[dict[str, Figure]]) -> list[Mapping[str, object]]:
    """The same as plain values."""
    return [{"name": row.name, "n": len(row.km), **plain(found)} for row, found in zip(rows, figures, strict=True)]


def _statistics(km: Floats, first: Floats) -> dict[str, Statistic]:
    shares = {f"within_{limit}_km": mean(km <= limit) for limit in _LIMITS}
    found = {"mean_km": mean(km), "median_km": median(km)} | shares
    return found | {"less_first": difference(mean(km), mean(first))}
