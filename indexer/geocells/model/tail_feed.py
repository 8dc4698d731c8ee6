"""Features of photos through the last layers of a ViT, which learn, over a frozen trunk that sees each photo once."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indexer.geocells.model.feed import EncoderFeed
from indexer.learning.activations import ActivationCache, CacheLimits
from indexer.learning.split_tower import SplitTower
from indexer.photos.photo_set import PhotoSet
from indexer.progress import OnProgress, Progress
from retrieval.encoders.open_clip import PhotoEncoder

__all__ = ["TailFeed"]

Rows = NDArray[np.int64]
_PART = 32
"""Photos through the trunk at once, always: batches of other shapes have other last bits."""


class TailFeed:
    """`tower`: the tail; all of it learns. Use `open`."""

    def __init__(self, pictures: EncoderFeed, split: SplitTower, cache: ActivationCache) -> None:
        self._pictures, self._split, self._cache = pictures, split, cache
        self.tower: nn.Module = split.tail()

    @classmethod
    @contextmanager
    def open(
        cls, photos: PhotoSet, encoder: PhotoEncoder, blocks: int, folder: Path, tell: OnProgress
    ) -> Iterator["TailFeed"]:
        """With activations of all photos in `folder`, filled first; TrainingError for a tower that is no such ViT."""
        split = SplitTower(encoder.tower, blocks)
        key = f"{encoder.fingerprint} {blocks} {encoder.device.type} {photos.digest()}"
        pictures = EncoderFeed(photos, encoder, encoder.tower)
        limits = CacheLimits()
        try:
            with ActivationCache.open(folder, key, len(photos), split.token_shape, limits) as cache:
                feed = cls(pictures, split, cache)
                cache.fill(feed._compute, batch=8 * _PART, on_progress=partial(_tell, tell))
                yield feed
        finally:
            pictures.close()

    def __call__(self, rows: Rows) -> Tensor:
        """Rows, (n,), to (n, f) unit rows, with a gradient of the tail."""
        device = next(self.tower.parameters()).device
        made: Tensor = self.tower(self._cache.get(rows, self._compute).to(device))
        return made

    def _compute(self, rows: Rows) -> Tensor:
        return torch.cat([self._through(rows[i : i + _PART]) for i in range(0, len(rows), _PART)])

    def _through(self, rows: Rows) -> Tensor:
        pixels = torch.from_numpy(np.stack(list(self._pictures.pixels(rows))))
        padded = torch.zeros((_PART, *pixels.shape[1:]))
        padded[: len(rows)] = pixels
        return self._split.trunk(padded)[: len(rows)].cpu()


def _tell(tell: OnProgress, done: int, total: int) -> None:
    tell(Progress("activations", "Frozen layers", done, total))
