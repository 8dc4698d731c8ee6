"""What is to be fitted and how: plain data, checked when it is made."""

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from indexer.errors import GeocellError
from indexer.photos.read import ReadOptions

__all__ = ["FitRequest", "Grid"]


@dataclass(frozen=True)
class Grid:
    """Settings that are tried. Raises GeocellError for values that are none."""

    min_samples: tuple[int, ...] = (5, 10, 20, 50)
    """Photos near a photo, itself included, that make it dense; one OPTICS ordering each."""
    eps_km: tuple[float, ...] = (25, 50, 75, 100, 150, 200, 300)
    """Distances at which DBSCAN's cut is taken; the largest is the ordering's limit."""
    xi: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    """Shares by which the reachability falls and rises where a cluster begins and ends."""
    least_cells: int = 20
    """Settings with fewer cells are not chosen."""
    most_cells: int | None = None
    """Settings with more are not chosen; None: one for 50 photos, at most 1,000."""
    most_points: int = 100_000
    """Photos that OPTICS sees, drawn by the seed; the others join the nearest centroid."""
    silhouette_points: int = 5_000
    """Photos that the silhouette is taken on, drawn by the seed."""

    def __post_init__(self) -> None:
        if not self.min_samples or min(self.min_samples) < 2:
            raise GeocellError(f"--min-samples {_listed(self.min_samples)}: whole numbers from 2 are needed")
        if not self.eps_km or not all(math.isfinite(e) and 0 < e <= 5000 for e in self.eps_km):
            raise GeocellError(f"--eps {_listed(self.eps_km)}: distances above 0 and up to 5000 km are needed")
        if not all(0 < xi < 1 for xi in self.xi):
            raise GeocellError(f"--xi {_listed(self.xi)}: shares between 0 and 1 are needed")
        if self.least_cells < 1 or (self.most_cells is not None and self.most_cells < self.least_cells):
            raise GeocellError(f"--cells {self.least_cells} {self.most_cells}: from 1, the least first")
        if self.most_points < 2 or self.silhouette_points < 2:
            raise GeocellError("--optics-photos and the silhouette's sample: 2 photos at least")

    def cells_for(self, photos: int) -> tuple[int, int]:
        """The least and the most cells for a set of so many photos."""
        most = max(2, min(1000, photos // 50)) if self.most_cells is None else self.most_cells
        return min(self.least_cells, most), most


@dataclass(frozen=True)
class FitRequest:
    """Photos whose places are known, and what to make of them.

    `split`: None takes `train` where the set has splits, else all photos.
    """

    photos: Path
    reading: ReadOptions = field(default_factory=ReadOptions)
    split: str | None = None
    limit: int | None = None
    grid: Grid = field(default_factory=Grid)
    per_cluster: float = 37.0
    """Photos to a cluster: paper G's 100,000 by its 2,700."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.per_cluster) and self.per_cluster > 0):
            raise GeocellError(f"--per-cluster {self.per_cluster}: a number of photos above 0 is needed")

    def settings(self) -> dict[str, Any]:
        """What decides the outcome, as JSON; no paths, so that a partition tells nothing of where it was made."""
        grid = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.grid).items()}
        return {"grid": grid, "per_cluster": self.per_cluster, "seed": self.seed, "split": self.split}


def _listed(values: tuple[float, ...]) -> str:
    return ",".join(f"{v:g}" for v in values) or "(none)"
