"""The density of photos over tiles of any zoom, from the places of many photos, as a prior.

A Pólya tree on the Morton grid: each quarter of a tile gets a share of its mass in proportion to the quarter's photos
plus its share of one more photo, spread by area. Held-out photos of GeoCLIP's gallery are likelier under it than under
a kernel of any width (docs/priors.md). It knows no pictures: every picture gets the same belief.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.base import EncodesPhotos
from retrieval.errors import PriorError
from retrieval.files import read_npy, write_npy
from retrieval.priors.base import Belief, write_kind
from retrieval.priors.geoclip_data import gallery
from retrieval.priors.grid import GridBelief
from tile_cache.addressing import LngLat, area_shares, codes_at

__all__ = ["DEEPEST", "Density", "DensityPrior"]

DEEPEST = 20
"""Places are stored as tiles of this zoom, 40 m wide; below it, mass is spread by area."""
_GRID = 8
_PLACES = "places.npy"

Codes = NDArray[np.uint64]
Floats = NDArray[np.float64]


class Density:
    """A belief that is the same for every picture. `codes`: (n,) uint64 at zoom 20, ascending, one for each photo."""

    def __init__(self, codes: Codes, pseudo: float = 1.0) -> None:
        """`pseudo`: the number of photos added at each step from a tile to its quarters, spread by area."""
        self._codes, self._pseudo = codes, pseudo
        mass = np.ones(1)
        for zoom in range(1, _GRID + 1):
            mass = mass.repeat(4) * self.shares(np.arange(4**zoom, dtype=np.uint64), zoom)
        self.mass = mass
        """(65536,) masses of the tiles of zoom 8, in Morton order."""
        self._grid = GridBelief.of(mass, _GRID, floor=0)

    @classmethod
    def of(cls, lat: Floats, lng: Floats) -> "Density":
        """From places, (n,) degrees each. Raises TileAddressError for coordinates that are not on Earth."""
        return cls(np.sort(codes_at(lng, lat, DEEPEST)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the places and of the smoothing."""
        return hashlib.sha256(self._codes.astype("<u8").tobytes() + repr(self._pseudo).encode()).hexdigest()

    def log_mass(self, codes: Codes, zoom: int) -> NDArray[np.float32]:
        """(n,) Morton codes to (n,) logs; see `base.Belief`."""
        coarse, deepest = min(zoom, _GRID), min(zoom, DEEPEST)
        log_mass = self._grid.log_mass(codes >> np.uint64(2 * (zoom - coarse)), coarse).astype(np.float64)
        for z in range(_GRID + 1, deepest + 1):
            log_mass += np.log(self.shares(codes >> np.uint64(2 * (zoom - z)), z))
        if zoom > deepest:
            log_mass += np.log(
                area_shares(codes, zoom) / area_shares(codes >> np.uint64(2 * (zoom - deepest)), deepest)
            )
        return log_mass.astype(np.float32)

    def best(self) -> LngLat:
        """The centre of the heaviest tile of zoom 8."""
        return self._grid.best()

    def shares(self, codes: Codes, zoom: int) -> Floats:
        """Each tile's share of its parent's mass, (n,); `zoom` from 1 to 20."""
        parents = codes >> np.uint64(2)
        by_area = area_shares(codes, zoom) / area_shares(parents, zoom - 1)
        counted = self.counts(codes, zoom) + self._pseudo * by_area
        return np.asarray(counted / (self.counts(parents, zoom - 1) + self._pseudo))

    def counts(self, codes: Codes, zoom: int) -> NDArray[np.intp]:
        """The number of photos in each tile, (n,); `zoom` at most 20."""
        first, end = self.runs(codes, zoom)
        return np.asarray(end - first)

    def runs(self, codes: Codes, zoom: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """First and end positions of each tile's photos among all photos in Morton order, (n,) each."""
        shift = np.uint64(2 * (DEEPEST - zoom))
        return np.searchsorted(self._codes, codes << shift), np.searchsorted(
            self._codes, (codes + np.uint64(1)) << shift
        )


class DensityPrior:
    """The density of photos as the belief for every picture. Satisfies `base.Prior`."""

    name = "density"
    encoder: EncodesPhotos | None = None

    def __init__(self, density: Density) -> None:
        self._density = density
        self.fingerprint = density.fingerprint

    @classmethod
    def open(
        cls, directory: Path | None, *, device: str = "auto", photo: EncodesPhotos | None = None
    ) -> "DensityPrior":
        """Read the places that `write` left in the directory; without any, use GeoCLIP's gallery, if it is installed.

        Raises PriorError.
        """
        if directory is not None and os.path.lexists(directory / _PLACES):
            return cls(Density(_read(directory / _PLACES)))
        places = gallery()
        return cls(Density.of(places[:, 0], places[:, 1]))

    @staticmethod
    def write(directory: Path, lat: Floats, lng: Floats) -> None:
        """Make a directory that `open` reads, from photos' places, (n,) degrees each."""
        directory.mkdir(parents=True, exist_ok=True)
        write_npy(directory / _PLACES, np.sort(codes_at(lng, lat, DEEPEST)))
        write_kind(directory, "density")

    def beliefs(self, features: NDArray[np.float32]) -> Sequence[Belief]:
        """(n, f) features, of which only the number counts."""
        return [self._density] * len(features)


def _read(path: Path) -> Codes:
    try:
        codes: NDArray[Any] = read_npy(path, np.dtype("<u8"), inside=path.parent)
    except (OSError, ValueError) as exc:
        raise PriorError(f"{path} cannot be read as an array ({exc}): copy or make the prior again") from exc
    valid = codes.dtype == np.uint64 and codes.ndim == 1 and len(codes) > 0
    if not valid or (codes[1:] < codes[:-1]).any() or int(codes[-1]) >= 4**DEEPEST:
        raise PriorError(f"{path} must hold ascending tiles of zoom {DEEPEST}: copy or make the prior again")
    return codes
