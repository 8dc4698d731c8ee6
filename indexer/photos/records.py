"""What a table of photos is to its readers, whatever its format: columns, and rows of text cells. Opens no file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from indexer.errors import PhotoSetError

__all__ = ["MAX_CELL", "MAX_ROWS", "Record", "Table", "too_many_rows"]

MAX_ROWS = 10_000_000
"""Rows of a table; the largest published set has half as many. Each takes about a kilobyte of memory."""
MAX_CELL = 4096
"""Characters of a cell that is used; no path is longer."""


class Record(NamedTuple):
    """A row: its line and its cells, or its fault. The header is line 1; Parquet counts as if it had a header line."""

    line: int
    cells: tuple[str, ...] | None
    fault: str = ""


class Table(Protocol):
    """A table from which a photo set is read."""

    columns: tuple[str, ...]

    def rows(self, wanted: Sequence[int | None]) -> Iterator[Record]:
        """Every row, with the cells of the wanted columns in the order of `wanted`, "" for None.

        Raises PhotoSetError for more than MAX_ROWS.
        """
        ...


def too_many_rows(path: Path, count: int | None = None) -> PhotoSetError:
    """The error for a table of more than MAX_ROWS rows; `count`: how many, where that is known."""
    has = "more" if count is None else f"{count:,}"
    return PhotoSetError(f"{path}: at most {MAX_ROWS:,} rows are read, and it has {has}: give it in parts")
