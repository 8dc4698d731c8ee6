"""GeoCLIP (Vivanco Cepeda et al. 2023) as a prior: what it makes of a photo, as a probability over tiles of any zoom.

It was trained by contrast with photos drawn as its gallery is, so that exp(logit) is how much likelier a place is than
photos are there at all: p(place | photo) is proportional to the density of photos times exp(logit). The density is a
Pólya tree over the gallery (`density`), or area. Knows no index.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import PriorError
from retrieval.files import cache_folder, read_json
from retrieval.priors.density import DEEPEST, Density
from retrieval.priors.geoclip_package import gallery
from retrieval.priors.geoclip_tables import EncodesPlaces, QuarterTable, kept, tile_embeddings
from retrieval.priors.grid import GridBelief
from retrieval.priors.registry import PRIOR_NAME, write_kind
from tile_cache.addressing import LngLat, area_shares, children_of_codes, codes_at

if TYPE_CHECKING:
    from retrieval.encoders.open_clip import EncodesPhotos

__all__ = ["GeoclipBelief", "GeoclipPrior", "GeoclipSettings", "tables_folder"]

CLIP_VARIABLE = "TILEBEAM_CLIP"
_AT_ONCE = 16
_RANKED = 8
"""Places near the top whose order fp16 may have changed: it does for one photo in 50."""

Codes = NDArray[np.uint64]
Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class GeoclipSettings:
    """How similarities become a probability. Raises PriorError for what is out of range."""

    weighting: Literal["gallery", "area"] = "gallery"
    """What a logit is weighed by: how many photos are taken there, or area."""
    temperature: float = 1.0
    """Logits are divided by it; 1 is GeoCLIP's own scale."""
    base_zoom: int = 8
    """The zoom whose tiles are all reckoned for every photo, 1 to 8."""
    finest_zoom: int = 14
    """The deepest zoom at which the location encoder is asked; beneath, only the density counts."""

    def __post_init__(self) -> None:
        if self.weighting not in ("gallery", "area"):
            raise PriorError(f"GeoCLIP's weighting is {self.weighting!r}; there are gallery and area")
        if not 0 < self.temperature < 1e6:
            raise PriorError(f"GeoCLIP's temperature is {self.temperature!r}, a number above 0 is expected")
        if not 1 <= self.base_zoom <= 8 or not self.base_zoom <= self.finest_zoom <= DEEPEST:
            raise PriorError(
                f"GeoCLIP's zooms are {self.base_zoom} and {self.finest_zoom}: 1 to 8, then up to {DEEPEST}"
            )


class GeoclipPrior:
    """Satisfies `interface.Prior`; safe to share between threads. Takes some 0.4 GB beside the encoders."""

    name = "geoclip"

    def __init__(
        self,
        places: EncodesPlaces,
        encoder: "EncodesPhotos",
        gallery: NDArray[np.float64],
        settings: GeoclipSettings | None = None,
        folders: Sequence[Path] = (),
    ) -> None:
        """`gallery`: (g, 2) degrees, latitude and longitude; `folders`: where tables are kept, made for the last."""
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
        self._of_gallery = kept(
            folders, f"gallery-{own[:16]}", len(codes), places.dim, lambda: places.encode(*self.gallery.T)
        )
        self._of_tiles = kept(
            folders,
            f"zoom{zoom:02d}-{places.fingerprint[:16]}",
            len(tiles),
            places.dim,
            lambda: tile_embeddings(places, tiles, zoom),
        )
        self._homes = (codes[order] >> np.uint64(2 * (DEEPEST - zoom))).astype(np.int64)
        self._photos = np.bincount(self._homes, minlength=len(tiles))
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
        photo: "EncodesPhotos | None" = None,
        environ: Mapping[str, str] = os.environ,
    ) -> "GeoclipPrior":
        """With the installed package's weights and gallery, and settings and tables from the directory, if it has any.

        CLIP comes from the hub, or from the folder that TILEBEAM_CLIP names; tables that the directory lacks are kept
        in the user's cache. Raises PriorError and EncoderError.
        """
        from retrieval.priors.geoclip_location import LocationEncoder
        from retrieval.priors.geoclip_photos import CLIP, GeoclipPhotos

        settings, places = _settings(directory), gallery()
        encoder = GeoclipPhotos.load(environ.get(CLIP_VARIABLE) or CLIP, device)
        folders = [*([directory] if directory else []), tables_folder()]
        return cls(LocationEncoder.load(device), encoder, places, settings, folders)

    @staticmethod
    def write(directory: Path, settings: GeoclipSettings) -> None:
        """Make a directory that `open` reads. Tables that are put beside are read from there."""
        directory.mkdir(parents=True, exist_ok=True)
        write_kind(directory, "geoclip", {"settings": asdict(settings)})

    def beliefs(self, features: Vectors) -> Sequence["GeoclipBelief"]:
        """Image features by its own encoder, (n, d) unit rows, to one belief a photo."""
        found = []
        for start in range(0, len(features), _AT_ONCE):
            part = features[start : start + _AT_ONCE]
            of_gallery, of_tiles = (self._logits(table, part) for table in (self._of_gallery, self._of_tiles))
            found += [self._belief(*each) for each in zip(part, of_gallery, of_tiles, strict=True)]
        return found

    def answers(self, features: Vectors) -> Floats:
        """GeoCLIP's own answers, as the package's `predict`: (n, 3), latitude, longitude, softmax over the gallery."""
        found = np.empty((len(features), 3))
        for i, row in enumerate(features):
            logits = np.multiply(self._of_gallery @ row, self.scale, dtype=np.float64)
            place = self._most_similar(row, logits)
            found[i] = *self.gallery[place], 1 / np.exp(logits - logits[place]).sum()
        return found

    def _most_similar(self, feature: Vectors, logits: NDArray[np.floating[Any]]) -> int:
        """The gallery's place of highest similarity: of those that rounded tables find so, encoded again."""
        few = np.argpartition(logits, -min(_RANKED, len(logits)))[-_RANKED:]
        return int(few[(self._places.encode(*self.gallery[few].T) @ feature).argmax()])

    def _logits(self, table: Vectors, features: Vectors) -> Vectors:
        return np.asarray((features @ table.T) * np.float32(self.scale / self.settings.temperature))

    def _belief(self, feature: Vectors, of_gallery: Vectors, of_tiles: Vectors) -> "GeoclipBelief":
        top = float(max(of_gallery.max(), of_tiles.max()))
        gains, centres = (np.exp(logits.astype(np.float64) - top) for logits in (of_gallery, of_tiles))
        mean = centres
        if self.settings.weighting == "gallery":
            mean = (np.bincount(self._homes, gains, len(centres)) + centres) / (self._photos + 1)
        lat, lng = self.gallery[self._most_similar(feature, of_gallery)]
        # What lies so far behind that it underflows still has a place: the belief's floor.
        grid = GridBelief.of(self._weights * mean, self.settings.base_zoom, best=LngLat(float(lng), float(lat)))
        return GeoclipBelief(self, feature, grid, of_gallery)


class GeoclipBelief:
    """One photo's. Down to the base zoom a sum over its tiles; deeper, a tile's mass is divided among its quarters.

    A quarter's part is its density times the mean of exp(logit) over the gallery's places in it and its own centre.
    """

    def __init__(self, prior: GeoclipPrior, feature: Vectors, grid: GridBelief, logits: Vectors) -> None:
        """`feature`: (d,) of the photo; `grid`: the base zoom's masses; `logits`: (g,) of the gallery's places."""
        self._prior, self._feature, self._grid, self._logits = prior, feature, grid, logits

    def log_mass(self, codes: Codes, zoom: int) -> NDArray[np.float32]:
        """(n,) codes to (n,) logs; see `interface.Belief`."""
        base = min(zoom, self._prior.settings.base_zoom)
        found = self._grid.log_mass(codes >> np.uint64(2 * (zoom - base)), base).astype(np.float64)
        for z in range(base + 1, min(zoom, DEEPEST) + 1):
            found += self._log_shares(codes >> np.uint64(2 * (zoom - z)), z)
        if zoom > DEEPEST:
            found += np.log(area_shares(codes, zoom) / area_shares(codes >> np.uint64(2 * (zoom - DEEPEST)), DEEPEST))
        return found.astype(np.float32)

    def best(self) -> LngLat:
        """GeoCLIP's own answer: the gallery's place of highest similarity."""
        return self._grid.best()

    def _log_shares(self, codes: Codes, zoom: int) -> Floats:
        """Of each tile the log of its part of its parent's mass, (n,)."""
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
        """Means of exp(logit) in quarters, (4 n,), each four up to a factor of their own, as only they are compared."""
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
        given: dict[str, Any] = read_json(path).get("settings", {})
        return GeoclipSettings(**given)
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise PriorError(f"{path} holds no settings of GeoCLIP ({exc}): make it again") from exc


def tables_folder() -> Path:
    """The folder for tables that are in no prior's directory: in the user's cache."""
    return cache_folder() / "geoclip"
