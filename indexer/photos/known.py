"""Embedded pictures whose places are known: what calibration fits to and evaluation measures on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from retrieval.priors.base import Belief, Prior
from tile_cache.addressing import codes_at

_BELIEFS_AT_ONCE = 16  # up to a megabyte each


@dataclass(frozen=True)
class KnownPictures:
    """Embedded pictures, (n, d) float32 unit rows, and where they were taken, (n,) float64 degrees; nan: nowhere.

    `prior` believes something of each by its `features`, (n, f) float32, where pictures are looked at under a prior.
    """

    embeddings: NDArray[np.float32]
    lng: NDArray[np.float64]
    lat: NDArray[np.float64]
    prior: Prior | None = None
    features: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if not len(self.embeddings) == len(self.lng) == len(self.lat):
            raise ValueError(f"{len(self.embeddings)} embeddings of {len(self.lng)} pictures")

    def __len__(self) -> int:
        return len(self.lng)

    def codes(self, zoom: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Codes of the tiles that hold them, (n,) uint64, and which of them are somewhere, (n,) bool."""
        somewhere = np.isfinite(self.lng) & np.isfinite(self.lat)
        codes = codes_at(np.where(somewhere, self.lng, 0.0), np.where(somewhere, self.lat, 0.0), zoom)
        return codes, somewhere

    def take(self, which: NDArray[np.intp]) -> "KnownPictures":
        """Some of them, in the given order."""
        features = None if self.features is None else self.features[which]
        return KnownPictures(self.embeddings[which], self.lng[which], self.lat[which], self.prior, features)

    def under(self, prior: Prior | None, features: NDArray[np.float32] | None = None) -> "KnownPictures":
        """The same under a prior; `features`, (n, f): of its own encoder, None: the embeddings."""
        return replace(self, prior=prior, features=self.embeddings if features is None else features)

    def beliefs(self, at_once: int = _BELIEFS_AT_ONCE) -> Iterator[Belief | None]:
        """What the prior believes of each, some at a time; None where there is no prior."""
        for start in range(0, len(self), at_once):
            if self.prior is None or self.features is None:
                yield from [None] * min(at_once, len(self) - start)
            else:
                yield from self.prior.beliefs(self.features[start : start + at_once])


def joined(parts: Sequence[KnownPictures]) -> KnownPictures:
    """Several sets as one, in order, under no prior."""
    return KnownPictures(
        np.concatenate([p.embeddings for p in parts]),
        np.concatenate([p.lng for p in parts]),
        np.concatenate([p.lat for p in parts]),
    )
