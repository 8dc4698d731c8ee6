"""What decides how map encoders are learnt from pairs of photos and tiles: paper H's recipe as defaults.

Plain data, checked when made; nothing here loads torch, so that a mistake is answered at once.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from indexer.build.coverage import check_zooms
from indexer.errors import TrainingError

__all__ = ["TrainSettings"]

_NOT_WEIGHTS = frozenset({"micro_batch", "save_every", "log_every", "patience"})
"""Fields that a run may change on its way: how it computes and when it stops, not what a step learns."""


@dataclass(frozen=True)
class TrainSettings:
    """One run's numbers. Defaults are paper H's, but for the temperature, which the paper does not give.

    The cosines of a batch are divided by a temperature before the softmax. Without one (temperature 1) they lie in
    -1 to 1, and the softmax over 64 tiles stays nearly flat however well they are told apart. The default is where
    CLIP's training began, 0.07, held fixed. Where CLIP's ended, 0.01, is too sharp for photos and overhead imagery,
    which start further apart: on 2,000 overhead photos, 3 epochs of the built-in tower, recall@1 among 70 zoom-4 tiles
    went from 29% to 38% with 0.01, 39% with 0.03, 43% with 0.07 and 0.15; 199 validation photos, so within 7 points.
    `learn_temperature` learns it along, at the layers' rate.
    """

    zooms: tuple[int, ...]
    """Ascending; each gets a map encoder of its own, the finest first."""
    epochs: int = 5
    """Passes over the training photos, per zoom."""
    batch: int = 64
    """Pairs a step, over all processes together."""
    validation_batch: int = 128
    """Pairs a softmax of the validation loss; the last ones may be fewer."""
    micro_batch: int | None = None
    """Tiles whose graph is in memory at once, per process; None: all of a step's."""
    lr: float = 1e-4
    """Adam's learning rate, constant."""
    blocks: int = 2
    """Last transformer blocks that are trained, with the final norm and the projection."""
    temperature: float = 0.07
    """What cosines are divided by."""
    learn_temperature: bool = False
    """Whether Adam moves the temperature; it stays between 0.01 and 1."""
    patience: int | None = None
    """Epochs without a better validation recall@1 after which a zoom ends; None: all epochs run."""
    seed: int = 0
    """Decides the batches, with zoom, epoch and step."""
    context: Mapping[int, float] = field(default_factory=dict)
    """Margin around the tile that a zoom's encoder sees, in tile widths; 0 where nothing is said, as in the paper."""
    cache_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """How activations before the first trained block are kept; halves take half the disk and are not exact."""
    save_every: int = 200
    """Steps from one saved state to the next."""
    log_every: int = 20
    """Steps from one row of the log to the next."""

    def __post_init__(self) -> None:
        check_zooms(self.zooms)
        for name in ("epochs", "batch", "validation_batch", "blocks", "save_every", "log_every"):
            _at_least_one(name, getattr(self, name))
        for name in ("micro_batch", "patience"):
            if getattr(self, name) is not None:
                _at_least_one(name, getattr(self, name))
        if self.batch < 2:
            raise TrainingError("a batch of 1 has nothing to tell its photo's tile apart from: give --batch 2 or more")
        for name in ("lr", "temperature"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise TrainingError(f"{_option(name)} {value!r} must be a number above 0")
        self._check_context()

    def margin(self, zoom: int) -> float:
        """The zoom's margin in tile widths."""
        return float(self.context.get(zoom, 0.0))

    def identity(self) -> dict[str, Any]:
        """What decides the weights, as JSON values: two runs of one folder must agree in it."""
        values = {k: v for k, v in vars(self).items() if k not in _NOT_WEIGHTS}
        return values | {"zooms": list(self.zooms), "context": {str(z): float(c) for z, c in self.context.items() if c}}

    def _check_context(self) -> None:
        for zoom, margin in self.context.items():
            if zoom not in self.zooms:
                raise TrainingError(f"--context names zoom {zoom}, which is none of {list(self.zooms)}")
            if not (math.isfinite(margin) and margin >= 0):
                raise TrainingError(f"--context {zoom}={margin!r} is no margin: 0 or more tile widths are")


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise TrainingError(f"{_option(name)} {value} must be at least 1")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
