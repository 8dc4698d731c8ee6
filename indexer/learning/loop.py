"""The resumable training loop: steps, validation after each epoch, the best epoch's weights, and a state on disk.

The loop knows what is learnt only as a `Task`. A task does one step, validates, and hands out its weights; the loop
does everything else. Use:

    task = MyTask(...)                       # the methods of `Task`
    log = TrainingLog(folder / "log.csv", ("loss", "val_loss"))
    loop = TrainingLoop(task, settings, folder / "my.state", log, on_progress)
    reached = loop.run()                     # resumes from my.state; the task then holds the best epoch's weights

`settings` is anything with `epochs`, `batch`, `save_every` and `log_every` (see `Pace`). The state is saved every
`save_every` steps and at each epoch's end. SIGINT and SIGTERM take effect at the end of a step: the state is saved, and
KeyboardInterrupt is raised. A run that was killed anywhere and then resumed ends with the same weights to the bit,
if a task's step depends on nothing but its state, the epoch and the step.

A training without epochs or validation uses `run_steps` with `Interrupts` (see `indexer.builtin.photo_stage`).
"""

import math
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.errors import TrainingError
from indexer.learning.distributed import Group
from indexer.learning.log import TrainingLog
from indexer.learning.state import load_state, save_state, with_prefix, without_prefix
from indexer.progress import OnProgress, Progress, silent

__all__ = ["Checkpoint", "Interrupts", "Pace", "Reached", "Task", "TrainingLoop", "run_steps"]

Rows = NDArray[np.int64]
Figures = dict[str, float]


class Pace(Protocol):
    """How long a training runs and how often it writes, in steps."""

    @property
    def epochs(self) -> int:
        """Passes over the training examples."""
        ...

    @property
    def batch(self) -> int:
        """Training examples of a step."""
        ...

    @property
    def save_every(self) -> int:
        """Steps between two saved states."""
        ...

    @property
    def log_every(self) -> int:
        """Steps between two rows of the log."""
        ...


class Task(Protocol):
    """What is learnt.

    `title` names it in progress and errors ("Training zoom 8"); `count` is the number of training examples.
    """

    title: str
    count: int

    def order(self, epoch: int) -> Rows:
        """The training examples in an epoch's order, (count,); a step gets the next `batch` of them."""
        ...

    def step(self, rows: Rows) -> Figures:
        """Update the weights once, from these examples; returns figures for the log, `loss` among them."""
        ...

    def validate(self) -> Figures:
        """Figures of the validation examples, `val_loss` among them."""
        ...

    def worth(self, row: Figures) -> tuple[float, ...]:
        """How good an epoch is, from its row of `Reached.history`: greater is better."""
        ...

    def describe(self, row: Figures) -> str:
        """An epoch's row as one line for people."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The weights that learn, by name: copies."""
        ...

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the weights that learn by copies of these."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on: weights and the optimiser's tensors. No name starts with `best.`"""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        ...

    def final_figures(self) -> Figures:
        """Figures of the best weights, for the state file; called once, at the end, with those weights loaded."""
        ...


@dataclass
class Reached:
    """How far a training has come: `step` steps of epoch `epoch` are done. Epoch -1: not started.

    `sums`: the sums of the current epoch's figures over its steps. `history`: a row for each validated epoch, from
    epoch 0, the start: `epoch`, the means of the steps' figures (not for epoch 0), and the validation's figures.
    `best_epoch`: the first epoch of the greatest worth. `final`: what `Task.final_figures` returned.
    """

    epoch: int = -1
    step: int = 0
    best_epoch: int = 0
    done: bool = False
    sums: Figures = field(default_factory=dict)
    history: list[Figures] = field(default_factory=list)
    final: Figures = field(default_factory=dict)

    @property
    def best(self) -> Figures:
        """The best epoch's row."""
        return self.history[self.best_epoch]

    @property
    def stale(self) -> int:
        """The number of epochs since the best one."""
        return len(self.history) - 1 - self.best_epoch


class Checkpoint(NamedTuple):
    """A state file's content: the best epoch's weights, and the task's state (empty once the training is done)."""

    reached: Reached
    best: dict[str, Tensor]
    state: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path) -> "Checkpoint":
        """Read a state file; of one that does not exist, the state before the start."""
        if not path.exists():
            return cls(Reached(), {}, {})
        tensors, notes = load_state(path)
        try:
            reached = Reached(**notes["reached"])
        except (KeyError, TypeError) as exc:
            raise _other_training(path, exc) from exc
        best = without_prefix("best.", tensors)
        return cls(reached, best, {k: v for k, v in tensors.items() if not k.startswith("best.")})

    def write(self, path: Path) -> None:
        """Replace the file."""
        save_state(path, with_prefix("best.", self.best) | self.state, {"reached": asdict(self.reached)})


class Interrupts:
    """While entered, the first SIGINT or SIGTERM only sets `requested`; a second one ends the program as usual."""

    def __init__(self) -> None:
        self.requested = False
        self._handlers: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupts":
        # Python lets only the main thread set signal handlers.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self._restore()

    def _request(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)  # type: ignore[arg-type]


def run_steps(
    numbers: range,
    step: Callable[[int], None],
    save: Callable[[int], None],
    save_every: int,
    interrupts: Interrupts,
    group: Group | None = None,
) -> None:
    """Do steps by number. `save` gets the number of steps done, after every `save_every`-th step and after the last.

    If a signal has come to any process, save at the end of the step and raise KeyboardInterrupt.
    """
    group = group or Group()
    for number in numbers:
        step(number)
        # All processes stop after the same step; else one would wait for another that has ended.
        stopping = bool(group.add(torch.tensor(float(interrupts.requested))))
        if stopping or (number + 1) % save_every == 0 or number + 1 == numbers.stop:
            save(number + 1)
        if stopping:
            raise KeyboardInterrupt


class TrainingLoop:
    """The training of one task, with its state at `path`. See the module's docstring for its use.

    `patience`: epochs without a better one after which the training ends; None: never before `pace.epochs`.
    With several processes every one runs the loop; the first one writes and reports progress.
    """

    def __init__(
        self,
        task: Task,
        pace: Pace,
        path: Path,
        log: TrainingLog,
        on_progress: OnProgress = silent,
        *,
        patience: int | None = None,
        group: Group | None = None,
    ) -> None:
        self.task, self.pace, self.path, self.log = task, pace, path, log
        self.patience, self.group = patience, group or Group()
        self.steps = max(1, task.count // pace.batch)
        self.reached, self.best = Reached(), dict[str, Tensor]()
        self._on_progress = on_progress if self.group.first else silent

    def run(self) -> Reached:
        """Train to the end, or find that it is done; the task then holds the best epoch's weights.

        Raises TrainingError if a loss is not a finite number or the state is of another training, and
        KeyboardInterrupt after a signal, once the state is saved.
        """
        self._resume()
        if self.reached.epoch < 0:
            self.reached.epoch = 0
            self._validate({})
            self._save()
        with Interrupts() as interrupts:
            while not self._is_finished():
                self._run_epoch(interrupts)
        self.task.load(self.best)
        if not self.reached.done:
            self.reached.final = self.task.final_figures()
            self.reached.done = True
            self._save()
        return self.reached

    def _resume(self) -> None:
        checkpoint = Checkpoint.read(self.path)
        self.reached, self.best = checkpoint.reached, checkpoint.best
        self.log.resume((self.reached.epoch, self.reached.step))
        if self.reached.epoch >= 0 and not self.reached.done:
            try:
                self.task.restore(checkpoint.state)
            except (KeyError, TypeError, RuntimeError, ValueError, TrainingError) as exc:
                raise _other_training(self.path, exc) from exc
        self.group.barrier()  # the first process must not write a state before all have read the last one

    def _is_finished(self) -> bool:
        reached = self.reached
        if reached.done:
            return True
        validated = reached.epoch == 0 or reached.step == self.steps
        return validated and (
            reached.epoch >= self.pace.epochs or (self.patience is not None and reached.stale >= self.patience)
        )

    def _run_epoch(self, interrupts: Interrupts) -> None:
        """Do the rest of the current epoch, or all of the next one."""
        reached, size = self.reached, self.pace.batch
        if reached.epoch == 0 or reached.step == self.steps:
            reached.epoch, reached.step, reached.sums = reached.epoch + 1, 0, {}
        order = self.task.order(reached.epoch)

        def step(number: int) -> None:
            self._step(order[number * size : (number + 1) * size])

        numbers = range(reached.step, self.steps)
        run_steps(numbers, step, lambda done: self._save(), self.pace.save_every, interrupts, self.group)

    def _step(self, rows: Rows) -> None:
        reached = self.reached
        figures = self.task.step(rows)
        self._check("loss", figures["loss"], f"of epoch {reached.epoch}, step {reached.step + 1}")
        reached.step += 1
        reached.sums = {name: reached.sums.get(name, 0.0) + value for name, value in figures.items()}
        if reached.step == self.steps:
            self._validate({name: total / self.steps for name, total in reached.sums.items()})
        elif reached.step % self.pace.log_every == 0:
            self.log.add((reached.epoch, reached.step), figures)
        done = (reached.epoch - 1) * self.steps + reached.step
        self._on_progress(Progress("train", self.task.title, done, self.pace.epochs * self.steps))

    def _validate(self, means: Figures) -> None:
        """Validate, log, and keep the weights if they are the best so far."""
        reached = self.reached
        figures = means | self.task.validate()
        self._check("validation loss", figures["val_loss"], f"after epoch {reached.epoch}")
        row = {"epoch": reached.epoch} | figures
        reached.history.append(row)
        if len(reached.history) == 1 or self.task.worth(row) > self.task.worth(reached.best):
            reached.best_epoch, self.best = reached.epoch, self.task.weights()
        self.log.add((reached.epoch, reached.step), figures)
        self._on_progress(Progress("note", self.task.describe(row)))

    def _check(self, name: str, value: float, when: str) -> None:
        """A loss that is not finite ends the run: nan compares as neither better nor worse than any other value."""
        if not math.isfinite(value):
            raise TrainingError(
                f"{self.task.title}: the {name} {when} is {value}: give a lower learning rate, and another --out"
            )

    def _save(self) -> None:
        if self.group.first:
            state = {} if self.reached.done else self.task.state()
            Checkpoint(self.reached, self.best, state).write(self.path)


def _other_training(path: Path, reason: object) -> TrainingError:
    return TrainingError(f"{path} is the state of another training ({reason}): delete it to start this training again")
