"""A confident but uninformative prior, used as a negative control: calibration must give it weight 0.

For each picture it believes in one place, drawn from the hash of the picture's features, as firmly as a real prior
believes in the right one. Places and the remaining mass are even over tiles, not over the sphere: even over the sphere
would tell that tiles near the poles are small, and that would help where photos are even over land.
"""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.base import EncodesPhotos
from retrieval.priors.base import Belief
from retrieval.priors.grid import GridBelief
from retrieval.priors.registry import Kind
from retrieval.sphere import unit_vectors
from tile_cache.addressing import LngLat, centres_of_codes

__all__ = ["NOISE", "NOISE_KIND", "NoisePrior"]

NOISE = "noise"
_ZOOM = 6
_WIDTH = 0.08
"""Width of the bump around the drawn place, in radians: 500 km."""
_FLOOR = 1e-3
"""Mass of every other tile, where the bump's highest has 1."""


class NoisePrior:
    """Beliefs in random places; equal features give equal beliefs. Satisfies `retrieval.priors.base.Prior`."""

    name = NOISE
    encoder: EncodesPhotos | None = None

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.fingerprint = hashlib.sha256(
            f"noise {seed} {_ZOOM} {_WIDTH} {_FLOOR} even over tiles".encode()
        ).hexdigest()

    @classmethod
    def open(cls, directory: Path | None, *, device: str = "auto", photo: EncodesPhotos | None = None) -> "NoisePrior":
        """The prior with seed 0; nothing is read."""
        return cls()

    def beliefs(self, features: NDArray[np.float32]) -> Sequence[Belief]:
        """(n, f) features, of which only the bytes count, to one belief for each picture."""
        return [self._belief(row.tobytes()) for row in np.ascontiguousarray(features, dtype=np.float32)]

    def _belief(self, row: bytes) -> Belief:
        digest = hashlib.blake2b(row, digest_size=8, key=str(self.seed).encode()).digest()
        lng, lat, vectors = _tiles()
        tile = int(np.random.default_rng(int.from_bytes(digest)).integers(len(lng)))
        mass = np.exp((vectors @ vectors[tile] - 1) / _WIDTH**2) + _FLOOR
        return GridBelief.of(mass, _ZOOM, floor=0.0, best=LngLat(float(lng[tile]), float(lat[tile])))


@cache
def _tiles() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centres of all tiles: longitudes and latitudes in degrees, (n,), and unit vectors, (n, 3)."""
    lng, lat = centres_of_codes(np.arange(4**_ZOOM, dtype=np.uint64), _ZOOM)
    return lng, lat, unit_vectors(lng, lat)


NOISE_KIND = Kind(NoisePrior.open, needs_files=False)
"""For `retrieval.priors.registry.KINDS`, where a benchmark or a test installs this prior like any other."""
