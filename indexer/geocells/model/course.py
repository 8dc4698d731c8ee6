"""A course of learning that can be killed and resumed: steps, validation each epoch, the best epoch's weights.

Knows a task by the few things that it asks of it; geocell models and the regression baseline are both tasks. Batches
follow from seed and epoch, so weights, AdamW's moments and counts are all the state there is.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.errors import TrainingError
from indexer.geocells.settings import Pace
from indexer.learning.loop import Interrupts
from indexer.learning.state import load_state, optimiser_tensors, restore_optimiser, save_state
from indexer.progress import OnProgress, Progress
from retrieval.files import write_atomically

__all__ = ["LOG_COLUMNS", "Course", "Reached", "Task"]

LOG_COLUMNS = ("epoch", "step", "loss", "cells", "clusters", "contrast", "val_loss", "val_accuracy", "val_mean_km")
Rows = NDArray[np.int64]


class Task(Protocol):
    """What is learnt. `count`: training photos; `optimiser`: over all weights that learn."""

    count: int
    optimiser: torch.optim.Optimizer

    def losses(self, rows: Rows) -> dict[str, Tensor]:
        """Scalars over the training photos at these positions; `loss` is the one to descend."""
        ...

    def validate(self) -> dict[str, float]:
        """Figures of the validation photos; the lower `val_loss`, the better the epoch."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The weights that learn, by name: copies."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put such weights in place."""
        ...


@dataclass
class Reached:
    """`step` steps of `epoch` are done; at an epoch's last it has been validated. -1: nothing has happened yet."""

    epoch: int = -1
    step: int = 0
    best_epoch: int = 0
    done: bool = False
    sums: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)


class Course:
    """One task's way through its epochs, with its state and log in `folder`."""

    def __init__(self, task: Task, pace: Pace, folder: Path, on_progress: OnProgress) -> None:
        self.task, self.pace, self._tell = task, pace, on_progress
        self._state, self._log = folder / "course.state", folder / "log.csv"
        self.steps = max(1, task.count // pace.batch)
        self.reached, self.best = Reached(), dict[str, Tensor]()

    def run(self) -> Reached:
        """To the end, from the state if there is one; the task then has the best epoch's weights.

        KeyboardInterrupt leaves a state of the last whole step. TrainingError where the loss is no number.
        """
        self._resume()
        if self.reached.epoch < 0:
            self.reached.epoch, self.reached.step = 0, self.steps
            self._validated({})
        with Interrupts() as interrupts:
            while not self.reached.done and not (
                self.reached.epoch >= self.pace.epochs and self.reached.step == self.steps
            ):
                self._epoch(interrupts)
        if not self.reached.done:
            self.reached.done = True
            self._save()
        self.task.load(self.best)
        return self.reached

    def _epoch(self, interrupts: Interrupts) -> None:
        reached, size = self.reached, self.pace.batch
        if reached.step == self.steps:
            reached.epoch, reached.step, reached.sums = reached.epoch + 1, 0, {}
        order = np.random.default_rng([self.pace.seed, reached.epoch]).permutation(self.task.count)
        while reached.step < self.steps:
            values = self._step(order[reached.step * size : (reached.step + 1) * size])
            reached.step += 1
            reached.sums = {k: reached.sums.get(k, 0.0) + v for k, v in values.items()}
            if reached.step == self.steps:
                self._validated({k: v / self.steps for k, v in reached.sums.items()})
            else:
                self._note(values)
            done = (reached.epoch - 1) * self.steps + reached.step
            self._tell(Progress("train", "Training", done, self.pace.epochs * self.steps))
            if interrupts.requested:
                self._save()
                raise KeyboardInterrupt

    def _step(self, rows: Rows) -> dict[str, float]:
        losses = self.task.losses(rows)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if not math.isfinite(values["loss"]):
            raise TrainingError(
                f"the loss of epoch {self.reached.epoch}, step {self.reached.step + 1} is {values['loss']}: give "
                "lower rates, and another --out"
            )
        self.task.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(losses["loss"])
        self.task.optimiser.step()
        return values

    def _validated(self, means: Mapping[str, float]) -> None:
        figures = self.task.validate()
        reached = self.reached
        reached.history.append({"epoch": float(reached.epoch), **means, **figures})
        best = min(reached.history, key=lambda row: row["val_loss"])
        reached.best_epoch = int(best["epoch"])
        if best is reached.history[-1]:
            self.best = self.task.tensors()
        self._add({**means, **figures})
        shown = ", ".join(f"{name} {value:.4g}" for name, value in {**means, **figures}.items())
        self._tell(Progress("note", f"epoch {reached.epoch}: {shown}"))
        self._save()

    def _note(self, values: Mapping[str, float]) -> None:
        if self.reached.step % self.pace.log_every == 0:
            self._add(values)
        if self.reached.step % self.pace.save_every == 0:
            self._save()

    def _save(self) -> None:
        tensors = {f"best.{k}": v for k, v in self.best.items()}
        if not self.reached.done:
            tensors |= {f"now.{k}": v for k, v in self.task.tensors().items()}
            tensors |= optimiser_tensors("adamw", self.task.optimiser)
        save_state(self._state, tensors, {"reached": asdict(self.reached)})

    def _resume(self) -> None:
        if self._state.exists():
            tensors, notes = load_state(self._state)
            try:
                self.reached = Reached(**notes["reached"])
                self.best = _part(tensors, "best.")
                if not self.reached.done:
                    self.task.load(_part(tensors, "now."))
                    restore_optimiser("adamw", self.task.optimiser, tensors)
            except (KeyError, TypeError, RuntimeError, ValueError) as exc:
                raise TrainingError(f"{self._state} is the state of something else ({exc}): delete it") from exc
        self._cut_log()

    def _add(self, values: Mapping[str, float]) -> None:
        row = {"epoch": self.reached.epoch, "step": self.reached.step} | {k: f"{v:.6g}" for k, v in values.items()}
        with self._log.open("a", encoding="utf-8", newline="") as stream:
            csv.DictWriter(stream, LOG_COLUMNS, lineterminator="\n").writerow(row)

    def _cut_log(self) -> None:
        """Drop rows after the saved state: their steps are done again, to the same numbers."""
        rows: list[dict[str, str]] = []
        if self._log.exists():
            with self._log.open(encoding="utf-8", newline="") as stream:
                rows = [row for row in csv.DictReader(stream) if self._whole(row)]

        def write(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                writer = csv.DictWriter(stream, LOG_COLUMNS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)

        write_atomically(self._log, write)

    def _whole(self, row: Mapping[str, Any]) -> bool:
        try:
            place = int(row["epoch"]), int(row["step"])
        except (KeyError, TypeError, ValueError):
            return False
        return None not in row.values() and place <= (self.reached.epoch, self.reached.step)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
