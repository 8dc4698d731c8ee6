"""What a zoom's tail is worth on the validation photos: recall among all their distinct tiles, and the loss."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.errors import TrainingError
from indexer.learning.distributed import Group
from indexer.learning.grad_cache import Embed, embed_rows
from indexer.training.loss import in_batch_loss
from indexer.training.pairs import Pairs
from indexer.training.recall import ranks, recalls

__all__ = ["Validation"]

_PART = 64
"""Tiles embedded at once."""


class Validation:
    """One zoom's validation photos and their tiles; every process embeds its share of the tiles.

    `photos`: (b, d) unit rows; `tiles`: (t,) rows of the distinct tiles, ascending by code; `column`: (b,) int64,
    which of them is each photo's.
    """

    def __init__(self, pairs: Pairs, zoom: int, group: Group, device: torch.device) -> None:
        rows = pairs.zooms[zoom].rows[pairs.validation]
        self.tiles, column = np.unique(rows, return_inverse=True)
        self.column = torch.from_numpy(column).to(device)
        self.photos = pairs.embeddings[torch.from_numpy(pairs.validation)].to(device)
        self._zoom, self._group = zoom, group

    def embeddings(self, embed: Embed) -> Tensor:
        """Of all its tiles, (t, d) unit rows."""
        mine: NDArray[np.int64] = self.tiles[self._group.share(len(self.tiles))]
        parts = [mine[i : i + _PART] for i in range(0, max(1, len(mine)), _PART)]
        return self._group.gather(embed_rows(embed, parts), len(self.tiles))

    def measure(self, embed: Embed, scale: float, *, batch: int, symmetric: bool) -> tuple[float, dict[str, float]]:
        """The mean in-batch loss over photos in their order, `batch` at a time, and recall by `recall@k`.

        The first process's numbers everywhere: on GPUs two may differ in a last bit, and must not differ in what they
        take for the best epoch. Raises TrainingError where the tail gives no numbers any more.
        """
        tiles = self.embeddings(embed)
        found = {"loss": self._loss(tiles, scale, batch, symmetric), **recalls(ranks(self.photos, tiles, self.column))}
        numbers = torch.tensor(list(found.values()), dtype=torch.float64) * float(self._group.first)
        loss, *shares = self._group.add(numbers).tolist()
        if not math.isfinite(loss):
            raise TrainingError(
                f"zoom {self._zoom}: the validation loss is {loss}: give a lower --lr, and another --out"
            )
        return loss, dict(zip(list(found)[1:], shares, strict=True))

    def _loss(self, tiles: Tensor, scale: float, batch: int, symmetric: bool) -> float:
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(self.photos), batch):
                some = slice(start, start + batch)
                seen, column = torch.unique(self.column[some], return_inverse=True)
                photos = self.photos[some]
                loss = in_batch_loss(photos, tiles[seen], column, photos.new_tensor(scale), symmetric=symmetric)
                total += float(loss) * len(photos)
        return total / len(self.photos)
