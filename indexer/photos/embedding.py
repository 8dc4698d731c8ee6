"""Photos to embeddings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.photos.known import KnownPictures
from indexer.photos.photo_set import PhotoSet
from indexer.retrieval.photo import PhotoLimits

if TYPE_CHECKING:
    from indexer.retrieval.encoders import EncodesPhotos

__all__ = ["Embedded", "embed_photos"]


@dataclass(frozen=True)
class Embedded:
    """Photos that could be read, their embeddings and hashes."""

    photos: PhotoSet
    embeddings: NDArray[np.float32]
    hashes: NDArray[np.uint64]

    def known(self) -> KnownPictures:
        """What calibration and evaluation take."""
        return KnownPictures(self.embeddings, self.photos.lng, self.photos.lat)

    def take(self, rows: NDArray[np.intp]) -> "Embedded":
        """Some of them, in the given order."""
        return Embedded(self.photos.take(rows), self.embeddings[rows], self.hashes[rows])


def embed_photos(
    photos: PhotoSet,
    encoder: "EncodesPhotos",
    *,
    cache: Path | None = None,
    limits: PhotoLimits = PhotoLimits(),
    on_progress: Callable[[int, int], None] | None = None,
) -> Embedded:
    """Decode and embed."""
    raise NotImplementedError
