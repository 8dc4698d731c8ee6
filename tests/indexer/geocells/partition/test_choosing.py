"""The grid is tried whole, judged by the rule that the page states, and picked from."""

import numpy as np
import pytest
from towns import STRAYS, TOWNS, town_photos

from indexer.errors import GeocellError
from indexer.geocells.model.request import Grid
from indexer.geocells.partition.choosing import Choice, choose
from indexer.geocells.partition.outliers import settle
from indexer.geocells.partition.quality import Silhouette, davies_bouldin

GRID = Grid(min_samples=(5, 10), eps_km=(3.0, 30.0, 4500.0), xi=(0.05,), least_cells=6, most_cells=30)


def chosen(grid: Grid) -> Choice:
    return choose(town_photos()[0], grid, 0, lambda text, done, total: None)


def test_the_towns_are_found() -> None:
    """Every town is one cell and all strays have joined one."""
    vectors, town = town_photos()
    picked = chosen(GRID).picked
    assert picked.cells == len(TOWNS)
    assert picked.setting.method == "eps"
    assert picked.setting.value == 30
    assert picked.outliers == pytest.approx(STRAYS / len(vectors), abs=0.05)
    pairs = set(zip(town[town >= 0].tolist(), picked.cell[town >= 0].tolist(), strict=True))
    assert len(pairs) == len(TOWNS)


def test_the_rule_is_the_sum_of_two_places() -> None:
    vectors, _ = town_photos()
    choice = chosen(GRID)
    part = [c for c in choice.candidates if 6 <= c.cells <= 30]
    assert len(part) < len(choice.candidates)  # one setting joins everything
    judge = Silhouette(vectors, GRID.silhouette_points, 0)
    for c in part:
        cell = settle(vectors, c.labels).cell
        assert (c.silhouette, c.davies_bouldin) == (judge.of(cell), davies_bouldin(vectors, cell))
        better = sum(o.silhouette > c.silhouette for o in part) + sum(o.davies_bouldin < c.davies_bouldin for o in part)
        assert c.rank == better + 2
    assert choice.picked.rank == min(c.rank for c in part)
    assert all(c.rank == 0 and np.isnan(c.silhouette) for c in choice.candidates if c not in part)


def test_where_no_setting_has_enough_cells_the_nearest_take_part() -> None:
    grid = Grid(min_samples=(10,), eps_km=(30.0, 4500.0), xi=(), least_cells=50, most_cells=60)
    assert chosen(grid).picked.cells == len(TOWNS)


def test_no_cluster_at_all_is_said() -> None:
    with pytest.raises(GeocellError, match="--min-samples"):
        chosen(Grid(min_samples=(60,), eps_km=(1.0,), xi=()))
    with pytest.raises(GeocellError, match="3 photos"):
        choose(town_photos()[0][:3], Grid(), 0, lambda *_: None)


@pytest.mark.parametrize(("photos", "limits"), [(50, (2, 2)), (2000, (20, 40)), (10**6, (20, 1000))])
def test_how_many_cells_are_wanted(photos: int, limits: tuple[int, int]) -> None:
    assert Grid().cells_for(photos) == limits


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("min_samples", ()),
        ("min_samples", (1,)),
        ("eps_km", ()),
        ("eps_km", (0.0,)),
        ("eps_km", (float("nan"),)),
        ("xi", (1.0,)),
        ("least_cells", 0),
        ("most_cells", 3),
        ("most_points", 1),
    ],
)
def test_settings_that_are_none(setting: str, value: object) -> None:
    with pytest.raises(GeocellError, match="--"):
        Grid(**{setting: value})  # type: ignore[arg-type]
