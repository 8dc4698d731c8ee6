"""GeoCLIP (Vivanco Cepeda et al. 2023) as a prior: a photo's similarity to places, as a probability over tiles.

It was trained by contrast with photos that were drawn as its gallery was. So exp(logit) is a likelihood ratio, and
p(place | photo) is proportional to the density of photos times exp(logit). The density is a Pólya tree over the gallery
(`density`), or area. See docs/priors.md. It knows no index.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.base import EncodesPhotos
from retrieval.errors import PriorError
from retrieval.files import read_json
from retrieval.priors.base import PRIOR_NAME, write_kind
from retrieval.priors.density import DEEPEST, Density
from retrieval.priors.geoclip_data import (
    EncodesPlaces,
    QuarterTable,
    cached_vectors,
    gallery,
    tables_folder,
    tile_embeddings,
)
from retrieval.priors.grid import GridBelief
from tile_cache.addressing import LngLat, area_shares, children_of_codes, codes_at

__all__ = ["GeoclipBelief", "GeoclipPrior", "GeoclipSettings"]

CLIP_VARIABLE = "TILEBEAM_CLIP"
_PHOTOS_AT_ONCE = 16
_RANKED = 8
"""Places of highest similarity that are encoded again: for one photo in 50, rounding to fp16 changes their order."""

Codes = NDArray[np.uint64]
Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class GeoclipSettings:
    """How similarities become a probability. Raises PriorError for a value out of range."""

    weighting: Literal["gallery", "area"] = "gallery"
    """What a place's exp(logit) is multiplied by: `gallery`, the density of photos, or `area`."""
    temperature: float = 1.0
    """The logits' divisor; 1 is GeoCLIP's own scale."""
    base_zoom: int = 8
    """The zoom at which the masses of all tiles are computed for every photo, 1 to 8."""
    finest_zoom: int = 14
    """The deepest zoom at which GeoCLIP encodes tiles; below it only the density counts."""

    def __post_init__(self) -> None:
        if self.weighting not in ("gallery", "area"):
            raise PriorError(f"unknown GeoCLIP weighting {self.weighting!r}: use gallery or area")
        if not 0 < self.temperature < 1e6:
            raise PriorError(f"GeoCLIP's temperature is {self.temperature!r}: give a number above 0")
        if not 1 <= self.base_zoom <= 8 or not self.base_zoom <= self.finest_zoom <= DEEPEST:
            raise PriorError(
                f"GeoCLIP's base zoom is {self.base_zoom} and its finest {self.finest_zoom}: "
                f"give a base zoom from 1 to 8 and a finest zoom from there to {DEEPEST}"
            )


class GeoclipPrior:
    """Satisfies `base.Prior`; threads may share it. Takes some 0.4 GB of memory besides the encoders."""

    name = "geoclip"

    def __init__(
        self,
        places: EncodesPlaces,
        encoder: EncodesPhotos,
        gallery: NDArray[np.float64],
        settings: GeoclipSettings | None = None,
        folders: Sequence[Path] = (),
    ) -> None:
        """`gallery`: (g, 2) degrees, latitude and longitude; `folders`: see `geoclip_data.cached_vectors`."""
        settings = settings or GeoclipSettings()
        self.encoder, self.settings = encoder, settings
        codes = codes_at(gallery[:, 1], gallery[:, 0], DEEPEST)
        order = np.argsort(codes, kind="stable")
        self.gallery = gallery[order]
        self.density = Density(codes[order])
        self.scale = places.logit_scale
        self.quarters, self._places = QuarterTable(places), places
        own = hashlib.sha256(f"{places.fingerprint} {self.density.fingerprint}".encode()).hexdigest()
        facts = json.dumps([encoder.fingerprint, own, asdict(settings)])
        self.fingerprint = hashlib.sha256(facts.encode()).hexdigest()
        zoom, tiles = settings.base_zoom, np.arange(4**settings.base_zoom, dtype=np.uint64)
        self._gallery_vectors = cached_vectors(
            folders, f"gallery-{own[:16]}", len(codes), places.dim, lambda: places.encode(*self.gallery.T)
        )
        self._tile_vectors = cached_vectors(
            folders,
            f"zoom{zoom:02d}-{places.fingerprint[:16]}",
            len(tiles),
            places.dim,
            lambda: tile_embeddings(places, tiles, zoom),
        )
        self._base_tiles = (codes[order] >> np.uint64(2 * (DEEPEST - zoom))).astype(np.int64)
        self._photo_counts = np.bincount(self._base_tiles, minlength=len(tiles))
        by_area = settings.weighting == "area"
        self._weights = (
            area_shares(tiles, zoom) if by_area else np.exp(self.density.log_mass(tiles, zoom).astype(np.float64))
        )

    @classmethod
    def open(
        cls,
        directory: Path | None,
        *,
        device: str = "auto",
        photo: EncodesPhotos | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> "GeoclipPrior":
        """Open with the installed package's weights and gallery, and with settings and tables from the directory.

        CLIP is loaded from the hub, or from the folder that TILEBEAM_CLIP names. Tables that the directory lacks are
        kept in the user's cache. Raises PriorError and EncoderError.
        """
        # torch is imported here, so that importing the registry does not need it.
        from retrieval.priors.geoclip_models import CLIP, GeoclipPhotos, LocationEncoder

        settings, places = _settings(directory), gallery()
        encoder = GeoclipPhotos.load(environ.get(CLIP_VARIABLE) or CLIP, device)
        folders = [*([directory] if directory else []), tables_folder()]
        return cls(LocationEncoder.load(device), encoder, places, settings, folders)

    @staticmethod
    def write(directory: Path, settings: GeoclipSettings) -> None:
        """Make a directory that `open` reads. Tables copied into it are read from there."""
        directory.mkdir(parents=True, exist_ok=True)
        write_kind(directory, "geoclip", {"settings": asdict(settings)})

    def beliefs(self, features: Vectors) -> Sequence["GeoclipBelief"]:
        """Features by the prior's own encoder, (n, d) unit rows, to one belief for each photo."""
        beliefs = []
        for start in range(0, len(features), _PHOTOS_AT_ONCE):
            block = features[start : start + _PHOTOS_AT_ONCE]
            tables = (self._gallery_vectors, self._tile_vectors)
            beliefs += [
                self._belief(*row) for row in zip(block, *(self._logits(t, block) for t in tables), strict=True)
            ]
        return beliefs

    def answers(self, features: Vectors) -> Floats:
        """GeoCLIP's own answers, as the package's `predict`: (n, 3), latitude, longitude, softmax over the gallery."""
        answers = np.empty((len(features), 3))
        for i, row in enumerate(features):
            logits = np.multiply(self._gallery_vectors @ row, self.scale, dtype=np.float64)
            place = self._most_similar(row, logits)
            answers[i] = *self.gallery[place], 1 / np.exp(logits - logits[place]).sum()
        return answers

    def _most_similar(self, feature: Vectors, logits: NDArray[np.floating[Any]]) -> int:
        """The gallery's place of highest similarity. The best few are encoded again, as the tables are rounded."""
        best = np.argpartition(logits, -min(_RANKED, len(logits)))[-_RANKED:]
        return int(best[(self._places.encode(*self.gallery[best].T) @ feature).argmax()])

    def _logits(self, table: Vectors, features: Vectors) -> Vectors:
        return np.asarray((features @ table.T) * np.float32(self.scale / self.settings.temperature))

    def _belief(self, feature: Vectors, gallery_logits: Vectors, tile_logits: Vectors) -> "GeoclipBelief":
        top = float(max(gallery_logits.max(), tile_logits.max()))
        gains, centres = (np.exp(logits.astype(np.float64) - top) for logits in (gallery_logits, tile_logits))
        mean = centres
        if self.settings.weighting == "gallery":
            mean = (np.bincount(self._base_tiles, gains, len(centres)) + centres) / (self._photo_counts + 1)
        lat, lng = self.gallery[self._most_similar(feature, gallery_logits)]
        # Masses that underflow to 0 get the belief's floor.
        grid = GridBelief.of(self._weights * mean, self.settings.base_zoom, best=LngLat(float(lng), float(lat)))
        return GeoclipBelief(self, feature, grid, gallery_logits)


class GeoclipBelief:
    """One photo's belief. Down to the base zoom, masses are sums over that zoom's tiles.

    Below, a tile's mass is divided among its quarters in proportion to their density times the mean of exp(logit) over
    the gallery's places in the quarter and the quarter's centre.
    """

    def __init__(self, prior: GeoclipPrior, feature: Vectors, grid: GridBelief, logits: Vectors) -> None:
        """`feature`: (d,) of the photo; `grid`: the base zoom's masses; `logits`: (g,) of the gallery's places."""
        self._prior, self._feature, self._grid, self._logits = prior, feature, grid, logits

    def log_mass(self, codes: Codes, zoom: int) -> NDArray[np.float32]:
        """(n,) Morton codes to (n,) logs; see `base.Belief`."""
        base = min(zoom, self._prior.settings.base_zoom)
        log_mass = self._grid.log_mass(codes >> np.uint64(2 * (zoom - base)), base).astype(np.float64)
        for z in range(base + 1, min(zoom, DEEPEST) + 1):
            log_mass += self._log_shares(codes >> np.uint64(2 * (zoom - z)), z)
        if zoom > DEEPEST:
            log_mass += np.log(
                area_shares(codes, zoom) / area_shares(codes >> np.uint64(2 * (zoom - DEEPEST)), DEEPEST)
            )
        return log_mass.astype(np.float32)

    def best(self) -> LngLat:
        """GeoCLIP's own answer: the gallery's place of highest similarity."""
        return self._grid.best()

    def _log_shares(self, codes: Codes, zoom: int) -> Floats:
        """The log of each tile's share of its parent's mass, (n,)."""
        parents, which = np.unique(codes >> np.uint64(2), return_inverse=True)
        quarters = children_of_codes(parents, 1)
        gallery = self._prior.settings.weighting == "gallery"
        weights = self._prior.density.shares(quarters, zoom) if gallery else area_shares(quarters, zoom)
        if zoom <= self._prior.settings.finest_zoom:
            weights = weights * self._means(parents, quarters, zoom)
        weights = weights.reshape(-1, 4)
        with np.errstate(divide="ignore"):
            shares = np.log(weights / weights.sum(axis=1, keepdims=True))
        return np.asarray(shares[which, (codes & np.uint64(3)).astype(np.intp)])

    def _means(self, parents: Codes, quarters: Codes, zoom: int) -> Floats:
        """Means of exp(logit) in quarters, (4 n,). Each four have their own scale, as only they are compared."""
        prior = self._prior
        vectors = prior.quarters.quarters(parents, zoom - 1)
        centres = (vectors @ self._feature).astype(np.float64) * (prior.scale / prior.settings.temperature)
        top = centres.max(axis=1)
        if prior.settings.weighting == "area":
            return np.asarray(np.exp(centres - top[:, None]).reshape(-1))
        first, end = prior.density.runs(quarters, zoom)
        owners = np.arange(len(quarters)).repeat(end - first)
        logits = self._logits[np.arange(len(owners)) + (end - np.cumsum(end - first))[owners]].astype(np.float64)
        np.maximum.at(top, owners // 4, logits)
        sums = np.bincount(owners, np.exp(logits - top[owners // 4]), len(quarters))
        return np.asarray((sums + np.exp(centres - top[:, None]).reshape(-1)) / (end - first + 1))


def _settings(directory: Path | None) -> GeoclipSettings:
    path = None if directory is None else directory / PRIOR_NAME
    if path is None or not path.exists():
        return GeoclipSettings()
    try:
        settings: dict[str, Any] = read_json(path, inside=directory).get("settings", {})
        return GeoclipSettings(**settings)
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise PriorError(
            f"{path} does not hold settings of GeoCLIP ({exc}): make it again with `tilebeam prior geoclip`"
        ) from exc
