"""The requests of the `tilebeam geocells` commands: plain data, validated when it is created.

Each field's docstring is the help text of its option. The defaults of a training are the geoembeddings paper's, see
docs/method.md, section "Geocells"; the symbols tau and alpha are in its glossary.
"""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from indexer.errors import GeocellError, TrainingError
from indexer.fields import Range
from indexer.photos.read import ReadOptions
from indexer.photos.splits import SplitPlan

__all__ = ["BaselineRequest", "FitRequest", "GeocellRequest", "GeocellSettings", "Grid", "Pace"]

_NOT_WEIGHTS = frozenset({"save_every", "log_every"})
"""Fields that do not change the weights: a run may be continued with other values."""
_NOT_LEARNT = frozenset({"top", "spread"})
"""Fields for using a model: a run that is done writes its model again with other values."""
SPREADS = ("photos", "area", "clusters")


@dataclass(frozen=True)
class Grid:
    """The clustering settings to try. Raises GeocellError for values out of range."""

    min_samples: tuple[int, ...] = (5, 10, 20, 50)
    """A photo is dense if this many photos, itself included, are near; one OPTICS ordering for each value."""
    eps_km: tuple[float, ...] = (25.0, 50.0, 75.0, 100.0, 150.0, 200.0, 300.0)
    """Distances of DBSCAN's cut in km; the largest one limits the ordering."""
    xi: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    """Shares by which the reachability falls where a cluster begins and rises where it ends; may be empty."""
    least_cells: int = 20
    """Settings with fewer cells are not chosen."""
    most_cells: int | None = None
    """Settings with more cells are not chosen; None: one cell per 50 photos, at most 1,000."""
    most_points: int = 100_000
    """Photos that OPTICS is run on, drawn by the seed; the others join the nearest centroid."""
    silhouette_points: int = 5_000
    """Photos that the silhouette is computed on, drawn by the seed."""

    def __post_init__(self) -> None:
        if not self.min_samples or min(self.min_samples) < 2:
            raise GeocellError(f"--min-samples {_listed(self.min_samples)}: give whole numbers from 2")
        if not self.eps_km or not all(math.isfinite(e) and 0 < e <= 5000 for e in self.eps_km):
            raise GeocellError(f"--eps {_listed(self.eps_km)}: give distances above 0 and up to 5000 km")
        if not all(0 < xi < 1 for xi in self.xi):
            raise GeocellError(f"--xi {_listed(self.xi)}: give shares between 0 and 1")
        if self.least_cells < 1 or (self.most_cells is not None and self.most_cells < self.least_cells):
            raise GeocellError(f"--cells {self.least_cells} {self.most_cells}: give two numbers from 1, ascending")
        if self.most_points < 2 or self.silhouette_points < 2:
            raise GeocellError(
                f"most_points {self.most_points} and silhouette_points {self.silhouette_points} must be at least 2"
            )

    def cell_limits(self, photos: int) -> tuple[int, int]:
        """The smallest and the largest number of cells for a set of so many photos."""
        largest = max(2, min(1000, photos // 50)) if self.most_cells is None else self.most_cells
        return min(self.least_cells, largest), largest


@dataclass(frozen=True)
class FitRequest:
    """Photos with known places, and how to divide the Earth by them."""

    photos: Path
    """A CSV or Parquet table, or a folder of photos with GPS in their EXIF."""
    reading: ReadOptions = field(default_factory=ReadOptions)
    split: str | None = None
    """The split to use; if none is given, `train` of a set with splits, else all photos."""
    limit: Annotated[int | None, Range(1)] = None
    """Use at most this many photos, drawn by the seed."""
    grid: Grid = field(default_factory=Grid)
    per_cluster: float = 37.0
    """Photos per cluster within a cell; a cell has 5 to 100 clusters."""  # the paper: 100,000 photos, 2,700 clusters
    seed: Annotated[int, Range(0)] = 0
    """Decides which photos are drawn, and the start of k-means."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.per_cluster) and self.per_cluster > 0):
            raise GeocellError(f"--per-cluster {self.per_cluster}: give a number of photos above 0")

    def settings(self) -> dict[str, Any]:
        """The values that decide the outcome, as JSON; without paths, so that a partition does not reveal any."""
        grid = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.grid).items()}
        return {"grid": grid, "per_cluster": self.per_cluster, "seed": self.seed, "split": self.split}


@dataclass(frozen=True)
class Pace:
    """Epochs and batches of a training, and how often it saves its state. Raises TrainingError for bad values."""

    epochs: int = 10
    """Passes over the training photos."""
    batch: int = 64
    """Photos per step."""
    seed: Annotated[int, Range(0)] = 0
    """Decides splits, initial weights and batches."""
    weight_decay: float = 0.01
    """AdamW's weight decay, for all weights that learn."""
    save_every: int = 200
    """Steps from one saved state to the next."""
    log_every: int = 50
    """Steps from one row of log.csv to the next."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise TrainingError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 1")
        if self.batch < 2:
            raise TrainingError("a batch of 1 has no pair for the contrastive loss: give --batch 2 or more")
        _check_not_negative("--weight-decay", self.weight_decay)

    def identity(self) -> dict[str, Any]:
        """The values that decide the weights, as JSON values."""
        return {k: v for k, v in asdict(self).items() if k not in _NOT_WEIGHTS}


@dataclass(frozen=True)
class GeocellSettings:
    """The numbers of one training. Raises TrainingError for values out of range.

    Rates, epochs and the best pair of temperature and alpha, (0.5, 0.5), are the geoembeddings paper's.
    """

    pace: Pace = field(default_factory=Pace)
    lr_encoder: float = 1e-7
    """AdamW's learning rate of the encoder; 0: the encoder is frozen and each photo is embedded once."""
    lr_heads: float = 1e-3
    """AdamW's learning rate of the heads."""
    smoothing_km: float = 75.0
    """Scale of the haversine-smoothed targets in km."""  # PIGEON's for street view; PIGEOTTO has 65
    alpha: float = 0.5
    """Weight of the contrastive loss; 0: the loss is left out."""
    temperature: float = 0.5
    """Temperature tau of the contrastive loss: cosines are divided by it."""
    contrast_km: float = 500.0
    """Distance in km over which the weight of a pair of photos falls by a factor of e."""  # the paper's is unknown
    geo_dim: int = 256
    """Dimensions of a geo-embedding."""
    top: int = 5
    """The answer is searched among the clusters of this many likeliest cells."""
    spread: str = "clusters"
    """As a prior: spread probabilities by the cluster head (clusters), or a cell's over tiles by photos or by area."""

    def __post_init__(self) -> None:
        for name in ("lr_encoder", "alpha"):
            _check_not_negative("--" + name.replace("_", "-"), getattr(self, name))
        for name in ("lr_heads", "smoothing_km", "temperature", "contrast_km"):
            _check_positive("--" + name.replace("_", "-"), getattr(self, name))
        if min(self.geo_dim, self.top) < 1:
            raise TrainingError(f"--geo-dim {self.geo_dim} and --top {self.top} must be at least 1")
        if self.spread not in SPREADS:
            raise TrainingError(f"unknown --spread {self.spread!r}: give {', '.join(SPREADS)}")

    def identity(self) -> dict[str, Any]:
        """The values that decide the weights, as JSON values: a run can be continued only with the same ones."""
        own = {k: v for k, v in vars(self).items() if k not in ("pace", *_NOT_LEARNT)}
        return own | self.pace.identity()


@dataclass(frozen=True)
class TrainingPhotos:
    """The photos that a run learns from, and its folders."""

    photos: Path
    """A CSV or Parquet table, or a folder of photos with GPS in their EXIF."""
    out: Path
    """Folder for the run and its results; an interrupted run is continued."""
    read: ReadOptions = field(default_factory=ReadOptions)
    split: SplitPlan = field(default_factory=lambda: SplitPlan(ratio=(8, 1, 1)))
    cache: Path | None = None
    """Folder for photo embeddings."""
    device: str = "auto"
    """auto, cpu or cuda."""

    @property
    def cache_folder(self) -> Path:
        """The folder for photo embeddings."""
        return self.cache or self.out / "cache"


@dataclass(frozen=True)
class GeocellRequest(TrainingPhotos):
    """One geocell model to train."""

    partition: Path = field(kw_only=True)
    """A folder that `tilebeam geocells fit` wrote."""
    encoder: str = "builtin"
    """builtin, MODEL:TAG, MODEL:FILE, timm:NAME, timm:NAME:FILE, hf-hub:NAME or a folder."""
    settings: GeocellSettings = field(default_factory=GeocellSettings)


@dataclass(frozen=True)
class BaselineRequest(TrainingPhotos):
    """The regression baseline to train: the last blocks of an encoder and a linear head learn at the same rate."""

    encoder: str = "timm:resnet152"
    """builtin, MODEL:TAG, MODEL:FILE, timm:NAME, timm:NAME:FILE, hf-hub:NAME or a folder."""
    blocks: int = 2
    """Last blocks of the encoder that learn."""
    lr: float = 1e-3
    """AdamW's learning rate."""
    pace: Pace = field(default_factory=lambda: Pace(epochs=5, batch=32, weight_decay=1e-4))

    def __post_init__(self) -> None:
        _check_positive("--lr", self.lr)
        if self.blocks < 1:
            raise TrainingError(f"--blocks {self.blocks} must be at least 1")

    def identity(self) -> dict[str, Any]:
        """The values that decide the weights, as JSON values."""
        return {"blocks": self.blocks, "lr": self.lr} | self.pace.identity()


def _check_not_negative(option: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise TrainingError(f"{option} {value!r} must be 0 or above")


def _check_positive(option: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise TrainingError(f"{option} {value!r} must be above 0")


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{v:g}" for v in values) or "(none)"
