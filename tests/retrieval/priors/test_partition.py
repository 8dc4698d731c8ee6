"""A partition on disk: read back equal, refused when damaged; the cells of places, and the tiles of cells."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexer.geocells.partition.tiles import tile_table
from indexer.geocells.partition.voronoi import areas_km2, cells
from retrieval.errors import PriorError
from retrieval.priors.grid import GridBelief
from retrieval.priors.partition import CELLS, CLUSTERS, TILE_ZOOM, TILES, Partition
from retrieval.sphere import great_circle_km, unit_vectors
from tile_cache.addressing import area_shares, bounds_of_codes, codes_at

# The last two are ten kilometres apart, so few of a tile's samples fall between them; some lie at the map's edges.
LAT = np.array([48.9, 40.7, -33.9, 35.7, -17.7, 78.2, -77.8, 0.3, 0.39])
LNG = np.array([2.35, -74.0, 151.2, 139.7, 178.9, 15.6, 166.7, 32.5, 32.5])
COUNT = len(LAT)


@pytest.fixture(scope="module")
def partition() -> Partition:
    centroids, at = unit_vectors(LNG, LAT), np.arange(COUNT)
    surfaces = areas_km2(centroids, cells(centroids))
    found = np.zeros(COUNT, CELLS)
    found["lat"], found["lng"], found["area_km2"], found["photos"] = LAT, LNG, surfaces, 3
    clusters = np.zeros(2 * COUNT, CLUSTERS)
    clusters["cell"], clusters["photos"] = np.repeat(at, 2), np.tile([1, 2], COUNT)
    clusters["lat"], clusters["lng"] = np.repeat(LAT, 2) + np.tile([-0.01, 0.01], COUNT), np.repeat(LNG, 2)
    tiles = tile_table(centroids, surfaces, np.repeat(LNG, 3), np.repeat(LAT, 3), np.repeat(at, 3))
    return Partition(found, clusters, tiles, {"seed": 7})


@pytest.fixture
def written(partition: Partition, tmp_path: Path) -> Path:
    partition.write(tmp_path)
    return tmp_path


def test_written_partition_is_read_back_equal(partition: Partition, written: Path) -> None:
    again = Partition.load(written)
    assert again.fingerprint == partition.fingerprint
    assert again.settings == {"seed": 7}
    for written_table, table in zip(
        (partition.cells, partition.clusters, partition.tiles), (again.cells, again.clusters, again.tiles), strict=True
    ):
        assert np.array_equal(written_table, table)


@given(st.floats(-90, 90), st.floats(-180, 180))
def test_place_is_in_the_cell_of_the_nearest_centroid(partition: Partition, lat: float, lng: float) -> None:
    km = great_circle_km(np.array(lng), np.array(lat), LNG, LAT)
    assert km[partition.cell_of(np.array([lat]), np.array([lng]))[0]] <= km.min() + 1e-6


def test_longitudes_beyond_180_degrees_wrap(partition: Partition) -> None:
    lat, lng = np.full(3, -17.0), np.array([179.0, -181.0, 539.0])
    assert partition.cell_of(lat, lng).tolist() == [4, 4, 4]


@pytest.mark.parametrize(("lat", "lng"), [(91.0, 0.0), (np.nan, 0.0), (0.0, np.inf)])
def test_points_off_the_earth_are_refused(partition: Partition, lat: float, lng: float) -> None:
    with pytest.raises(PriorError, match="not on Earth"):
        partition.cell_of(np.array([0.0, lat]), np.array([0.0, lng]))


def test_cluster_of_a_place_is_in_its_own_cell(partition: Partition) -> None:
    assert list(partition.clusters_of(3)) == [6, 7]
    # Nearer to the southern one of the next cell's clusters (row 16), but still in the cell below.
    lat, lng = np.array([48.0, 49.5, 0.344]), np.array([2.35, 2.35, 32.5])
    assert partition.cell_of(lat, lng).tolist() == [0, 0, 7]
    assert partition.cluster_of(lat, lng).tolist() == [0, 1, 15]


def test_mass_spread_by_area_is_even(partition: Partition) -> None:
    """If cells have mass in proportion to their areas, so have tiles."""
    due = np.bincount(partition.tiles["cell"], partition.tiles["area_km2"])
    mass = partition.spread((due / due.sum())[None])
    every = np.arange(4**TILE_ZOOM, dtype=np.uint64)
    assert mass.shape == (1, 4**TILE_ZOOM)
    assert np.allclose(mass[0], area_shares(every, TILE_ZOOM), rtol=2e-2, atol=0)


@pytest.mark.parametrize("by", ["area", "photos"])
def test_mass_of_a_cell_stays_in_its_tiles(partition: Partition, by: Any) -> None:
    mass = partition.spread(np.eye(COUNT), by)
    assert np.allclose(mass.sum(axis=1), 1, atol=1e-5)
    for cell in range(COUNT):
        codes = np.flatnonzero(mass[cell])
        assert set(codes.tolist()) <= set(partition.tiles["code"][partition.tiles["cell"] == cell].tolist())
    home = codes_at(LNG, LAT, TILE_ZOOM)
    assert (mass[np.arange(COUNT), home] > 0.5).all() == (by == "photos")
    assert GridBelief.of(mass[0], TILE_ZOOM).log_mass(np.zeros(1, np.uint64), 0) == pytest.approx(0, abs=1e-6)


def test_probabilities_of_another_shape_are_refused(partition: Partition) -> None:
    with pytest.raises(PriorError, match="9 cells"):
        partition.spread(np.ones((1, COUNT + 1)))


def test_areas_of_tiles_equal_random_samples(partition: Partition) -> None:
    """Compared with a thousand random places in each of some tiles."""
    rng = np.random.default_rng(8)
    drawn_codes, home = rng.integers(0, 4**TILE_ZOOM, 8, dtype=np.uint64), codes_at(LNG[-1:], LAT[-1:], TILE_ZOOM)
    codes = np.unique(np.append(drawn_codes, home))
    for code in codes:
        here = partition.tiles[partition.tiles["code"] == code]
        areas = np.bincount(here["cell"], here["area_km2"], COUNT)
        west, south, east, north = (float(v[0]) for v in bounds_of_codes(np.array([code]), TILE_ZOOM))
        sine = rng.uniform(np.sin(np.radians(south)), np.sin(np.radians(north)), 1000)
        lat, lng = np.degrees(np.arcsin(sine)), rng.uniform(west, east, 1000)
        drawn = np.bincount(partition.cell_of(lat, lng), minlength=COUNT) / 1000
        assert np.abs(drawn - areas / areas.sum()).max() < 0.08


@pytest.mark.parametrize("name", ["cells.npy", "clusters.npy", "tiles.npy"])
@pytest.mark.parametrize("where", [0, 70, -9])
def test_changed_byte_is_refused(written: Path, name: str, where: int) -> None:
    data = bytearray((written / name).read_bytes())
    data[where] ^= 1
    (written / name).write_bytes(data)
    with pytest.raises(PriorError, match=name):
        Partition.load(written)


@pytest.mark.parametrize("name", ["partition.json", "cells.npy", "clusters.npy", "tiles.npy"])
@pytest.mark.parametrize("left", [None, 0, 100])
def test_truncated_or_missing_file_is_refused(written: Path, name: str, left: int | None) -> None:
    data = (written / name).read_bytes()
    (written / name).unlink()
    if left is not None:
        (written / name).write_bytes(data[:left])
    with pytest.raises(PriorError, match=name):
        Partition.load(written)


def about(written: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = written / "partition.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", "another", "does not describe a partition"),
        ("version", 2, "version 2"),
        ("tile_zoom", 7, "zoom 7"),
        ("fingerprint", "0" * 64, "not the partition"),
        ("files", [], "damaged"),
        ("settings", 3, "damaged"),
    ],
)
def test_changed_description_is_refused(written: Path, key: str, value: Any, message: str) -> None:
    about(written, lambda found: found.update({key: value}))
    with pytest.raises(PriorError, match=message):
        Partition.load(written)


def test_pickled_table_is_refused(written: Path) -> None:
    """Even if its hash is right."""
    np.save(written / "cells.npy", np.array([{"lat": 1}], dtype=object), allow_pickle=True)
    data = (written / "cells.npy").read_bytes()
    entry = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    about(written, lambda found: found["files"].update({"cells.npy": entry}))
    with pytest.raises(PriorError, match=r"cells\.npy cannot be read as an array"):
        Partition.load(written)


def _broken(table: np.ndarray[Any, Any], row: Any, column: str, value: float) -> np.ndarray[Any, Any]:
    table = table.copy()
    table[column][row] = value
    return table


@pytest.mark.parametrize(
    ("which", "row", "column", "value", "message"),
    [
        ("cells", 0, "lat", 91, "not on Earth"),
        ("cells", 0, "lng", np.nan, "not on Earth"),
        ("cells", 0, "area_km2", 0, "area"),
        ("clusters", 0, "cell", COUNT, "needs a cluster"),
        ("clusters", 0, "cell", 1, "order of their cells"),
        ("clusters", 0, "photos", -1, "below 0"),
        ("tiles", slice(None), "cell", 0, "needs a tile"),
        ("tiles", 0, "code", 5, "out of order"),
        ("tiles", -1, "code", 4**TILE_ZOOM, "missing"),
    ],
)
def test_tables_that_disagree_are_refused(
    partition: Partition, which: str, row: Any, column: str, value: float, message: str
) -> None:
    tables = {name: getattr(partition, name) for name in ("cells", "clusters", "tiles")}
    tables[which] = _broken(tables[which], row, column, value)
    with pytest.raises(PriorError, match=message):
        Partition(**tables)


def test_missing_or_empty_partition_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PriorError, match="no partition at"):
        Partition.load(tmp_path)
    with pytest.raises(PriorError, match="has no cells"):
        Partition(np.zeros(0, CELLS), np.zeros(0, CLUSTERS), np.zeros(0, TILES))
