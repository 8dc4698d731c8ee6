"""Markdown tables, and measured figures as text for their cells. Knows nothing of what the figures mean."""

from collections.abc import Iterable, Sequence

import numpy as np

from indexer.evaluation.bootstrap import Figure

__all__ = ["decimals", "figure_text", "markdown_table", "percent", "rounded"]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of text cells, with one line per row."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def figure_text(figure: Figure, spec: str, *, scale: float = 1.0, unit: str = "") -> str:
    """The value and, where there is one, its interval: `12.3 [11.0, 14.1]`; `-` if the value is nan.

    `spec`: a format specification such as `.1f`, applied to `scale` times each number.
    """
    if np.isnan(figure.value):
        return "-"
    value, low, high = (f"{scale * number:{spec}}{unit}" for number in figure)
    return value if np.isnan(figure.low) else f"{value} [{low}, {high}]"


def percent(figure: Figure, sign: str = "", unit: str = "") -> str:
    """A share as a percentage with one decimal; `sign="+"` always shows the sign."""
    return figure_text(figure, f"{sign}.1f", scale=100, unit=unit)


def decimals(figure: Figure) -> str:
    """A number of about 0 to 1, with three decimals."""
    return figure_text(figure, ".3f")


def rounded(figure: Figure, sign: str = "") -> str:
    """A number of any size: whole from 100 on, with one decimal from 10 on, and else with two."""
    largest = np.nanmax(np.abs([*figure, 0.0]))
    digits = 0 if largest >= 100 or largest == 0 else 1 if largest >= 10 else 2
    return figure_text(figure, f"{sign},.{digits}f")
