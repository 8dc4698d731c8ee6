"""Figures as text, and Markdown tables."""

import numpy as np

from indexer.evaluation.bootstrap import Figure
from indexer.evaluation.tables import figure_text, markdown_table, percent, rounded


def test_rounded_keeps_decimals_of_small_numbers() -> None:
    assert rounded(Figure(1234.5, 1000, 2000)) == "1,234 [1,000, 2,000]"
    assert rounded(Figure(3.14159, 2, 4), "+") == "+3.14 [+2.00, +4.00]"
    assert rounded(Figure(-31.4, np.nan, np.nan), "+") == "-31.4"
    assert rounded(Figure(np.nan, np.nan, np.nan)) == "-"


def test_percent_scales_value_and_interval() -> None:
    assert percent(Figure(0.5, 0.25, 0.75)) == "50.0 [25.0, 75.0]"
    assert percent(Figure(0.5, np.nan, np.nan), unit="%") == "50.0%"
    assert figure_text(Figure(1.5, 1, 2), "+.1f", scale=2) == "+3.0 [+2.0, +4.0]"


def test_markdown_table_has_one_line_per_row() -> None:
    assert markdown_table(["a", "b"], [["1", "2"], ["3", "4"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |"
