"""log.csv: a training's figures by step. A resumed run repeats no row.

A row has an epoch, a step of that epoch (from 1), and figures. Epoch 0 is the start, before any step. In an epoch's
last row, the one with validation figures, training figures are means over the epoch. Rows after the last saved state
are dropped on resuming, because their steps are done again, with the same results. There are no times in the log, so
the log of a run that was killed and resumed equals that of a run that was not.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from retrieval.files import write_atomically

__all__ = ["StepNumber", "TrainingLog"]

StepNumber = tuple[int, int]
"""An epoch, and how many of its steps are done."""


@dataclass(frozen=True)
class TrainingLog:
    """One training's rows in the file at `path`. `figures`: the columns after `epoch` and `step`.

    Several trainings may share a file, one after the other. Then `stage` is the name of a first column and this
    training's value in it, such as ("zoom", 8), and `earlier` has the values of the trainings before it.
    Only a process with `writes` changes the file.
    """

    path: Path
    figures: tuple[str, ...]
    stage: tuple[str, int] | None = None
    earlier: tuple[int, ...] = ()
    writes: bool = True

    @property
    def columns(self) -> tuple[str, ...]:
        """The file's columns, in order."""
        return (*([self.stage[0]] if self.stage else []), "epoch", "step", *self.figures)

    def resume(self, reached: StepNumber) -> None:
        """Drop rows after `reached`, those of later stages, and an incomplete last line."""
        if not self.writes:
            return
        rows = [row for row in self.rows() if self._is_current(row, reached)]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, lambda temporary: self._write(temporary, rows))

    def add(self, reached: StepNumber, values: Mapping[str, float]) -> None:
        """Append a row. Columns that `values` lacks stay empty."""
        if not self.writes:
            return
        row: dict[str, object] = dict([self.stage] if self.stage else [])
        row |= {"epoch": reached[0], "step": reached[1]} | {name: f"{value:.6g}" for name, value in values.items()}
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)

    def rows(self) -> list[dict[str, str]]:
        """All complete rows, by column."""
        if not self.path.exists():
            return []
        columns = list(self.columns)
        with self.path.open(encoding="utf-8", newline="") as file:
            return [row for row in csv.DictReader(file) if list(row) == columns and None not in row.values()]

    def _is_current(self, row: Mapping[str, str], reached: StepNumber) -> bool:
        try:
            stage = int(row[self.stage[0]]) if self.stage else None
            step = int(row["epoch"]), int(row["step"])
        except ValueError:
            return False
        if self.stage and stage != self.stage[1]:
            return stage in self.earlier
        return step <= reached

    def _write(self, path: Path, rows: list[dict[str, str]]) -> None:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
