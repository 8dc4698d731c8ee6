"""From a photo set to pairs: photos embedded and split, tiles fetched, and what cannot be used put on record.

Done once a run, by its first process; all processes, and a resumed run, read the result.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.photos.embed import embed_photos
from indexer.photos.photo_set import Fault, PhotoSet, Reason, write_rejections
from indexer.photos.splits import split
from indexer.progress import Progress
from indexer.training.pairs import Pairs
from indexer.training.pixels import TilePixels
from indexer.training.workshop import Workshop
from tile_cache.addressing import codes_at, tile_of_code

__all__ = ["PAIRS_NAME", "Preparation"]

PAIRS_NAME = "pairs.state"
_ASKED_AT_ONCE = 2048


@dataclass(frozen=True)
class Preparation:
    """The way from one run's photos to its pairs."""

    shop: Workshop

    def pairs(self, photos: PhotoSet) -> None:
        """Make the pairs unless this run has them; writes pairs.state, photos.csv and rejected.csv.

        Photos are split before those without a tile are taken out, so that the same photo is in the same split whatever
        the source. TrainingError or PhotoSetError where too little is left.
        """
        request = self.shop.request
        if (request.out / PAIRS_NAME).exists():
            return
        bar = self.shop.bar("photos", "Embedding photos")
        embedded = embed_photos(photos, self.shop.encoder, cache=request.cache_folder / "photos", on_progress=bar)
        usable = embedded.photos.check_not_empty()
        if usable.split is None:
            usable = split(usable, embedded.hashes, request.split)
        lacking = self._without_tile(usable)
        kept = usable.without(lacking)
        write_rejections(request.out / "rejected.csv", kept.rejected)
        for reason, count in kept.summary().items():
            self.shop.tell(Progress("note", f"{count:,} photos not used: {reason}"))
        kept.check_not_empty().write(request.out / "photos.csv")
        left = np.setdiff1d(np.arange(len(usable)), np.array(list(lacking), dtype=np.intp))
        names = np.array(kept.split, dtype=object)
        pairs = Pairs.of(embedded.embeddings[left], kept.lng, kept.lat, names, request.settings.zooms)
        notes = {"rejected": kept.summary(), "splits": dict(Counter(kept.split or ()))}
        pairs.save(request.out / PAIRS_NAME, notes)

    def _without_tile(self, photos: PhotoSet) -> dict[int, Fault]:
        """Photos whose tile is missing at some zoom, by position, and which tile of the deepest such zoom."""
        codes = {z: codes_at(photos.lng, photos.lat, z) for z in self.shop.request.settings.zooms}
        self.shop.sources.fetch({z: np.unique(c) for z, c in codes.items()}, self.shop.tell)
        lacking: dict[int, Fault] = {}
        for z, of_photos in codes.items():
            absent = self._absent(z, np.unique(of_photos))
            for row in np.flatnonzero(np.isin(of_photos, np.array(list(absent), dtype=np.uint64))).tolist():
                code = int(of_photos[row])
                tile = tile_of_code(code, z)
                lacking[row] = Fault(Reason.NO_TILE, f"tile {z}/{tile.x}/{tile.y}: {absent[code]}")
        return lacking

    def _absent(self, zoom: int, codes: NDArray[np.uint64]) -> dict[int, str]:
        """Those of one zoom's tiles that cannot be had, with the reason."""
        margin, bar = self.shop.request.settings.margin(zoom), self.shop.bar("tiles", f"Looking at tiles, zoom {zoom}")
        with self.shop.sources.local() as local:
            pixels = TilePixels(local.source, local.overlay, self.shop.encoder.preprocess, margin, zoom)
            for start in range(0, len(codes), _ASKED_AT_ONCE):
                pixels.has_imagery(codes[start : start + _ASKED_AT_ONCE])
                bar(min(start + _ASKED_AT_ONCE, len(codes)), len(codes))
        return pixels.reasons
