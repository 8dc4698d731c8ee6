"""A photo set made ready for learning: embedded once, split, the parts by row.

The first pass over all pictures finds those that cannot be read, tells near-duplicates for the split, and gives the
embeddings that a frozen encoder needs no second time.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.photos.embed import embed_photos
from indexer.photos.photo_set import PhotoSet, write_rejections
from indexer.photos.read import ReadOptions, read_photos
from indexer.photos.splits import SplitPlan, split
from indexer.progress import OnProgress, Progress
from retrieval.encoders.open_clip import PhotoEncoder

__all__ = ["Part", "PhotoData"]


@dataclass(frozen=True)
class Part:
    """One split: `rows` of the whole set, (n,); places (n, 2) float64 latitude, longitude; features (n, f) float32."""

    rows: NDArray[np.int64]
    lat_lng: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class PhotoData:
    """Photos that can be read, with splits, and their embeddings by the encoder as it came, (n, f) float32."""

    photos: PhotoSet
    embeddings: NDArray[np.float32]

    @classmethod
    def read(
        cls, table: Path, read: ReadOptions, plan: SplitPlan, encoder: PhotoEncoder, cache: Path, tell: OnProgress
    ) -> "PhotoData":
        """Raises PhotoSetError where nothing can be used."""
        embedded = embed_photos(
            read_photos(table, read),
            encoder,
            cache=cache / "photos",
            on_progress=lambda done, total: tell(Progress("photos", "Embedding photos", done, total)),
        )
        photos = embedded.photos.check_not_empty()
        if photos.split is None:
            photos = split(photos, embedded.hashes, plan)
        for reason, count in photos.summary().items():
            tell(Progress("note", f"{count:,} photos not used: {reason}"))
        return cls(photos, embedded.embeddings)

    def part(self, name: str, device: torch.device) -> Part:
        """One of train, validation, test; raises PhotoSetError where it has no photo."""
        self.photos.only(name)
        rows = np.flatnonzero(np.array(self.photos.split, dtype=object) == name).astype(np.int64)
        places = np.stack([self.photos.lat[rows], self.photos.lng[rows]], axis=1)
        features = torch.from_numpy(self.embeddings[rows]).to(device)
        return Part(rows, torch.from_numpy(places).to(device), features)

    def counts(self) -> dict[str, int]:
        """Photos in each split."""
        return dict(Counter(self.photos.split or ()))

    def write(self, out: Path) -> None:
        """photos.csv with the splits, for whatever measures later, and rejected.csv."""
        self.photos.write(out / "photos.csv")
        write_rejections(out / "rejected.csv", self.photos.rejected)
