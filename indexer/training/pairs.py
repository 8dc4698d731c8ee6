"""Photos beside the tiles that hold them, zoom by zoom, as arrays; and which of them make the batch of a step.

A batch follows from the seed, zoom, epoch and step alone, so that a run can go on from any step, in any number of
processes. Knows embeddings and Morton codes; nothing of files of photos, pixels or towers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.errors import TrainingError
from indexer.learning.state import load_state, save_state
from tile_cache.addressing import codes_at

__all__ = ["Pairs", "ZoomPairs", "steps_per_epoch"]

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ZoomPairs:
    """One zoom's tiles, (t,) uint64 ascending Morton codes, and for each photo, (n,) int64, the row of its tile."""

    codes: NDArray[np.uint64]
    rows: Rows


@dataclass(frozen=True)
class Pairs:
    """What a run learns from: photos' embeddings, (n, d) float32 unit rows, and their tiles at every zoom.

    `train`, `validation`: (a,) and (b,) int64, which photos are for what; photos of the test split are not in it.
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

        TrainingError where a split that training needs holds no photo.
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
        """Write all of it and `notes` as one safetensors file; `load` reads them."""
        tensors = {"embeddings": self.embeddings, "train": _tensor(self.train), "validation": _tensor(self.validation)}
        for z, pairs in self.zooms.items():
            tensors |= {f"codes.{z}": _tensor(pairs.codes), f"rows.{z}": _tensor(pairs.rows)}
        save_state(path, tensors, notes)

    @classmethod
    def load(cls, path: Path) -> tuple["Pairs", dict[str, Any]]:
        """What `save` wrote; TrainingError if the file is cut off or something else."""
        tensors, notes = load_state(path)
        try:
            zooms = {
                int(name.removeprefix("codes.")): ZoomPairs(
                    codes.numpy().astype(np.uint64), tensors[name.replace("codes", "rows")].numpy()
                )
                for name, codes in tensors.items()
                if name.startswith("codes.")
            }
            used = {name: tensors[name].numpy() for name in ("train", "validation")}
            return cls(tensors["embeddings"], zooms, **used), notes
        except (KeyError, ValueError) as exc:
            raise TrainingError(f"{path} holds no pairs ({exc}): delete it, and it is made again") from exc

    def order(self, seed: int, zoom: int, epoch: int) -> Rows:
        """The training photos in an epoch's order, (a,) int64; a step takes the next stretch of a batch's length."""
        return np.random.default_rng([seed, zoom, epoch]).permutation(self.train)


def steps_per_epoch(photos: int, batch: int) -> int:
    """Whole batches in that many photos; TrainingError where there is not one."""
    if photos < batch:
        raise TrainingError(
            f"there are {photos} training photos, fewer than one batch of {batch}: give a --batch of at most "
            f"{photos}, or more photos"
        )
    return photos // batch


def _tiles(lng: NDArray[np.float64], lat: NDArray[np.float64], zoom: int) -> ZoomPairs:
    codes, rows = np.unique(codes_at(lng, lat, zoom), return_inverse=True)
    return ZoomPairs(codes, rows.astype(np.int64))


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))
