"""log.csv: losses as they come, and recall once an epoch. A resumed run leaves no row twice.

A row belongs to a zoom, epoch and step. `loss` is that step's, but in an epoch's last row, the one with a validation
loss, it is the mean over the epoch; epoch 0 is the start, before any step. Rows after the last saved state are dropped
on resuming: the steps they tell of are done again, to the same numbers. No times stand in it, so that a killed and
resumed run's log equals any other's.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

from indexer.training.recall import RECALLS
from retrieval.files import write_atomically

__all__ = ["COLUMNS", "TrainingLog"]

COLUMNS = ("zoom", "epoch", "step", "loss", "val_loss", *(f"recall@{k}" for k in RECALLS), "temperature")
Place = tuple[int, int]
"""Epoch and step, counted from the zoom's first."""


@dataclass(frozen=True)
class TrainingLog:
    """One run's log at `path`; only the first process writes it (`writes`)."""

    path: Path
    writes: bool = True

    def resume(self, zoom: int, reached: Place, order: tuple[int, ...]) -> None:
        """Drop what lies after `reached` of this zoom, and zooms that come after it in `order`, or a cut last line."""
        if not self.writes:
            return
        done = order[: order.index(zoom)]
        kept = [row for row in self.rows() if _before(row, zoom, reached, done)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, lambda temporary: _write(temporary, kept))

    def add(self, zoom: int, place: Place, values: dict[str, float]) -> None:
        """Append a row; columns that `values` lacks stay empty."""
        if not self.writes:
            return
        row = {"zoom": zoom, "epoch": place[0], "step": place[1]} | {k: f"{v:.6g}" for k, v in values.items()}
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, COLUMNS, lineterminator="\n").writerow(row)

    def rows(self) -> list[dict[str, str]]:
        """All whole rows, by column."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            return [row for row in csv.DictReader(file) if list(row) == list(COLUMNS) and None not in row.values()]


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _before(row: dict[str, str], zoom: int, reached: Place, done: tuple[int, ...]) -> bool:
    try:
        z, place = int(row["zoom"]), (int(row["epoch"]), int(row["step"]))
    except ValueError:
        return False
    return z in done or (z == zoom and place <= reached)
