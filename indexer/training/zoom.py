"""The training of one zoom's map encoder: steps, validation after each epoch, and a state to go on from.

Knows tokens, embeddings and rows; where photos, tiles and activations come from is other modules'.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indexer.errors import TrainingError
from indexer.learning.distributed import Group
from indexer.learning.grad_cache import backward_in_parts
from indexer.learning.interrupts import Interrupts
from indexer.learning.log import TrainingLog
from indexer.learning.split_tower import SplitTower
from indexer.learning.state import Epoch, Reached, ZoomFile
from indexer.progress import OnProgress, Progress
from indexer.training.loss import in_batch_loss
from indexer.training.pairs import Pairs, steps_per_epoch
from indexer.training.settings import TrainSettings
from indexer.training.validation import Validation

__all__ = ["Desk", "ZoomResult", "ZoomTraining"]

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Desk:
    """What a zoom's training works with besides its numbers: files, processes, and who is told how far it is."""

    state: ZoomFile
    log: TrainingLog
    group: Group
    tell: OnProgress = lambda progress: None


class ZoomResult(NamedTuple):
    """The best epoch's layers by the tower's names, float32, and how they were come by."""

    layers: dict[str, Tensor]
    reached: Reached


class ZoomTraining:
    """One zoom under way. `tokens`: rows of tiles, (n,), to (n, t, width) on any device; `start`: layers to begin with.

    Photos' embeddings are taken to the tower's device once.
    """

    def __init__(
        self,
        zoom: int,
        pairs: Pairs,
        tower: SplitTower,
        tokens: Callable[[Rows], Tensor],
        settings: TrainSettings,
        desk: Desk,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.zoom, self.pairs, self.settings, self.desk = zoom, pairs, settings, desk
        self._split, self._tokens = tower, tokens
        self.steps = steps_per_epoch(len(pairs.train), settings.batch)
        self.tail: nn.Module = tower.tail() if start is None else tower.tail_from(start)
        self.device = next(self.tail.parameters()).device
        self.photos, self.rows = pairs.embeddings.to(self.device), pairs.zooms[zoom].rows
        self.log_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature), device=self.device))
        learnt = [*self.tail.parameters(), *([self.log_scale] if settings.learn_temperature else [])]
        self.optimiser = torch.optim.Adam(learnt, lr=settings.lr)
        self._validation = Validation(pairs, zoom, desk.group, self.device)
        self.reached, self.best = Reached(epoch=-1), dict[str, Tensor]()

    def run(self) -> ZoomResult:
        """Train to the end, from the state file if it is there; KeyboardInterrupt leaves one of the last whole step."""
        self._resume()
        if self.reached.epoch < 0:
            self.reached = Reached()
            self._validated(None)
        with Interrupts() as interrupts:
            while not self._finished():
                self._epoch(interrupts)
        if not self.reached.done:
            self.reached.stored = self._stored()
            self.reached.done = True
            self._save()
        return ZoomResult(self.best, self.reached)

    def embed(self, rows: Rows) -> Tensor:
        """Tiles by row, (n,), to (n, d) float32 unit embeddings on the tower's device."""
        if not len(rows):
            return self.photos.new_zeros((0, self.photos.shape[1]))
        tokens = self._tokens(rows).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            embeddings: Tensor = self.tail(tokens)
        return embeddings

    def _resume(self) -> None:
        reached = self.desk.state.reached()
        self.desk.log.resume(self.zoom, (reached.epoch, reached.step), self.settings.zooms[::-1])
        if reached.epoch >= 0:
            self.reached, self.best = reached, self.desk.state.best()
            if not reached.done:
                self._load(self.desk.state.layers())
                self.desk.state.restore(self.log_scale, self.optimiser)
        self.desk.group.barrier()  # nobody writes a state before all have read the last one

    def _finished(self) -> bool:
        reached, patience = self.reached, self.settings.patience
        if reached.done:
            return True
        at_end = reached.epoch == 0 or reached.step == self.steps
        return at_end and (
            reached.epoch >= self.settings.epochs or (patience is not None and reached.stale >= patience)
        )

    def _epoch(self, interrupts: Interrupts) -> None:
        """The rest of the epoch under way, or all of the next one."""
        reached, size = self.reached, self.settings.batch
        if reached.epoch == 0 or reached.step == self.steps:
            reached.epoch, reached.step, reached.loss_sum = reached.epoch + 1, 0, 0.0
        order = self.pairs.order(self.settings.seed, self.zoom, reached.epoch)
        while reached.step < self.steps:
            loss = self._step(order[reached.step * size : (reached.step + 1) * size])
            if not math.isfinite(loss):
                raise TrainingError(
                    f"zoom {self.zoom}: the loss of epoch {reached.epoch}, step {reached.step + 1} is {loss}: "
                    "give a lower --lr, and another --out"
                )
            reached.step, reached.loss_sum = reached.step + 1, reached.loss_sum + loss
            if reached.step == self.steps:
                self._validated(reached.loss_sum / self.steps)
            else:
                self._note(loss)
            done = (reached.epoch - 1) * self.steps + reached.step
            self._tell("train", f"Training zoom {self.zoom}", done, self.settings.epochs * self.steps)
            self._leave_if_asked(interrupts)

    def _step(self, batch: Rows) -> float:
        tiles, column = np.unique(self.rows[batch], return_inverse=True)
        photos, rows = self.photos[torch.from_numpy(batch).to(self.device)], torch.from_numpy(column).to(self.device)
        group, settings = self.desk.group, self.settings
        own = group.share(len(batch))

        def loss(seen: Tensor) -> Tensor:
            symmetric = settings.loss == "symmetric"
            return in_batch_loss(photos, seen, rows, self.log_scale.exp(), symmetric=symmetric, own=own)

        self.optimiser.zero_grad(set_to_none=True)
        learnt = [p for g in self.optimiser.param_groups for p in g["params"]]
        value = backward_in_parts(self.embed, tiles, loss, group, settings.micro_batch, learnt)
        self.optimiser.step()
        if settings.learn_temperature:
            with torch.no_grad():
                self.log_scale.clamp_(0.0, math.log(100.0))
        return float(value)

    def _note(self, loss: float) -> None:
        reached = self.reached
        if reached.step % self.settings.log_every == 0:
            values = {"loss": loss, "temperature": self._temperature()}
            self.desk.log.add(self.zoom, (reached.epoch, reached.step), values)
        if reached.step % self.settings.save_every == 0:
            self._save()

    def _leave_if_asked(self, interrupts: Interrupts) -> None:
        """All processes leave after the same step, so that none waits for another that is gone."""
        if float(self.desk.group.add(torch.tensor(float(interrupts.asked)))):
            self._save()
            raise KeyboardInterrupt

    def _validated(self, loss: float | None) -> None:
        """Validate, log, keep the layers if they are the best so far, and save."""
        val_loss, found = self._measured()
        epoch = Epoch(self.reached.epoch, loss, val_loss, self._temperature(), found)
        self.reached.history.append(epoch)
        if self.reached.best is epoch:
            self.best = self._split.layers(self.tail)
        values = found | {"val_loss": val_loss, "temperature": epoch.temperature}
        values |= {} if loss is None else {"loss": loss}
        self.desk.log.add(self.zoom, (self.reached.epoch, self.reached.step), values)
        self._tell("note", _in_words(self.zoom, epoch))
        self._save()

    def _stored(self) -> dict[str, float]:
        """The best layers' recall as they are stored, in fp16, and the least cosine that rounding leaves of a tile."""
        self._load(self.best)
        exact = self._validation.embeddings(self.embed)
        self._load({name: layer.half().float() for name, layer in self.best.items()})
        rounded = self._validation.embeddings(self.embed)
        return self._measured()[1] | {"least_cosine_to_float32": float((exact * rounded).sum(1).min())}

    def _load(self, layers: Mapping[str, Tensor]) -> None:
        self.tail.load_state_dict(self._split.tail_from(layers).state_dict())

    def _measured(self) -> tuple[float, dict[str, float]]:
        scale, settings = 1 / self._temperature(), self.settings
        symmetric = settings.loss == "symmetric"
        return self._validation.measure(self.embed, scale, batch=settings.validation_batch, symmetric=symmetric)

    def _temperature(self) -> float:
        return float((-self.log_scale.detach()).exp())

    def _tell(self, stage: str, text: str, done: int = 0, total: int = 0) -> None:
        if self.desk.group.first:
            self.desk.tell(Progress(stage, text, done, total))

    def _save(self) -> None:
        if self.desk.group.first:
            layers = self._split.layers(self.tail)
            self.desk.state.save(self.reached, self.best, layers, self.log_scale, self.optimiser)


def _in_words(zoom: int, epoch: Epoch) -> str:
    found = ", ".join(f"{name} {share:.1%}" for name, share in epoch.recalls.items())
    loss = "before training" if epoch.loss is None else f"epoch {epoch.epoch}, loss {epoch.loss:.4f}"
    return f"zoom {zoom}, {loss}: validation loss {epoch.val_loss:.4f}, {found}"
