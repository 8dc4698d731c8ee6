"""A grid of settings, each judged by the cells that it leads to, and the rule that picks one.

What is judged is what will be used: outliers joined, centroids moved, every photo in the cell of its nearest centroid.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.errors import GeocellError
from indexer.geocells.model.request import Grid
from indexer.geocells.partition.optics import order
from indexer.geocells.partition.outliers import settle
from indexer.geocells.partition.quality import Silhouette, davies_bouldin

__all__ = ["Candidate", "Choice", "Setting", "choose"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


class Setting(NamedTuple):
    """One way to read clusters out of an ordering: `eps` in km, or `xi`, a share."""

    min_samples: int
    method: str
    value: float

    def __str__(self) -> str:
        return f"min_samples {self.min_samples}, {self.method} {self.value:g}" + (" km" if self.method == "eps" else "")


@dataclass(frozen=True, eq=False)
class Candidate:
    """What a setting leads to. Figures are nan where its number of cells ruled it out before they were taken."""

    setting: Setting
    labels: Ints = field(repr=False)
    """(n,) its clusters, -1 for outliers."""
    cell: Ints = field(repr=False)
    """(n,) the cells that they lead to."""
    cells: int
    outliers: float
    """The share of photos outside all clusters."""
    moved: float
    """The share of photos whose cell is not that of the cluster that they were in or joined."""
    silhouette: float = float("nan")
    davies_bouldin: float = float("nan")
    rank: int = 0
    """The places by silhouette and by Davies-Bouldin, added up; 0 where there are no figures."""


@dataclass(frozen=True, eq=False)
class Choice:
    """The candidates in the grid's order, and the one that was picked."""

    candidates: tuple[Candidate, ...]
    picked: Candidate


def choose(vectors: Floats, grid: Grid, seed: int, on_step: Callable[[str, int, int], None]) -> Choice:
    """Try the grid on points, (n, 3) unit vectors, and pick.

    Only settings within the grid's limits of cells take part (if none is, those nearest to them). The best silhouette
    has place 1 in one list, the least Davies-Bouldin index in the other, equals share a place; the least sum wins, of
    equal sums the better silhouette, then the earlier in the grid. Raises GeocellError where no setting has a cluster.
    """
    found = list(_tried(vectors, grid, on_step))
    if not found:
        raise GeocellError(
            f"{len(vectors):,} photos show no cluster at any setting of the grid: give a smaller --min-samples or a "
            "larger --eps, or more photos"
        )
    least, most = grid.cells_for(len(vectors))
    away = [max(least - c.cells, c.cells - most, 0) for c in found]
    part = [i for i, distance in enumerate(away) if distance == min(away)]
    judge, figures = Silhouette(vectors, grid.silhouette_points, seed), {}
    for step, i in enumerate(part, 1):
        figures[i] = judge.of(found[i].cell), davies_bouldin(vectors, found[i].cell)
        on_step("Judging settings", step, len(part))
    ranks = _ranks(np.array([figures[i] for i in part]))
    for i, rank in zip(part, ranks, strict=True):
        silhouette, index = figures[i]
        found[i] = replace(found[i], silhouette=silhouette, davies_bouldin=index, rank=rank)
    picked = min((found[i] for i in part), key=lambda c: (c.rank, -np.nan_to_num(c.silhouette, nan=-1)))
    return Choice(tuple(found), picked)


def _tried(vectors: Floats, grid: Grid, on_step: Callable[[str, int, int], None]) -> Iterator[Candidate]:
    n = len(vectors)
    for min_samples in sorted({m for m in grid.min_samples if m <= n}):
        tell = partial(_tell, on_step, f"Ordering, min_samples {min_samples}", n)
        ordering = order(vectors, min_samples, max(grid.eps_km), tell)
        settings = [("eps", e, ordering.cut) for e in grid.eps_km] + [("xi", x, ordering.steep) for x in grid.xi]
        for method, value, read in settings:
            labels = read(value)
            if labels.max() >= 0:
                made, outliers = settle(vectors, labels), float((labels < 0).mean())
                setting = Setting(min_samples, method, value)
                yield Candidate(setting, labels, made.cell, len(made.centroids), outliers, made.moved)


def _tell(on_step: Callable[[str, int, int], None], text: str, total: int, done: int) -> None:
    on_step(text, done, total)


def _ranks(figures: Floats) -> list[int]:
    """(s, 2) silhouettes and Davies-Bouldin indices to sums of places; what is no number comes last."""
    silhouette = np.where(np.isnan(figures[:, 0]), -np.inf, figures[:, 0])
    spread = np.where(np.isnan(figures[:, 1]), np.inf, figures[:, 1])
    return [int((silhouette > s).sum() + (spread < d).sum()) + 2 for s, d in zip(silhouette, spread, strict=True)]
