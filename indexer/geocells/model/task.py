"""Learning a geocell model as a task of a course: what a batch costs and what validation says.

Knows features, places and cells, not files or folders.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indexer.geocells.model.feed import Feed
from indexer.geocells.model.heads import GeoHeads, HeadOutput
from indexer.geocells.model.loss import contrastive_loss, haversine_km, haversine_loss, smoothed_targets
from indexer.geocells.model.photo_data import Part
from indexer.geocells.model.settings import GeocellSettings
from retrieval.priors.partition import Partition

__all__ = ["GeocellTask", "Owned", "features_of"]

Rows = NDArray[np.int64]
_AT_ONCE = 256


@dataclass(frozen=True)
class Owned:
    """Photos with the cell and the cluster that each lies in, (n,) int64."""

    part: Part
    cell: Tensor
    cluster: Tensor

    @classmethod
    def of(cls, part: Part, partition: Partition) -> "Owned":
        """By the nearest cell's centroid, then the nearest cluster's of that cell."""
        lat, lng = part.lat_lng.cpu().numpy().T
        found = (partition.cell_of(lat, lng), partition.cluster_of(lat, lng))
        cell, cluster = (torch.from_numpy(numbers.astype(np.int64)).to(part.lat_lng.device) for numbers in found)
        return cls(part, cell, cluster)


class GeocellTask:
    """`feed`: rows of the photo set to features; `tower`: what of the encoder learns, None for a frozen one."""

    def __init__(
        self,
        settings: GeocellSettings,
        partition: Partition,
        train: Owned,
        validation: Owned,
        feed: Feed,
        tower: nn.Module | None,
    ) -> None:
        self.settings, self.train, self.validation = settings, train, validation
        self.count, self._feed, self.tower = len(train.part), feed, tower
        device, dim = train.part.features.device, train.part.features.shape[1]
        counts = len(partition.cells), len(partition.clusters)
        self.heads = GeoHeads(dim, settings.geo_dim, *counts, seed=settings.pace.seed).to(device)
        centres = (partition.centroids, partition.cluster_centres)
        self._cells, self._clusters = (torch.from_numpy(found).to(device) for found in centres)
        groups: list[dict[str, Any]] = [{"params": list(self.heads.parameters()), "lr": settings.lr_heads}]
        if tower is not None:
            groups.append({"params": list(tower.parameters()), "lr": settings.lr_encoder})
        self.optimiser: torch.optim.Optimizer = torch.optim.AdamW(groups, weight_decay=settings.pace.weight_decay)

    def losses(self, rows: Rows) -> dict[str, Tensor]:
        """The whole loss and its parts, over the training photos at these positions."""
        settings, train = self.settings, self.train
        made: HeadOutput = self.heads(self._feed(train.part.rows[rows]))
        picked = torch.from_numpy(rows).to(train.cell.device)
        places = train.part.lat_lng[picked]
        parts = self._haversine(made, places, train.cell[picked], train.cluster[picked])
        loss = parts["cells"] + parts["clusters"]
        if settings.alpha:
            km = haversine_km(places, places)
            parts["contrast"] = contrastive_loss(made.embedding, km, settings.temperature, settings.contrast_km)
            loss = loss + settings.alpha * parts["contrast"]
        return {"loss": loss} | parts

    def validate(self) -> dict[str, float]:
        """`val_loss`: the haversine loss of cells and clusters, whatever alpha is; `val_accuracy`: right cells;
        `val_mean_km`: of the likeliest cluster's centroid."""
        owned = self.validation
        made, n = self.outputs(owned.part), len(owned.part)
        loss, right, km = 0.0, 0, 0.0
        for first in range(0, n, _AT_ONCE):
            these = slice(first, first + _AT_ONCE)
            some = HeadOutput(*(values[these] for values in made))
            places, cell = owned.part.lat_lng[these], owned.cell[these]
            parts = self._haversine(some, places, cell, owned.cluster[these])
            loss += float(parts["cells"] + parts["clusters"]) * len(cell)
            right += int((some.cells.argmax(1) == cell).sum())
            away = haversine_km(places, self._clusters[some.clusters.argmax(1)])
            km += float(away.diagonal().sum())
        return {"val_loss": loss / n, "val_accuracy": right / n, "val_mean_km": km / n}

    def outputs(self, part: Part) -> HeadOutput:
        """What the heads make of all photos of a part, without gradient."""
        with torch.no_grad():
            made: HeadOutput = self.heads(features_of(self._feed, part, self.tower is None))
        return made

    def tensors(self) -> dict[str, Tensor]:
        """Heads and, if it learns, the encoder: copies on the CPU."""
        found = {f"heads.{k}": v for k, v in self.heads.state_dict().items()}
        if self.tower is not None:
            found |= {f"tower.{k}": v for k, v in self.tower.state_dict().items()}
        return {k: v.detach().to("cpu", copy=True) for k, v in found.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put copies back."""
        _load(self.heads, "heads.", tensors)
        if self.tower is not None:
            _load(self.tower, "tower.", tensors)

    def _haversine(self, made: HeadOutput, places: Tensor, cell: Tensor, cluster: Tensor) -> dict[str, Tensor]:
        km = self.settings.smoothing_km
        cells = smoothed_targets(haversine_km(places, self._cells), cell, km).float()
        clusters = smoothed_targets(haversine_km(places, self._clusters), cluster, km).float()
        return {"cells": haversine_loss(made.cells, cells), "clusters": haversine_loss(made.clusters, clusters)}


def features_of(feed: Feed, part: Part, frozen: bool) -> Tensor:
    """Features of a whole part, (n, f): the embeddings that are there, or through the encoder in batches."""
    if frozen:
        return part.features
    with torch.no_grad():
        return torch.cat([feed(part.rows[i : i + _AT_ONCE]) for i in range(0, len(part), _AT_ONCE)])


def _load(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    module.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
