"""A prior that knows nothing and does not say so: the control that fusing must not be harmed by.

For each picture it is sure of some place, drawn by the picture's features, as a real prior would be of the right one.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexer.retrieval.priors.grid import GridBelief, areas
from indexer.retrieval.priors.interface import Belief
from tile_cache.addressing import LngLat, centres_of_codes

if TYPE_CHECKING:
    from indexer.retrieval.encoders import EncodesPhotos

__all__ = ["NoisePrior"]

_ZOOM = 6
_SPREAD = 0.08
"""Of the bump, in radians: 500 km."""


class NoisePrior:
    """Beliefs about places at random, even over the sphere; equal features give equal ones."""

    name = "noise"
    encoder: "EncodesPhotos | None" = None

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.fingerprint = hashlib.sha256(f"noise {seed} {_ZOOM} {_SPREAD}".encode()).hexdigest()

    @classmethod
    def open(
        cls, directory: Path | None, *, device: str = "auto", photo: "EncodesPhotos | None" = None
    ) -> "NoisePrior":
        """There is nothing to read."""
        return cls()

    def beliefs(self, features: NDArray[np.float32]) -> Sequence[Belief]:
        """(n, f) features, of which only the bytes count."""
        return [self._belief(row.tobytes()) for row in np.ascontiguousarray(features, dtype=np.float32)]

    def _belief(self, said: bytes) -> Belief:
        digest = hashlib.blake2b(said, digest_size=8, key=str(self.seed).encode()).digest()
        vector = np.random.default_rng(int.from_bytes(digest)).standard_normal(3)
        vector /= np.linalg.norm(vector)
        centres, area = _tiles()
        bump = np.exp((centres @ vector - 1) / _SPREAD**2) * area + 1e-3 * area
        lng, lat = np.degrees(np.arctan2(vector[1], vector[0])), np.degrees(np.arcsin(vector[2]))
        return GridBelief.of(bump, _ZOOM, best=LngLat(float(lng), float(lat)))


@cache
def _tiles() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    codes = np.arange(4**_ZOOM, dtype=np.uint64)
    lng, lat = (np.radians(v) for v in centres_of_codes(codes, _ZOOM))
    return np.stack([np.cos(lat) * np.cos(lng), np.cos(lat) * np.sin(lng), np.sin(lat)], axis=1), areas(codes, _ZOOM)
