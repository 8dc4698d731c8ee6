"""A partition of the Earth into geocells, and of each cell into clusters, as `tilebeam geocells fit` writes it.

A point belongs to the cell whose centroid is nearest by great circle, so every point, poles and date line included, is
in exactly one cell. This module needs NumPy only; it knows neither how centroids are found nor photos' content.
docs/priors.md describes the directory.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import PriorError
from retrieval.files import read_json, read_npy, read_whole, write_json, write_npy
from retrieval.sphere import unit_vectors

__all__ = ["CELLS", "CLUSTERS", "PARTITION_NAME", "TILES", "TILE_ZOOM", "Partition"]

PARTITION_NAME = "partition.json"
FORMAT = "tilebeam-partition"
FORMAT_VERSION = 1
TILE_ZOOM = 8
"""The zoom whose tiles are divided among cells on disk; the deepest base zoom of a `GridBelief`."""

CELLS = np.dtype([("lat", "<f8"), ("lng", "<f8"), ("area_km2", "<f8"), ("photos", "<i8")])
CLUSTERS = np.dtype([("lat", "<f8"), ("lng", "<f8"), ("cell", "<i4"), ("photos", "<i8")])
TILES = np.dtype([("code", "<u4"), ("cell", "<i4"), ("area_km2", "<f8"), ("photos", "<i8")])
"""The intersection of a tile of TILE_ZOOM and a cell; ordered by code, then cell."""

_FILES = {"cells.npy": CELLS, "clusters.npy": CLUSTERS, "tiles.npy": TILES}
_MAX_BYTES = 1 << 28
_PRODUCTS = 1 << 24  # inner products of points and centroids at once: 128 MB
_BY_AREA = 0.1
"""Share of a cell's mass that is spread by area when the rest is spread by photos: photos may be taken anywhere."""

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Partition:
    """Cells, their clusters, and the tiles of TILE_ZOOM divided among cells. Raises PriorError if they disagree.

    Units are degrees, km² and numbers of the photos it was fitted to. Cells and clusters are identified by their rows.
    """

    cells: NDArray[np.void]
    """(c,) CELLS; `lat` and `lng` are the centroid's."""
    clusters: NDArray[np.void]
    """(m,) CLUSTERS in the order of their cells; every cell has at least one."""
    tiles: NDArray[np.void]
    """(t,) TILES: every tile of TILE_ZOOM at least once, and every cell."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the fit, as JSON; not part of the fingerprint."""

    def __post_init__(self) -> None:
        _check(self.cells, self.clusters, self.tiles)

    def __len__(self) -> int:
        return len(self.cells)

    @classmethod
    def load(cls, directory: Path) -> "Partition":
        """Read a directory that `write` made. Raises PriorError if it is missing, damaged or of another version."""
        description = _read_description(directory)
        cells, clusters, tiles = (_read_table(directory / name, dtype, description) for name, dtype in _FILES.items())
        partition = cls(cells, clusters, tiles, description.get("settings", {}))
        if partition.fingerprint != description.get("fingerprint"):
            raise PriorError(f"{directory} is not the partition that its {PARTITION_NAME} names: copy it again")
        return partition

    def write(self, directory: Path) -> None:
        """Write the tables, then the JSON that names them; the directory must exist."""
        files = {}
        for name, table in zip(_FILES, (self.cells, self.clusters, self.tiles), strict=True):
            write_npy(directory / name, table)
            files[name] = _entry((directory / name).read_bytes())
        head = {"format": FORMAT, "version": FORMAT_VERSION, "fingerprint": self.fingerprint, "tile_zoom": TILE_ZOOM}
        counts = {"cells": len(self.cells), "clusters": len(self.clusters)}
        write_json(directory / PARTITION_NAME, head | counts | {"settings": dict(self.settings), "files": files})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the three tables; does not depend on the settings."""
        sha = hashlib.sha256(f"{FORMAT} {FORMAT_VERSION} {TILE_ZOOM}".encode())
        for table in (self.cells, self.clusters, self.tiles):
            sha.update(f" {len(table)} ".encode() + table.tobytes())
        return sha.hexdigest()

    @property
    def centroids(self) -> Floats:
        """(c, 2) latitude and longitude in degrees."""
        return np.stack([self.cells["lat"], self.cells["lng"]], axis=1)

    @property
    def cluster_centres(self) -> Floats:
        """(m, 2) latitude and longitude in degrees."""
        return np.stack([self.clusters["lat"], self.clusters["lng"]], axis=1)

    def cell_of(self, lat: Floats, lng: Floats) -> Ints:
        """Points, (n,) degrees each, to the cells with the nearest centroid, (n,); ties go to the lower row."""
        return _nearest(_points(lat, lng), self._vectors)

    def clusters_of(self, cell: int) -> range:
        """The rows of a cell's clusters."""
        first, last = np.searchsorted(self.clusters["cell"], [cell, cell + 1])
        return range(int(first), int(last))

    def cluster_of(self, lat: Floats, lng: Floats) -> Ints:
        """Points, (n,) degrees each, to the clusters of their cells with the nearest centre, (n,)."""
        points, cells = _points(lat, lng), self.cell_of(lat, lng)
        centres = unit_vectors(self.clusters["lng"], self.clusters["lat"])
        clusters = np.empty(len(points), dtype=np.intp)
        for cell in np.unique(cells).tolist():
            inside, rows = np.flatnonzero(cells == cell), self.clusters_of(cell)
            clusters[inside] = rows.start + _nearest(points[inside], centres[rows.start : rows.stop])
        return clusters

    def spread(self, probability: NDArray[np.floating], by: Literal["area", "photos"] = "area") -> NDArray[np.float32]:
        """Probabilities of cells, (n, c), to masses of the tiles of TILE_ZOOM in Morton order, (n, 65536) float32.

        `area`: a cell's mass is even over its area (within the Mercator square). `photos`: nine tenths are divided
        in proportion to the photos of the partition's fit, one tenth by area.
        """
        if probability.ndim != 2 or probability.shape[1] != len(self):
            raise PriorError(f"probabilities of shape {probability.shape} for {len(self)} cells: give (n, {len(self)})")
        share = self._area_share if by == "area" else self._photo_share
        masses = probability[:, self.tiles["cell"]] * share.astype(np.float32)
        return np.asarray(np.add.reduceat(masses, self._tile_starts, axis=1), dtype=np.float32)

    @cached_property
    def _vectors(self) -> Floats:
        return unit_vectors(self.cells["lng"], self.cells["lat"])

    @cached_property
    def _tile_starts(self) -> Ints:
        return np.searchsorted(self.tiles["code"], np.arange(4**TILE_ZOOM)).astype(np.intp)

    @cached_property
    def _area_share(self) -> Floats:
        return self._of_cell(self.tiles["area_km2"])

    @cached_property
    def _photo_share(self) -> Floats:
        has_photos = np.bincount(self.tiles["cell"], self.tiles["photos"], len(self))[self.tiles["cell"]] > 0
        mixed = (1 - _BY_AREA) * self._of_cell(self.tiles["photos"]) + _BY_AREA * self._area_share
        return np.where(has_photos, mixed, self._area_share)

    def _of_cell(self, values: NDArray[Any]) -> Floats:
        """Each row's share of the sum of `values` over its cell, (t,); 0 where the sum is 0."""
        cell = self.tiles["cell"]
        sums = np.bincount(cell, values, len(self))
        return np.asarray(values / np.where(sums > 0, sums, 1)[cell])


def _points(lat: Floats, lng: Floats) -> Floats:
    lat, lng = np.asarray(lat, dtype=np.float64), np.asarray(lng, dtype=np.float64)
    if not (np.isfinite(lng).all() and (np.abs(lat) <= 90).all()):  # NaN compares false
        raise PriorError("a point is not on Earth: give latitudes from -90 to 90 degrees, and finite longitudes")
    return unit_vectors(lng, lat)


def _nearest(points: Floats, centres: Floats) -> Ints:
    """The nearest of (c, 3) unit vectors to each of (n, 3), (n,), in blocks that bound the memory."""
    nearest = np.empty(len(points), dtype=np.intp)
    block = max(1, _PRODUCTS // len(centres))
    for first in range(0, len(points), block):
        nearest[first : first + block] = (points[first : first + block] @ centres.T).argmax(axis=1)
    return nearest


def _entry(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _read_description(directory: Path) -> dict[str, Any]:
    """The contents of partition.json, with the format and the types of its entries checked."""
    path = directory / PARTITION_NAME
    try:
        description = read_json(path, inside=directory)
    except OSError as exc:
        raise PriorError(
            f"no partition at {directory} ({path.name}: {exc.strerror}): make one with `tilebeam geocells fit`"
        ) from exc
    except (ValueError, RecursionError) as exc:
        raise PriorError(f"{path} is damaged ({exc}): copy the partition again") from exc
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise PriorError(f"{path} does not describe a partition (format {FORMAT!r}): give a partition's directory")
    version, zoom = description.get("version"), description.get("tile_zoom")
    if version != FORMAT_VERSION or zoom != TILE_ZOOM:
        raise PriorError(
            f"{path} has version {version!r} with tiles of zoom {zoom!r}; this program reads version {FORMAT_VERSION} "
            f"with zoom {TILE_ZOOM}: fit it again"
        )
    if not isinstance(description.get("files"), dict) or not isinstance(description.get("settings", {}), dict):
        raise PriorError(f"{path} is damaged (its files or settings are not an object): copy the partition again")
    return description


def _read_table(path: Path, dtype: np.dtype[Any], description: Mapping[str, Any]) -> NDArray[np.void]:
    try:
        data = read_whole(path, _MAX_BYTES, inside=path.parent)
    except OSError as exc:
        raise PriorError(f"{path} cannot be read ({exc.strerror}): copy the partition again") from exc
    if description["files"].get(path.name) != _entry(data):
        raise PriorError(f"{path} is not the file that {PARTITION_NAME} names: copy the partition again")
    try:
        table: NDArray[np.void] = read_npy(path, dtype, inside=path.parent)
    except (OSError, ValueError) as exc:
        columns = ", ".join(dtype.names or ())
        raise PriorError(f"{path} cannot be read as an array of {columns} ({exc}): fit or copy it again") from exc
    if table.ndim != 1:
        raise PriorError(f"{path} has {table.ndim} dimensions, 1 is expected: fit the partition again")
    return table


def _check(cells: NDArray[np.void], clusters: NDArray[np.void], tiles: NDArray[np.void]) -> None:
    count = len(cells)
    if not count:
        raise PriorError("the partition has no cells: fit it again")
    for name, table in (("cell", cells), ("cluster", clusters)):
        if not (np.abs(table["lat"]) <= 90).all() or not (np.abs(table["lng"]) <= 180).all():
            raise PriorError(f"the centre of a {name} is not on Earth")
    for name, table in (("cluster", clusters), ("tile", tiles)):
        if not np.array_equal(np.unique(table["cell"]), np.arange(count)):
            raise PriorError(f"each of {count} cells needs a {name}, and no {name} may name another cell")
    if (np.diff(clusters["cell"]) < 0).any():
        raise PriorError("clusters are not in the order of their cells")
    order = tiles["code"].astype(np.int64) * count + tiles["cell"]
    if not np.array_equal(np.unique(tiles["code"]), np.arange(4**TILE_ZOOM)) or (np.diff(order) <= 0).any():
        raise PriorError(f"tiles of zoom {TILE_ZOOM} are missing or out of order")
    if not all((np.isfinite(t["area_km2"]) & (t["area_km2"] > 0)).all() for t in (cells, tiles)):
        raise PriorError("an area of a cell or tile is not above 0")
    if any((t["photos"] < 0).any() for t in (cells, clusters, tiles)):
        raise PriorError("a number of photos is below 0")
