"""What decides how a geocell model is learnt: paper G's recipe as defaults. Plain data, checked when made."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from indexer.errors import TrainingError
from indexer.photos.read import ReadOptions
from indexer.photos.splits import SplitPlan

__all__ = ["BaselineRequest", "GeocellRequest", "GeocellSettings", "Pace"]

_NOT_WEIGHTS = frozenset({"save_every", "log_every"})
"""Fields that a run may change on its way."""
_NOT_LEARNT = frozenset({"top", "spread"})
"""How a model is used: a run that is done writes it again with others."""
SPREADS = ("photos", "area", "clusters")


@dataclass(frozen=True)
class Pace:
    """How long, in what steps, and how often the state is saved."""

    epochs: int = 10
    """Passes over the training photos."""
    batch: int = 64
    """Photos a step."""
    seed: int = 0
    """Decides the heads' first weights and, with the epoch, the batches."""
    weight_decay: float = 0.01
    """AdamW's, of everything that learns."""
    save_every: int = 200
    """Steps from one saved state to the next."""
    log_every: int = 50
    """Steps from one row of the log to the next."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        if self.batch < 2:
            raise TrainingError("a batch of 1 has no pair to contrast: give --batch 2 or more")
        not_negative("--weight-decay", self.weight_decay)

    def identity(self) -> dict[str, Any]:
        """What decides the weights, as JSON values."""
        return {k: v for k, v in asdict(self).items() if k not in _NOT_WEIGHTS}


@dataclass(frozen=True)
class GeocellSettings:
    """One run's numbers; rates, epochs and the pairs of (temperature, alpha) are paper G's."""

    pace: Pace = field(default_factory=Pace)
    lr_encoder: float = 1e-7
    """AdamW's rate of the encoder; 0: it is frozen, its embeddings are computed once and kept."""
    lr_heads: float = 1e-3
    """AdamW's rate of the heads."""
    smoothing_km: float = 75.0
    """Scale of the haversine-smoothed targets: PIGEON's for street view (PIGEOTTO has 65)."""
    alpha: float = 0.5
    """Weight of the geographic contrastive loss; 0: none."""
    temperature: float = 0.5
    """What cosines of geo-embeddings are divided by in it. The paper's best pair is (0.5, 0.5)."""
    contrast_km: float = 500.0
    """Distance over which two photos of a batch cease to be a pair: by a factor of e. The paper's own is not known."""
    geo_dim: int = 256
    """Numbers in a geo-embedding."""
    top: int = 5
    """Cells whose clusters are looked at for an answer."""
    spread: str = "clusters"
    """As a prior: a cell's probability by its `photos` or by `area`, or the head of `clusters`', each by area."""

    def __post_init__(self) -> None:
        for name in ("lr_encoder", "alpha"):
            not_negative("--" + name.replace("_", "-"), getattr(self, name))
        for name in ("lr_heads", "smoothing_km", "temperature", "contrast_km"):
            above_zero("--" + name.replace("_", "-"), getattr(self, name))
        if min(self.geo_dim, self.top) < 1:
            raise TrainingError(f"--geo-dim {self.geo_dim} and --top {self.top} must be at least 1")
        if self.spread not in SPREADS:
            raise TrainingError(f"--spread {self.spread!r} is none of {', '.join(SPREADS)}")

    def identity(self) -> dict[str, Any]:
        """What decides the weights, as JSON values: two runs of one folder must agree in it."""
        own = {k: v for k, v in vars(self).items() if k not in ("pace", *_NOT_LEARNT)}
        return own | self.pace.identity()


@dataclass(frozen=True)
class _Photos:
    """Where photos come from; `cache` keeps embeddings, `out`/cache if none is given."""

    photos: Path
    out: Path
    read: ReadOptions = field(default_factory=ReadOptions)
    split: SplitPlan = field(default_factory=lambda: SplitPlan(ratio=(8, 1, 1)))
    cache: Path | None = None
    device: str = "auto"

    @property
    def cache_folder(self) -> Path:
        """Where embeddings are kept."""
        return self.cache or self.out / "cache"


@dataclass(frozen=True)
class GeocellRequest(_Photos):
    """A geocell model as asked for. `partition`: what `tilebeam geocells fit` wrote."""

    partition: Path = Path()
    encoder: str = "builtin"
    settings: GeocellSettings = field(default_factory=GeocellSettings)


@dataclass(frozen=True)
class BaselineRequest(_Photos):
    """The regression without cells: the last `blocks` of the encoder and a linear head learn, at one rate."""

    encoder: str = "timm:resnet152"
    blocks: int = 2
    lr: float = 1e-3
    pace: Pace = field(default_factory=lambda: Pace(epochs=5, batch=32, weight_decay=1e-4))

    def __post_init__(self) -> None:
        above_zero("--lr", self.lr)
        if self.blocks < 1:
            raise TrainingError(f"--blocks {self.blocks} must be at least 1")

    def identity(self) -> dict[str, Any]:
        """What decides the weights, as JSON values."""
        return {"blocks": self.blocks, "lr": self.lr} | self.pace.identity()


def not_negative(option: str, value: float) -> None:
    """TrainingError unless it is 0 or more."""
    if not (math.isfinite(value) and value >= 0):
        raise TrainingError(f"{option} {value!r} must be 0 or a number above it")


def above_zero(option: str, value: float) -> None:
    """TrainingError unless it is above 0."""
    if not (math.isfinite(value) and value > 0):
        raise TrainingError(f"{option} {value!r} must be a number above 0")
