"""A prior that knows nothing and does not say so: the control that fusing must not be harmed by.

For each picture it is sure of some place, drawn by the picture's features, as a real prior would be of the right one.
Places and what is left are even over tiles, not over the sphere: that tiles near the poles are small is knowledge, and
where photos are even over land, worth something.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.priors.base import Belief
from retrieval.priors.grid import GridBelief
from retrieval.sphere import unit_vectors
from tile_cache.addressing import LngLat, centres_of_codes

if TYPE_CHECKING:
    from retrieval.encoders.open_clip import EncodesPhotos

__all__ = ["NoisePrior"]

_ZOOM = 6
_SPREAD = 0.08
"""Of the bump, in radians: 500 km."""
_REST = 1e-3
"""What every tile has besides, where the bump's highest has 1."""


class NoisePrior:
    """Beliefs about places at random; equal features give equal ones."""

    name = "noise"
    encoder: "EncodesPhotos | None" = None

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.fingerprint = hashlib.sha256(
            f"noise {seed} {_ZOOM} {_SPREAD} {_REST} even over tiles".encode()
        ).hexdigest()

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
        lng, lat, vectors = _tiles()
        at = int(np.random.default_rng(int.from_bytes(digest)).integers(len(lng)))
        mass = np.exp((vectors @ vectors[at] - 1) / _SPREAD**2) + _REST
        return GridBelief.of(mass, _ZOOM, floor=0.0, best=LngLat(float(lng[at]), float(lat[at])))


@cache
def _tiles() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centres of all tiles: degrees, and unit vectors, (n, 3)."""
    lng, lat = centres_of_codes(np.arange(4**_ZOOM, dtype=np.uint64), _ZOOM)
    return lng, lat, unit_vectors(lng, lat)
