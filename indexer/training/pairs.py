"""Pairs of photos and the tiles that hold them, zoom by zoom; how they are made from a photo set, and their order.

Pairs are made once a run, by its first process; all processes, and a resumed run, read the file. The batch of a step
follows from the seed, zoom, epoch and step alone. This module knows nothing of towers and losses.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.errors import TrainingError
from indexer.learning.state import load_state, save_state
from indexer.photos.embed import embed_photos
from indexer.photos.photo_set import Fault, PhotoSet, Reason, write_rejections
from indexer.photos.splits import split
from indexer.progress import OnProgress, Progress, counter
from indexer.training.settings import TrainRequest
from indexer.training.tiles import TilePixels, TileSources
from retrieval.encoders.open_clip import PhotoEncoder
from tile_cache.addressing import codes_at, tile_of_code

__all__ = ["PAIRS_NAME", "Pairs", "ZoomPairs", "make_pairs", "steps_per_epoch"]

Rows = NDArray[np.int64]
PAIRS_NAME = "pairs.state"
_PROBED_AT_ONCE = 2048


@dataclass(frozen=True)
class ZoomPairs:
    """One zoom's tiles, (t,) uint64 ascending Morton codes, and for each photo, (n,) int64, the row of its tile."""

    codes: NDArray[np.uint64]
    rows: Rows


@dataclass(frozen=True)
class Pairs:
    """What a run is trained on: photos' embeddings, (n, d) float32 unit rows, and their tiles at every zoom.

    `train`, `validation`: (a,) and (b,) int64, the photos of these splits. Photos of the test split are not included.
    """

    embeddings: Tensor
    zooms: dict[int, ZoomPairs]
    train: Rows
    validation: Rows

    @classmethod
    def of(
        cls,
        embeddings: NDArray[np.float32],
        lng: NDArray[np.float64],
        lat: NDArray[np.float64],
        split: NDArray[Any],
        zooms: tuple[int, ...],
    ) -> "Pairs":
        """From photos in one order: (n, d) embeddings, (n,) degrees, (n,) names of splits.

        Raises TrainingError if the train or the validation split is empty.
        """
        for name in ("train", "validation"):
            if not np.any(split == name):
                raise TrainingError(
                    f"none of the {len(split)} usable photos is in the {name} split: give more photos, or another "
                    "--split-ratio such as 10:1:1"
                )
        used = np.flatnonzero((split == "train") | (split == "validation"))
        train, validation = (np.flatnonzero(split[used] == name) for name in ("train", "validation"))
        tiles = {z: _tiles(lng[used], lat[used], z) for z in zooms}
        return cls(torch.from_numpy(embeddings[used]), tiles, train.astype(np.int64), validation.astype(np.int64))

    def save(self, path: Path, notes: dict[str, Any]) -> None:
        """Write everything, and `notes` (JSON values), to one safetensors file."""
        tensors = {"embeddings": self.embeddings, "train": _tensor(self.train), "validation": _tensor(self.validation)}
        for z, pairs in self.zooms.items():
            tensors |= {f"codes.{z}": _tensor(pairs.codes), f"rows.{z}": _tensor(pairs.rows)}
        save_state(path, tensors, notes)

    @classmethod
    def load(cls, path: Path) -> tuple["Pairs", dict[str, Any]]:
        """Read what `save` wrote. Raises TrainingError if the file is truncated or of another kind."""
        tensors, notes = load_state(path)
        try:
            zooms = {
                int(name.removeprefix("codes.")): ZoomPairs(
                    codes.numpy().astype(np.uint64), tensors[name.replace("codes", "rows")].numpy()
                )
                for name, codes in tensors.items()
                if name.startswith("codes.")
            }
            splits = {name: tensors[name].numpy() for name in ("train", "validation")}
            return cls(tensors["embeddings"], zooms, **splits), notes
        except (KeyError, ValueError) as exc:
            raise TrainingError(f"{path} does not hold pairs ({exc}): delete it, and it is made again") from exc

    def order(self, seed: int, zoom: int, epoch: int) -> Rows:
        """The training photos in an epoch's order, (a,) int64; each step takes the next `batch` of them."""
        return np.random.default_rng([seed, zoom, epoch]).permutation(self.train)

    def counts(self) -> dict[str, Any]:
        """Numbers of photos by split and of tiles by zoom, as JSON values."""
        tiles = {str(z): len(p.codes) for z, p in self.zooms.items()}
        return {"train": len(self.train), "validation": len(self.validation), "tiles": tiles}


def steps_per_epoch(photos: int, batch: int) -> int:
    """The number of whole batches in that many photos. Raises TrainingError if there is none."""
    if photos < batch:
        raise TrainingError(
            f"there are {photos} training photos, fewer than one batch of {batch}: give a --batch of at most "
            f"{photos}, or more photos"
        )
    return photos // batch


def make_pairs(
    photos: PhotoSet, request: TrainRequest, encoder: PhotoEncoder, sources: TileSources, on_progress: OnProgress
) -> None:
    """Embed and split photos, fetch their tiles, and write pairs.state, photos.csv and rejected.csv to `request.out`.

    Does nothing if the run has its pairs already. Photos are split before those without a tile are removed, so a photo
    is in the same split whatever the source. Raises TrainingError or PhotoSetError if too few photos are left.
    """
    if (request.out / PAIRS_NAME).exists():
        return
    bar = counter(on_progress, "photos", "Embedding photos")
    embedded = embed_photos(photos, encoder, cache=request.cache_folder / "photos", on_progress=bar)
    usable = embedded.photos.check_not_empty()
    if usable.split is None:
        usable = split(usable, embedded.hashes, request.split)
    without_tile = _without_tile(usable, request, encoder, sources, on_progress)
    remaining = usable.without(without_tile)
    write_rejections(request.out / "rejected.csv", remaining.rejected)
    for reason, count in remaining.summary().items():
        on_progress(Progress("note", f"{count:,} photos not used: {reason}"))
    remaining.check_not_empty().write(request.out / "photos.csv")
    rows = np.setdiff1d(np.arange(len(usable)), np.array(list(without_tile), dtype=np.intp))
    names = np.array(remaining.split, dtype=object)
    pairs = Pairs.of(embedded.embeddings[rows], remaining.lng, remaining.lat, names, request.settings.zooms)
    notes = {"rejected": remaining.summary(), "splits": dict(Counter(remaining.split or ()))}
    pairs.save(request.out / PAIRS_NAME, notes)


def _without_tile(
    photos: PhotoSet, request: TrainRequest, encoder: PhotoEncoder, sources: TileSources, on_progress: OnProgress
) -> dict[int, Fault]:
    """Photos whose tile is missing at some zoom, by position, with the tile of the deepest such zoom."""
    codes = {z: codes_at(photos.lng, photos.lat, z) for z in request.settings.zooms}
    sources.fetch({z: np.unique(c) for z, c in codes.items()}, on_progress)
    faults: dict[int, Fault] = {}
    for z, photo_codes in codes.items():
        margin, distinct = request.settings.margin(z), np.unique(photo_codes)
        bar = counter(on_progress, "tiles", f"Looking at tiles, zoom {z}")
        with sources.local() as local:
            pixels = TilePixels(local, encoder.preprocess, margin, z)
            for start in range(0, len(distinct), _PROBED_AT_ONCE):
                pixels.has_imagery(distinct[start : start + _PROBED_AT_ONCE])
                bar(min(start + _PROBED_AT_ONCE, len(distinct)), len(distinct))
        missing = np.array(list(pixels.reasons), dtype=np.uint64)
        for row in np.flatnonzero(np.isin(photo_codes, missing)).tolist():
            code = int(photo_codes[row])
            tile = tile_of_code(code, z)
            faults[row] = Fault(Reason.NO_TILE, f"tile {z}/{tile.x}/{tile.y}: {pixels.reasons[code]}")
    return faults


def _tiles(lng: NDArray[np.float64], lat: NDArray[np.float64], zoom: int) -> ZoomPairs:
    codes, rows = np.unique(codes_at(lng, lat, zoom), return_inverse=True)
    return ZoomPairs(codes, rows.astype(np.int64))


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
