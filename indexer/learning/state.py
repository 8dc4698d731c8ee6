"""Where the training of one zoom is, in memory and on disk: everything that its next step depends on.

Batches follow from seed, zoom, epoch and step, and nothing in a step is drawn at random (towers run without dropout),
so no generator's state has to be kept: layers, Adam's moments and the counts are all there is.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from indexer.builtin.state import load_state, optimiser_tensors, restore_optimiser, save_state
from indexer.errors import TrainingError

__all__ = ["Epoch", "Reached", "ZoomFile"]


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: its mean loss (None for epoch 0, the start) and what validation said after it."""

    epoch: int
    loss: float | None
    val_loss: float
    temperature: float
    recalls: dict[str, float]

    @property
    def worth(self) -> tuple[float, float]:
        """The higher the better: recall@1, and among equals the validation loss."""
        return self.recalls["recall@1"], -self.val_loss


@dataclass
class Reached:
    """How far a zoom has come: `step` steps of epoch `epoch` are done; at an epoch's last it has been validated.

    `stored`: what the best layers are worth as they are stored, rounded to fp16; filled at the end.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    history: list[Epoch] = field(default_factory=list)
    stored: dict[str, float] = field(default_factory=dict)
    done: bool = False

    @property
    def best(self) -> Epoch:
        """The epoch whose layers are kept: the first of those with the highest worth."""
        return max(self.history, key=lambda e: e.worth)

    @property
    def stale(self) -> int:
        """Epochs since the best one."""
        return self.history[-1].epoch - self.best.epoch

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Reached":
        """From `asdict`'s values."""
        return cls(**{**values, "history": [Epoch(**e) for e in values["history"]]})


@dataclass(frozen=True)
class ZoomFile:
    """A zoom's state file. While it trains: layers, best layers, optimiser; once done: the best layers alone."""

    path: Path

    def save(
        self,
        reached: Reached,
        best: Mapping[str, Tensor],
        layers: Mapping[str, Tensor],
        scale: Tensor,
        optimiser: torch.optim.Optimizer,
    ) -> None:
        """Replace the file by where training is now."""
        tensors = {f"best.{k}": v for k, v in best.items()}
        if not reached.done:
            tensors |= {f"layers.{k}": v for k, v in layers.items()} | {"log_scale": scale}
            tensors |= optimiser_tensors("adam", optimiser)
        save_state(self.path, tensors, {"reached": asdict(reached)})

    def reached(self) -> Reached:
        """How far the file's zoom has come; nowhere if there is none."""
        return self._read()[1] if self.path.exists() else Reached(epoch=-1)

    def best(self) -> dict[str, Tensor]:
        """The best layers by the tower's names."""
        return self._part("best.")

    def layers(self) -> dict[str, Tensor]:
        """The layers as the last step left them."""
        return self._part("layers.")

    def restore(self, scale: Tensor, optimiser: torch.optim.Optimizer) -> None:
        """Put back the temperature and Adam's moments."""
        tensors = self._read()[0]
        try:
            with torch.no_grad():
                scale.copy_(tensors["log_scale"])
            restore_optimiser("adam", optimiser, tensors)
        except (KeyError, RuntimeError, ValueError) as exc:
            raise self._other(exc) from exc

    def _part(self, prefix: str) -> dict[str, Tensor]:
        found = {k.removeprefix(prefix): v for k, v in self._read()[0].items() if k.startswith(prefix)}
        if not found:
            raise self._other(f"it holds no {prefix}*")
        return found

    def _read(self) -> tuple[dict[str, Tensor], Reached]:
        tensors, notes = load_state(self.path)
        try:
            return tensors, Reached.from_json(notes["reached"])
        except (KeyError, TypeError) as exc:
            raise self._other(exc) from exc

    def _other(self, why: object) -> TrainingError:
        return TrainingError(f"{self.path} is the state of something else ({why}): delete it, and its zoom begins anew")
