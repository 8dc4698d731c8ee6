"""Embedded pictures whose places are known: what calibration fits to and evaluation measures on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tile_cache.addressing import codes_at


@dataclass(frozen=True)
class KnownPictures:
    """Embedded pictures, (n, d) float32 unit rows, and where they were taken, (n,) float64 degrees; nan: nowhere."""

    embeddings: NDArray[np.float32]
    lng: NDArray[np.float64]
    lat: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.lng)

    def codes(self, zoom: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Codes of the tiles that hold them, (n,) uint64, and which of them are somewhere, (n,) bool."""
        somewhere = np.isfinite(self.lng) & np.isfinite(self.lat)
        codes = codes_at(np.where(somewhere, self.lng, 0.0), np.where(somewhere, self.lat, 0.0), zoom)
        return codes, somewhere

    def take(self, which: NDArray[np.intp]) -> "KnownPictures":
        """Some of them, in the given order."""
        return KnownPictures(self.embeddings[which], self.lng[which], self.lat[which])


def joined(parts: Sequence[KnownPictures]) -> KnownPictures:
    """Several sets as one, in order."""
    return KnownPictures(
        np.concatenate([p.embeddings for p in parts]),
        np.concatenate([p.lng for p in parts]),
        np.concatenate([p.lat for p in parts]),
    )
