"""Features of photos, by row: from a table where the encoder is frozen, else from pictures through the encoder.

Pictures are decoded again each time they are asked for, in threads, in the order asked for; nothing is drawn at random,
so that the same rows give the same bits.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from indexer.errors import TrainingError
from indexer.photos.files import read_picture
from indexer.photos.photo_set import Fault, PhotoSet
from indexer.threads import ahead
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.encoders.photo import PhotoLimits

__all__ = ["EncoderFeed", "Feed", "TableFeed"]

Rows = NDArray[np.int64]
_LIMITS = PhotoLimits()


class Feed(Protocol):
    """Rows of a photo set, (n,), to features, (n, f) float32 unit rows on the encoder's device."""

    def __call__(self, rows: Rows) -> Tensor: ...


class TableFeed:
    """Of embeddings that are there, (n, f) float32."""

    def __init__(self, embeddings: NDArray[np.float32], device: torch.device) -> None:
        self._table = torch.from_numpy(embeddings).to(device)

    def __call__(self, rows: Rows) -> Tensor:
        return self._table[torch.from_numpy(rows).to(self._table.device)]


class EncoderFeed:
    """Of an encoder that learns; `tower` is the module with the weights that do, in evaluation mode.

    Batch norms keep their running means and nothing is dropped: a step depends on its photos alone.
    """

    def __init__(self, photos: PhotoSet, encoder: PhotoEncoder, tower: nn.Module) -> None:
        self._photos, self._encoder, self.tower = photos, encoder, tower
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode")

    def __call__(self, rows: Rows) -> Tensor:
        pixels = np.stack(list(self.pixels(rows)))
        made: Any = self.tower(torch.from_numpy(pixels).to(self._encoder.device))
        return functional.normalize((made[0] if isinstance(made, tuple) else made).float(), dim=-1)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def pixels(self, rows: Rows) -> Iterator[NDArray[np.float32]]:
        """Prepared pictures, (3, s, s) each, in order. TrainingError for one that cannot be read any more."""
        return ahead(self._pool, partial(_prepare, self._photos, self._encoder), rows.tolist(), len(rows))


def _prepare(photos: PhotoSet, encoder: PhotoEncoder, row: int) -> NDArray[np.float32]:
    image = read_picture(photos.paths[row], _LIMITS)
    if isinstance(image, Fault):
        raise TrainingError(f"{photos.paths[row]} could be read before and cannot now: {image.detail}")
    return encoder.prepare(image)
