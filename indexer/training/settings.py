"""One training of map encoders as plain data: its numbers, and what it is trained on.

The defaults are the hierarchical-search paper's recipe (docs/method.md, "Training map encoders"). Values are checked on
creation, and nothing here loads torch, so that a mistake is reported at once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from indexer.build.coverage import check_zooms
from indexer.errors import TrainingError
from indexer.photos.read import ReadOptions
from indexer.photos.splits import SplitPlan
from tile_cache.fetch.settings import FetchSettings

__all__ = ["TrainRequest", "TrainSettings"]

_NOT_IDENTITY = frozenset({"micro_batch", "save_every", "log_every", "patience"})
"""Fields that may change when a run is resumed: they decide how it computes and when it stops, not what a step does."""


@dataclass(frozen=True)
class TrainSettings:
    """One run's numbers: the paper's, except the temperature, which the paper does not state.

    The cosines of a batch are divided by the temperature before the softmax. At temperature 1 they lie in -1 to 1, and
    the softmax over 64 tiles stays nearly flat however different the tiles are. The default, 0.07, is where CLIP's
    training began, held fixed. Where CLIP's ended, 0.01, is too sharp for photos and overhead imagery, which start
    further apart: on 2,000 overhead photos, 3 epochs of the built-in tower, recall@1 among 70 zoom-4 tiles went from
    29% to 38% with 0.01, 39% with 0.03, 43% with 0.07 and 0.15 (199 validation photos, so within 7 points).
    """

    zooms: tuple[int, ...] = ()
    """Ascending, with commas; an encoder each."""
    epochs: int = 5
    """Passes over the training photos, per zoom."""
    batch: int = 64
    """Pairs of photo and tile in a step, over all processes."""
    validation_batch: int = 128
    """Pairs in one softmax of the validation loss; the last softmax may have fewer."""
    micro_batch: int | None = None
    """Tiles whose graph is in memory at once, per process; the gradients stay the same."""
    lr: float = 1e-4
    """Adam's learning rate, constant."""
    blocks: int = 2
    """Last transformer blocks that are trained, with the final norm and the projection."""
    temperature: float = 0.07
    """What cosines are divided by before the softmax; the paper does not state it."""
    learn_temperature: bool = False
    """Whether Adam changes the temperature too, at the layers' rate; it stays between 0.01 and 1."""
    patience: int | None = None
    """Epochs without a better validation recall@1 after which a zoom's training ends."""
    seed: int = 0
    """Seed of the splits and, with zoom and epoch, of the batches."""
    context: Mapping[int, float] = field(default_factory=dict)
    """Margin in tile widths that a zoom's encoder sees around its tile; 0 for other zooms, as in the paper."""
    cache_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Number format of cached activations; the 16-bit ones take half the disk and are not exact."""
    save_every: int = 200
    """Steps between two saved states."""
    log_every: int = 20
    """Steps between two rows of log.csv."""

    def __post_init__(self) -> None:
        if self.zooms:  # `tilebeam train --preset builtin` makes settings without zooms and does not use them
            check_zooms(self.zooms)
        for name in ("epochs", "batch", "validation_batch", "blocks", "save_every", "log_every"):
            _check_at_least_one(name, getattr(self, name))
        for name in ("micro_batch", "patience"):
            if getattr(self, name) is not None:
                _check_at_least_one(name, getattr(self, name))
        if self.batch < 2:
            raise TrainingError("--batch 1: a photo's tile is compared with the batch's other tiles; give 2 or more")
        for name in ("lr", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise TrainingError(f"{_option(name)} {value!r} must be a number above 0")
        for zoom, margin in self.context.items():
            if zoom not in self.zooms:
                raise TrainingError(f"--context names zoom {zoom}, which is not in --zooms {list(self.zooms)}")
            if not (math.isfinite(margin) and margin >= 0):
                raise TrainingError(f"--context {zoom}={margin!r}: give 0 or more tile widths")

    def margin(self, zoom: int) -> float:
        """The zoom's margin in tile widths."""
        return float(self.context.get(zoom, 0.0))

    def identity(self) -> dict[str, Any]:
        """The numbers that decide the weights, as JSON values: a resumed run must have the same."""
        values = {k: v for k, v in vars(self).items() if k not in _NOT_IDENTITY}
        return values | {"zooms": list(self.zooms), "context": {str(z): float(c) for z, c in self.context.items() if c}}


@dataclass(frozen=True)
class TrainRequest:
    """One run: what to train on, where results go, and the numbers."""

    photos: Path
    """A CSV or Parquet table, or a folder of photos with GPS in their EXIF."""
    source: str
    """bluemarble, a folder, an .mbtiles file, a URL template or a name of xyzservices."""
    out: Path
    """A folder for states, log and results; a killed run is resumed from it."""
    settings: TrainSettings
    """The run's numbers."""
    overlay: str | None = None
    """A second source, composited on top: labels, borders."""
    photo_encoder: str = "builtin"
    """builtin, MODEL:TAG, MODEL:FILE, hf-hub:NAME or a folder."""
    read: ReadOptions = field(default_factory=ReadOptions)
    """How the photos are read."""
    split: SplitPlan = field(default_factory=SplitPlan)
    """How the photos are split, unless their table says so."""
    cache: Path | None = None
    """A folder for photo embeddings and activations."""
    cache_bytes: int = 20 * 2**30
    """Disk space for the activations of all zooms; the rest is computed again each time."""
    tile_cache: Path | None = None
    """File or folder for fetched tiles, as `tilebeam fetch` fills it."""
    fetch: FetchSettings = field(default_factory=FetchSettings)
    """How tiles are fetched."""
    device: str = "auto"
    """auto, cpu or cuda."""

    @property
    def cache_folder(self) -> Path:
        """The folder for photo embeddings and activations; OUT/cache by default."""
        return self.cache or self.out / "cache"

    def arguments(self) -> dict[str, Any]:
        """What a reader of training.json needs to repeat the run; without paths of this machine."""
        return {
            "photos": self.photos.name,
            "split": {**vars(self.split), "ratio": list(self.split.ratio)},
            **self.settings.identity(),
        }


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise TrainingError(f"{_option(name)} {value} must be at least 1")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
