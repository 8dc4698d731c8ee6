"""The photos of a training: read, embedded and split once, and then features by row for every step.

With a frozen encoder the features are the embeddings of the first pass. With a learning encoder, pictures are decoded
again for each step, in threads, in the order of the rows. Nothing is drawn at random, so equal rows give equal bits.
"""

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from indexer.errors import TrainingError
from indexer.learning.activations import ActivationCache, CacheLimits
from indexer.learning.trunk import SplitTower
from indexer.photos.embed import embed_photos
from indexer.photos.files import read_picture
from indexer.photos.photo_set import Fault, PhotoSet, write_rejections
from indexer.photos.read import ReadOptions, read_photos
from indexer.photos.splits import SplitPlan, split
from indexer.progress import OnProgress, Progress, counter
from indexer.threads import ahead
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.pictures.limits import PhotoLimits

__all__ = ["EncoderFeatures", "Features", "PhotoData", "SplitData", "TableFeatures", "TailFeatures", "features_of"]

Rows = NDArray[np.int64]
_LIMITS = PhotoLimits()
_EVALUATION_BATCH = 256


class Features(Protocol):
    """Features of rows of a photo set: (n,) to (n, f) float32 unit rows on the encoder's device."""

    def __call__(self, rows: Rows) -> Tensor: ...


@dataclass(frozen=True)
class SplitData:
    """The photos of one split."""

    rows: Rows
    """(n,) rows of the whole photo set."""
    lat_lng: Tensor
    """(n, 2) float64 latitude and longitude in degrees."""
    features: Tensor
    """(n, f) float32 embeddings by the encoder before training."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class PhotoData:
    """Readable photos with their splits, and their embeddings by the encoder before training, (n, f) float32."""

    photos: PhotoSet
    embeddings: NDArray[np.float32]

    @classmethod
    def read(
        cls,
        table: Path,
        read: ReadOptions,
        plan: SplitPlan,
        encoder: PhotoEncoder,
        cache: Path,
        on_progress: OnProgress,
    ) -> "PhotoData":
        """Read and embed all photos; split them by `plan` unless the table has splits.

        The one pass over all pictures finds unreadable ones and near-duplicates, which the split keeps together. Raises
        PhotoSetError if no photo can be used.
        """
        embedded = embed_photos(
            read_photos(table, read),
            encoder,
            cache=cache / "photos",
            on_progress=counter(on_progress, "photos", "Embedding photos"),
        )
        photos = embedded.photos.check_not_empty()
        if photos.split is None:
            photos = split(photos, embedded.hashes, plan)
        for reason, count in photos.summary().items():
            on_progress(Progress("note", f"{count:,} photos not used: {reason}"))
        return cls(photos, embedded.embeddings)

    def split_data(self, name: str, device: torch.device) -> SplitData:
        """The split `train`, `validation` or `test`; raises PhotoSetError if it has no photo."""
        self.photos.only(name)
        rows = np.flatnonzero(np.array(self.photos.split, dtype=object) == name).astype(np.int64)
        places = np.stack([self.photos.lat[rows], self.photos.lng[rows]], axis=1)
        features = torch.from_numpy(self.embeddings[rows]).to(device)
        return SplitData(rows, torch.from_numpy(places).to(device), features)

    def counts(self) -> dict[str, int]:
        """The number of photos in each split."""
        return dict(Counter(self.photos.split or ()))

    def write(self, out: Path) -> None:
        """Write photos.csv with the splits, for calibration and evaluation, and rejected.csv."""
        self.photos.write(out / "photos.csv")
        write_rejections(out / "rejected.csv", self.photos.rejected)


class TableFeatures:
    """Features from a table of embeddings, (n, f) float32: the encoder is frozen."""

    def __init__(self, embeddings: NDArray[np.float32], device: torch.device) -> None:
        self._table = torch.from_numpy(embeddings).to(device)

    def __call__(self, rows: Rows) -> Tensor:
        return self._table[torch.from_numpy(rows).to(self._table.device)]


class EncoderFeatures:
    """Features from pictures through `tower`, the module whose weights learn.

    The tower stays in evaluation mode: batch norms keep their running means and there is no dropout, so the features of
    a photo do not depend on the other photos of its step.
    """

    def __init__(self, photos: PhotoSet, encoder: PhotoEncoder, tower: nn.Module) -> None:
        self._photos, self._encoder, self.tower = photos, encoder, tower
        self._pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode")

    def __call__(self, rows: Rows) -> Tensor:
        pixels = np.stack(list(self.pixels(rows)))
        output: Any = self.tower(torch.from_numpy(pixels).to(self._encoder.device))
        # Some towers of open_clip return a tuple: the pooled features first.
        return functional.normalize((output[0] if isinstance(output, tuple) else output).float(), dim=-1)

    def close(self) -> None:
        """Stop the decoding threads."""
        self._pool.shutdown(cancel_futures=True)

    def pixels(self, rows: Rows) -> Iterator[NDArray[np.float32]]:
        """Prepared pictures in order, (3, s, s) each. Raises TrainingError if one has become unreadable."""
        return ahead(self._pool, partial(_prepare, self._photos, self._encoder), rows.tolist(), len(rows))


class TailFeatures:
    """Features through the last blocks of a ViT, which learn, from cached activations of the frozen blocks below.

    `tower` is the tail. Create it with `open`.
    """

    def __init__(self, pictures: EncoderFeatures, split_tower: SplitTower, cache: ActivationCache) -> None:
        self._pictures, self._split_tower, self._cache = pictures, split_tower, cache
        self.tower: nn.Module = split_tower.tail()

    @classmethod
    @contextmanager
    def open(
        cls, photos: PhotoSet, encoder: PhotoEncoder, blocks: int, folder: Path, on_progress: OnProgress
    ) -> Iterator["TailFeatures"]:
        """Compute the activations of all photos into `folder`, or find them there, then use them.

        Raises TrainingError if the encoder's tower is not an open_clip ViT.
        """
        split_tower = SplitTower(encoder.tower, blocks)
        key = f"{encoder.fingerprint} {blocks} {encoder.device.type} {photos.digest()}"
        pictures = EncoderFeatures(photos, encoder, encoder.tower)
        limits = CacheLimits()
        on_rows = counter(on_progress, "activations", "Frozen layers")
        try:
            with ActivationCache.open(folder, key, len(photos), split_tower.token_shape, limits) as cache:
                features = cls(pictures, split_tower, cache)
                cache.fill(features._compute, batch=8 * split_tower.batch, on_progress=on_rows)
                yield features
        finally:
            pictures.close()

    def __call__(self, rows: Rows) -> Tensor:
        """Rows, (n,), to (n, f) unit rows, with a gradient for the tail."""
        device = next(self.tower.parameters()).device
        features: Tensor = self.tower(self._cache.get(rows, self._compute).to(device))
        return features

    def _compute(self, rows: Rows) -> Tensor:
        return self._split_tower.trunk_of_rows(rows, self._read)

    def _read(self, rows: Rows) -> Tensor:
        return torch.from_numpy(np.stack(list(self._pictures.pixels(rows))))


def features_of(features: Features, data: SplitData) -> Tensor:
    """Features of all photos of a split, (n, f), computed in batches and without gradient."""
    batches = [data.rows[i : i + _EVALUATION_BATCH] for i in range(0, len(data), _EVALUATION_BATCH)]
    with torch.no_grad():
        return torch.cat([features(batch) for batch in batches])


def _prepare(photos: PhotoSet, encoder: PhotoEncoder, row: int) -> NDArray[np.float32]:
    image = read_picture(photos.paths[row], _LIMITS)
    if isinstance(image, Fault):
        raise TrainingError(
            f"{photos.paths[row]} was readable before and is not now ({image.detail}): restore the file, then continue"
        )
    return encoder.prepare(image)
