"""What a geocell model learns: linear heads over an image's features, their loss, and their validation.

Knows features, places and cells, not files or folders. `GeocellTask` is a task of `indexer.learning.loop`, and
`LossTask` has what it shares with the regression baseline.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indexer.geocells.model.features import Features, SplitData, features_of
from indexer.geocells.model.loss import contrastive_loss, haversine_km, haversine_loss, smoothed_targets
from indexer.geocells.settings import GeocellSettings
from indexer.learning.state import optimiser_tensors, restore_optimiser, with_prefix, without_prefix
from retrieval.priors.partition import Partition

__all__ = ["LOG_FIGURES", "GeoHeads", "GeocellTask", "HeadOutput", "LabelledSplit", "LossTask"]

LOG_FIGURES = ("loss", "cells", "clusters", "contrast", "val_loss", "val_accuracy", "val_mean_km")
"""Columns of log.csv after epoch and step."""

Rows = NDArray[np.int64]
_VALIDATION_BATCH = 256


@dataclass(frozen=True)
class LabelledSplit:
    """The photos of a split with the cell and the cluster of each, (n,) int64."""

    data: SplitData
    cell: Tensor
    cluster: Tensor

    @classmethod
    def of(cls, data: SplitData, partition: Partition) -> "LabelledSplit":
        """The cell with the nearest centroid, then, within it, the cluster with the nearest centre."""
        lat, lng = data.lat_lng.cpu().numpy().T
        labels = (partition.cell_of(lat, lng), partition.cluster_of(lat, lng))
        cell, cluster = (torch.from_numpy(rows.astype(np.int64)).to(data.lat_lng.device) for rows in labels)
        return cls(data, cell, cluster)


class HeadOutput(NamedTuple):
    """Geo-embeddings (n, e), logits of cells (n, c), logits of clusters (n, m)."""

    embedding: Tensor
    cells: Tensor
    clusters: Tensor


class GeoHeads(nn.Module):
    """Three linear heads: features to a geo-embedding, and from that to cells and to clusters.

    All are linear, so a cell's logit is a linear function of the features. The detour through the geo-embedding lets
    the contrastive loss, which acts on it, shape the directions that separate cells and clusters.

    `dim`: dimensions of the features; `geo_dim`: of a geo-embedding. The seed decides the initial weights.
    """

    def __init__(self, dim: int, geo_dim: int, cells: int, clusters: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Linear(dim, geo_dim)
            self.cells = nn.Linear(geo_dim, cells)
            self.clusters = nn.Linear(geo_dim, clusters)
        self._scale = math.sqrt(dim)

    def forward(self, features: Tensor) -> HeadOutput:
        """(n, dim) unit rows to all three outputs. Entries are scaled to about 1, which suits a rate of 1e-3."""
        embedding = self.embedding(features * self._scale)
        return HeadOutput(embedding, self.cells(embedding), self.clusters(embedding))


class LossTask(ABC):
    """A task of the training loop that descends a loss with one optimiser; the lowest validation loss is the best."""

    title = "Training"
    count: int
    """The number of training photos."""
    seed: int
    optimiser: torch.optim.Optimizer

    @abstractmethod
    def losses(self, rows: Rows) -> dict[str, Tensor]:
        """Scalars over these rows of the training photos, (n,); `loss` is the one to descend."""

    @abstractmethod
    def validate(self) -> dict[str, float]:
        """Figures of the validation photos, `val_loss` among them."""

    @abstractmethod
    def weights(self) -> dict[str, Tensor]:
        """Copies of the learnt weights on the CPU, by name."""

    @abstractmethod
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the learnt weights by copies of these."""

    def order(self, epoch: int) -> Rows:
        """A permutation of the training photos that follows from seed and epoch, (count,)."""
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)

    def step(self, rows: Rows) -> dict[str, float]:
        """Update the weights once, unless the loss is not finite; returns the losses before the update."""
        losses = self.losses(rows)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if math.isfinite(values["loss"]):
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(losses["loss"])
            self.optimiser.step()
        return values

    def worth(self, row: dict[str, float]) -> tuple[float, ...]:
        """The negative validation loss of an epoch."""
        return (-row["val_loss"],)

    def describe(self, row: dict[str, float]) -> str:
        """An epoch's figures as one line."""
        figures = ", ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "epoch")
        return f"epoch {row['epoch']}: {figures}"

    def state(self) -> dict[str, Tensor]:
        """The weights and AdamW's moments."""
        return with_prefix("now.", self.weights()) | optimiser_tensors("adamw", self.optimiser)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Load what `state` returned."""
        self.load(without_prefix("now.", state))
        restore_optimiser("adamw", self.optimiser, state)

    def final_figures(self) -> dict[str, float]:
        """There are none."""
        return {}


class GeocellTask(LossTask):
    """The heads, the part of the encoder that learns (`tower`; None: the encoder is frozen), and their optimiser.

    `features` computes the features of rows of the photo set.
    """

    def __init__(
        self,
        settings: GeocellSettings,
        partition: Partition,
        train: LabelledSplit,
        validation: LabelledSplit,
        features: Features,
        tower: nn.Module | None,
    ) -> None:
        self.settings, self.train, self.validation = settings, train, validation
        self.count, self.seed, self._features, self.tower = len(train.data), settings.pace.seed, features, tower
        device, dim = train.data.features.device, train.data.features.shape[1]
        counts = len(partition.cells), len(partition.clusters)
        self.heads = GeoHeads(dim, settings.geo_dim, *counts, seed=settings.pace.seed).to(device)
        self._centroids = torch.from_numpy(partition.centroids).to(device)
        self._cluster_centres = torch.from_numpy(partition.cluster_centres).to(device)
        groups: list[dict[str, Any]] = [{"params": list(self.heads.parameters()), "lr": settings.lr_heads}]
        if tower is not None:
            groups.append({"params": list(tower.parameters()), "lr": settings.lr_encoder})
        self.optimiser = torch.optim.AdamW(groups, weight_decay=settings.pace.weight_decay)

    def losses(self, rows: Rows) -> dict[str, Tensor]:
        """The total loss and its terms over these rows of the training photos, (n,)."""
        settings, train = self.settings, self.train
        output: HeadOutput = self.heads(self._features(train.data.rows[rows]))
        batch = torch.from_numpy(rows).to(train.cell.device)
        places = train.data.lat_lng[batch]
        terms = self._haversine_terms(output, places, train.cell[batch], train.cluster[batch])
        loss = terms["cells"] + terms["clusters"]
        if settings.alpha:
            km = haversine_km(places, places)
            terms["contrast"] = contrastive_loss(output.embedding, km, settings.temperature, settings.contrast_km)
            loss = loss + settings.alpha * terms["contrast"]
        return {"loss": loss} | terms

    def validate(self) -> dict[str, float]:
        """Figures of the validation photos.

        `val_loss`: the haversine loss of cells and clusters, without the contrastive loss; `val_accuracy`: the share
        of photos whose cell is right; `val_mean_km`: the mean distance to the centre of the likeliest cluster.
        """
        split = self.validation
        outputs, n = self.outputs(split.data), len(split.data)
        loss, correct, total_km = 0.0, 0, 0.0
        for first in range(0, n, _VALIDATION_BATCH):
            batch = slice(first, first + _VALIDATION_BATCH)
            output = HeadOutput(*(values[batch] for values in outputs))
            places, cell = split.data.lat_lng[batch], split.cell[batch]
            terms = self._haversine_terms(output, places, cell, split.cluster[batch])
            loss += float(terms["cells"] + terms["clusters"]) * len(cell)
            correct += int((output.cells.argmax(1) == cell).sum())
            km = haversine_km(places, self._cluster_centres[output.clusters.argmax(1)])
            total_km += float(km.diagonal().sum())
        return {"val_loss": loss / n, "val_accuracy": correct / n, "val_mean_km": total_km / n}

    def outputs(self, data: SplitData) -> HeadOutput:
        """The heads' outputs for all photos of a split, without gradient."""
        with torch.no_grad():
            frozen = self.tower is None
            output: HeadOutput = self.heads(data.features if frozen else features_of(self._features, data))
        return output

    def weights(self) -> dict[str, Tensor]:
        """Copies of the learnt weights on the CPU: the heads and, if it learns, the encoder."""
        weights = {f"heads.{k}": v for k, v in self.heads.state_dict().items()}
        if self.tower is not None:
            weights |= {f"tower.{k}": v for k, v in self.tower.state_dict().items()}
        return {k: v.detach().to("cpu", copy=True) for k, v in weights.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the learnt weights by copies of these."""
        self.heads.load_state_dict(without_prefix("heads.", weights))
        if self.tower is not None:
            self.tower.load_state_dict(without_prefix("tower.", weights))

    def _haversine_terms(self, output: HeadOutput, places: Tensor, cell: Tensor, cluster: Tensor) -> dict[str, Tensor]:
        km = self.settings.smoothing_km
        cells = smoothed_targets(haversine_km(places, self._centroids), cell, km).float()
        clusters = smoothed_targets(haversine_km(places, self._cluster_centres), cluster, km).float()
        return {"cells": haversine_loss(output.cells, cells), "clusters": haversine_loss(output.clusters, clusters)}
