"""What a zoom's tail is worth on the validation photos: recall among all their distinct tiles, and the loss."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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

    def measure(self, embed: Embed, scale: float, *, batch: int) -> dict[str, float]:
        """`val_loss`, the mean in-batch loss over the photos in their order, `batch` at a time, and each `recall@k`.

        All processes get the first one's figures: two GPUs may differ in a last bit, but processes must agree on the
        best epoch.
        """
        tiles = self.embeddings(embed)
        figures = {"val_loss": self._loss(tiles, scale, batch), **recalls(ranks(self.photos, tiles, self.column))}
        values = torch.tensor(list(figures.values()), dtype=torch.float64) * float(self._group.first)
        return dict(zip(figures, self._group.add(values).tolist(), strict=True))

    def _loss(self, tiles: Tensor, scale: float, batch: int) -> float:
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(self.photos), batch):
                columns = self.column[start : start + batch]
                distinct, rows = torch.unique(columns, return_inverse=True)
                photos = self.photos[start : start + batch]
                loss = in_batch_loss(photos, tiles[distinct], rows, photos.new_tensor(scale))
                total += float(loss) * len(photos)
        return total / len(self.photos)
