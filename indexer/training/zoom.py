"""The training of one zoom's map encoder, as a task of `indexer.learning.loop`.

Knows tiles' tokens, photos' embeddings and which tile holds each photo; not where they come from.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indexer.learning.distributed import Group
from indexer.learning.state import optimiser_tensors, restore_optimiser, with_prefix, without_prefix
from indexer.learning.trunk import SplitTower
from indexer.training.loss import RECALLS, Validation, backward_in_parts, in_batch_loss
from indexer.training.pairs import Pairs
from indexer.training.settings import TrainSettings

__all__ = ["LOG_FIGURES", "ZoomTask", "epoch_facts"]

Rows = NDArray[np.int64]
LOG_FIGURES = ("loss", "val_loss", *(f"recall@{k}" for k in RECALLS), "temperature")
"""The figures of log.csv, in its columns' order."""


class ZoomTask:
    """One zoom's map encoder: a tail of the photo encoder's tower, trained until photos find their tiles.

    `tokens`: rows of tiles, (n,), to (n, t, width) on any device, from the frozen trunk. `start`: the layers to begin
    with; the tower's own if None. Photos' embeddings are moved to the tower's device once.
    """

    def __init__(
        self,
        zoom: int,
        pairs: Pairs,
        tower: SplitTower,
        tokens: Callable[[Rows], Tensor],
        settings: TrainSettings,
        group: Group,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.zoom, self.pairs, self.settings, self.group = zoom, pairs, settings, group
        self.title, self.count = f"Training zoom {zoom}", len(pairs.train)
        self._split, self._tokens = tower, tokens
        self.tail: nn.Module = tower.tail() if start is None else tower.tail_from(start)
        self.device = next(self.tail.parameters()).device
        self.photos, self.rows = pairs.embeddings.to(self.device), pairs.zooms[zoom].rows
        self.log_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature), device=self.device))
        parameters = [*self.tail.parameters(), *([self.log_scale] if settings.learn_temperature else [])]
        self.optimiser = torch.optim.Adam(parameters, lr=settings.lr)
        self._validation = Validation(pairs, zoom, group, self.device)

    def embed(self, rows: Rows) -> Tensor:
        """Tiles by row, (n,), to (n, d) float32 unit embeddings on the tower's device."""
        if not len(rows):
            return self.photos.new_zeros((0, self.photos.shape[1]))
        tokens = self._tokens(rows).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            embeddings: Tensor = self.tail(tokens)
        return embeddings

    def order(self, epoch: int) -> Rows:
        """The training photos in an epoch's order, (a,) int64."""
        return self.pairs.order(self.settings.seed, self.zoom, epoch)

    def step(self, rows: Rows) -> dict[str, float]:
        """One step of Adam on a batch of photos, (batch,); returns the batch's loss and the temperature."""
        tiles, column = np.unique(self.rows[rows], return_inverse=True)
        photos = self.photos[torch.from_numpy(rows).to(self.device)]
        columns = torch.from_numpy(column).to(self.device)
        own = self.group.share(len(rows))

        def loss(embeddings: Tensor) -> Tensor:
            return in_batch_loss(photos, embeddings, columns, self.log_scale.exp(), own=own)

        self.optimiser.zero_grad(set_to_none=True)
        parameters = [p for g in self.optimiser.param_groups for p in g["params"]]
        value = backward_in_parts(self.embed, tiles, loss, self.group, self.settings.micro_batch, parameters)
        self.optimiser.step()
        if self.settings.learn_temperature:
            with torch.no_grad():
                self.log_scale.clamp_(0.0, math.log(100.0))
        return {"loss": float(value), "temperature": self._temperature()}

    def validate(self) -> dict[str, float]:
        """The validation photos' loss and recalls, and the temperature."""
        temperature = self._temperature()
        figures = self._validation.measure(self.embed, 1 / temperature, batch=self.settings.validation_batch)
        return figures | {"temperature": temperature}

    def worth(self, row: Mapping[str, float]) -> tuple[float, ...]:
        """Recall@1; between epochs of equal recall, the lower validation loss."""
        return row["recall@1"], -row["val_loss"]

    def describe(self, row: Mapping[str, float]) -> str:
        """An epoch in one line."""
        loss = f"epoch {row['epoch']:.0f}, loss {row['loss']:.4f}" if "loss" in row else "before training"
        recalls = ", ".join(f"{name} {share:.1%}" for name, share in _recalls(row).items())
        return f"zoom {self.zoom}, {loss}: validation loss {row['val_loss']:.4f}, {recalls}"

    def weights(self) -> dict[str, Tensor]:
        """The tail's layers by the tower's names, copied to the CPU."""
        return self._split.layers(self.tail)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the tail's layers. TrainingError if they are another tower's."""
        self.tail.load_state_dict(self._split.tail_from(weights).state_dict())

    def state(self) -> dict[str, Tensor]:
        """Layers, temperature and Adam's moments. Nothing in a step is random, so there is no generator to save."""
        tensors = with_prefix("layers.", self.weights()) | {"log_scale": self.log_scale}
        return tensors | optimiser_tensors("adam", self.optimiser)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        self.load(without_prefix("layers.", state))
        with torch.no_grad():
            self.log_scale.copy_(state["log_scale"])
        restore_optimiser("adam", self.optimiser, state)

    def final_figures(self) -> dict[str, float]:
        """The best layers' recalls as stored in fp16, and the least cosine of a tile's embedding to its float32 one."""
        exact, layers = self._validation.embeddings(self.embed), self.weights()
        self.load({name: layer.half().float() for name, layer in layers.items()})
        rounded = self._validation.embeddings(self.embed)
        recalls = _recalls(self.validate())
        self.load(layers)
        return recalls | {"least_cosine_to_float32": float((exact * rounded).sum(1).min())}

    def _temperature(self) -> float:
        return float((-self.log_scale.detach()).exp())


def epoch_facts(row: Mapping[str, float]) -> dict[str, Any]:
    """An epoch's row as training.json has it; epoch 0, the start, has no training loss."""
    facts = {"epoch": row["epoch"], "loss": row.get("loss"), "val_loss": row["val_loss"]}
    return facts | {"temperature": row["temperature"], "recalls": _recalls(row)}


def _recalls(row: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name.startswith("recall")}
