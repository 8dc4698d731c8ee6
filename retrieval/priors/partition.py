"""A partition of the Earth into geocells, and of each into clusters: what `tilebeam geocells fit` leaves on disk.

A point's cell is the one whose centroid is nearest by great circle, so that every point, poles and date line included,
is in exactly one. This module needs NumPy only and knows nothing of how centroids are found, nor of photos' content.
`docs/priors.md` describes the directory for people.
"""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import PriorError
from retrieval.files import read_json, write_json, write_npy
from retrieval.sphere import unit_vectors
from tile_cache.addressing import centres_of_codes

__all__ = ["CELLS", "CLUSTERS", "PARTITION_NAME", "TILES", "TILE_ZOOM", "Partition"]

PARTITION_NAME = "partition.json"
FORMAT = "tilebeam-partition"
FORMAT_VERSION = 1
TILE_ZOOM = 8
"""The zoom whose tiles are parted among cells on disk; the deepest base zoom of a `GridBelief`."""

CELLS = np.dtype([("lat", "<f8"), ("lng", "<f8"), ("area_km2", "<f8"), ("photos", "<i8")])
CLUSTERS = np.dtype([("lat", "<f8"), ("lng", "<f8"), ("cell", "<i4"), ("photos", "<i8")])
TILES = np.dtype([("code", "<u4"), ("cell", "<i4"), ("area_km2", "<f8"), ("photos", "<i8")])
"""What a tile of TILE_ZOOM shares with a cell; one row for each cell that a tile meets, by code, then cell."""

_FILES = {"cells.npy": CELLS, "clusters.npy": CLUSTERS, "tiles.npy": TILES}
_MOST_BYTES = 1 << 28
_PRODUCTS = 1 << 24  # of points with centroids, at once: 128 MB
_EVENLY = 0.1
"""Of a cell's mass that is spread by photos: this share is spread by area, as photos may be taken anywhere."""

Codes = NDArray[np.uint64]
Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Partition:
    """Cells, clusters in them, and the tiles of TILE_ZOOM shared out among cells. Raises PriorError if they disagree.

    Degrees, km² and counts of the photos that it was fitted to. Cells and clusters are named by their row.
    """

    cells: NDArray[np.void]
    """(c,) CELLS: each with its centroid."""
    clusters: NDArray[np.void]
    """(m,) CLUSTERS in the order of their cells; every cell has at least one."""
    tiles: NDArray[np.void]
    """(t,) TILES: every tile of TILE_ZOOM at least once, and every cell."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How it was fitted, as JSON; not part of the fingerprint."""

    def __post_init__(self) -> None:
        _check(self.cells, self.clusters, self.tiles)

    def __len__(self) -> int:
        return len(self.cells)

    @classmethod
    def load(cls, directory: Path) -> "Partition":
        """Read a directory that `write` made; raises PriorError for what is none, another version's, or damaged."""
        about = _read_about(directory)
        cells, clusters, tiles = (_read_table(directory / name, dtype, about) for name, dtype in _FILES.items())
        made = cls(cells, clusters, tiles, about.get("settings", {}))
        if made.fingerprint != about.get("fingerprint"):
            raise PriorError(f"{directory} is not the partition that its {PARTITION_NAME} names: copy it again")
        return made

    def write(self, directory: Path) -> None:
        """Write the tables, then the JSON that names them; the directory must be there."""
        files = {}
        for name, table in zip(_FILES, (self.cells, self.clusters, self.tiles), strict=True):
            write_npy(directory / name, table)
            files[name] = _entry((directory / name).read_bytes())
        about = {"format": FORMAT, "version": FORMAT_VERSION, "fingerprint": self.fingerprint, "tile_zoom": TILE_ZOOM}
        counts = {"cells": len(self.cells), "clusters": len(self.clusters)}
        write_json(directory / PARTITION_NAME, about | counts | {"settings": dict(self.settings), "files": files})

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the three tables: equal for equal partitions, however they were fitted."""
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
        """The cells of points, (n,) degrees each, to (n,): of the nearest centroid, of equally near ones the first."""
        return _nearest(_points(lat, lng), self._vectors)

    def cell_of_tiles(self, codes: Codes, zoom: int) -> Ints:
        """The cells that the centres of tiles are in, (n,) Morton codes to (n,)."""
        lng, lat = centres_of_codes(codes, zoom)
        return self.cell_of(lat, lng)

    def clusters_of(self, cell: int) -> range:
        """The rows of a cell's clusters."""
        first, last = np.searchsorted(self.clusters["cell"], [cell, cell + 1])
        return range(int(first), int(last))

    def cluster_of(self, lat: Floats, lng: Floats) -> Ints:
        """The clusters of points, (n,) degrees each, to (n,): of those of its cell the one with the nearest centre."""
        points, cells = _points(lat, lng), self.cell_of(lat, lng)
        centres = unit_vectors(self.clusters["lng"], self.clusters["lat"])
        found = np.empty(len(points), dtype=np.intp)
        for cell in np.unique(cells).tolist():
            here, rows = np.flatnonzero(cells == cell), self.clusters_of(cell)
            found[here] = rows.start + _nearest(points[here], centres[rows.start : rows.stop])
        return found

    def spread(self, probability: NDArray[np.floating], by: Literal["area", "photos"] = "area") -> NDArray[np.float32]:
        """Probabilities of cells, (n, c), as masses of the tiles of TILE_ZOOM in Morton order, (n, 65536).

        `area`: a cell's mass is the same on every km² of it (within the Mercator square); `photos`: it lies where the
        photos did that the partition was fitted to, but for a tenth of it, which is spread by area.
        """
        if probability.ndim != 2 or probability.shape[1] != len(self):
            raise PriorError(f"probabilities of shape {probability.shape} for {len(self)} cells: (n, {len(self)})")
        share = self._area_share if by == "area" else self._photo_share
        parts = probability[:, self.tiles["cell"]] * share.astype(np.float32)
        return np.asarray(np.add.reduceat(parts, self._tile_starts, axis=1), dtype=np.float32)

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
        photos = np.bincount(self.tiles["cell"], self.tiles["photos"], len(self))[self.tiles["cell"]] > 0
        mixed = (1 - _EVENLY) * self._of_cell(self.tiles["photos"]) + _EVENLY * self._area_share
        return np.where(photos, mixed, self._area_share)

    def _of_cell(self, values: NDArray[Any]) -> Floats:
        """What share of its cell's sum each row of `tiles` has; 0 where that is 0."""
        cell = self.tiles["cell"]
        sums = np.bincount(cell, values, len(self))
        return np.asarray(values / np.where(sums > 0, sums, 1)[cell])


def _points(lat: Floats, lng: Floats) -> Floats:
    lat, lng = np.asarray(lat, dtype=np.float64), np.asarray(lng, dtype=np.float64)
    if not (np.isfinite(lng).all() and (np.abs(lat) <= 90).all()):  # NaN compares false
        raise PriorError("a point is not on Earth: latitudes in degrees from -90 to 90 are needed, then longitudes")
    return unit_vectors(lng, lat)


def _nearest(points: Floats, centres: Floats) -> Ints:
    """The nearest of (c, 3) unit vectors for each of (n, 3), a block at a time."""
    found = np.empty(len(points), dtype=np.intp)
    block = max(1, _PRODUCTS // len(centres))
    for first in range(0, len(points), block):
        found[first : first + block] = (points[first : first + block] @ centres.T).argmax(axis=1)
    return found


def _entry(data: bytes) -> dict[str, Any]:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _read_about(directory: Path) -> dict[str, Any]:
    path = directory / PARTITION_NAME
    try:
        about = read_json(path)
    except OSError as exc:
        raise PriorError(f"{directory} is no partition ({path.name}: {exc.strerror}): `tilebeam geocells fit`") from exc
    except (ValueError, RecursionError) as exc:
        raise PriorError(f"{path} is damaged ({exc}): copy the partition again") from exc
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise PriorError(f"{path} describes no partition (format {FORMAT!r} is needed)")
    if about.get("version") != FORMAT_VERSION or about.get("tile_zoom") != TILE_ZOOM:
        there = f"version {about.get('version')!r} with tiles of zoom {about.get('tile_zoom')!r}"
        raise PriorError(f"{path} is of {there}; this program reads {FORMAT_VERSION} with {TILE_ZOOM}: fit it again")
    if not isinstance(about.get("files"), dict) or not isinstance(about.get("settings", {}), dict):
        raise PriorError(f"{path} is damaged (no list of files): copy the partition again")
    return about


def _read_table(path: Path, dtype: np.dtype[Any], about: Mapping[str, Any]) -> NDArray[np.void]:
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise PriorError(f"{path} has {size:,} bytes, more than any partition's")
        data = path.read_bytes()
    except OSError as exc:
        raise PriorError(f"{path} cannot be read ({exc.strerror}): copy the partition again") from exc
    if about["files"].get(path.name) != _entry(data):
        raise PriorError(f"{path} is not the file that {PARTITION_NAME} names: copy the partition again")
    try:
        table = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError) as exc:
        raise PriorError(f"{path} is no array ({exc}): copy the partition again") from exc
    if not isinstance(table, np.ndarray) or table.dtype != dtype or table.ndim != 1:
        raise PriorError(f"{path} holds other columns than {', '.join(dtype.names or ())}: fit the partition again")
    return table


def _check(cells: NDArray[np.void], clusters: NDArray[np.void], tiles: NDArray[np.void]) -> None:
    count = len(cells)
    if not count:
        raise PriorError("a partition without cells")
    for name, table in (("cell", cells), ("cluster", clusters)):
        if not (np.abs(table["lat"]) <= 90).all() or not (np.abs(table["lng"]) <= 180).all():
            raise PriorError(f"the centre of a {name} is not on Earth")
    for name, table in (("cluster", clusters), ("tile", tiles)):
        if not np.array_equal(np.unique(table["cell"]), np.arange(count)):
            raise PriorError(f"every one of {count} cells needs a {name}, and no other cell has one")
    if (np.diff(clusters["cell"]) < 0).any():
        raise PriorError("clusters are not in the order of their cells")
    order = tiles["code"].astype(np.int64) * count + tiles["cell"]
    if not np.array_equal(np.unique(tiles["code"]), np.arange(4**TILE_ZOOM)) or (np.diff(order) <= 0).any():
        raise PriorError(f"tiles of zoom {TILE_ZOOM} are missing or out of order")
    if not all((np.isfinite(t["area_km2"]) & (t["area_km2"] > 0)).all() for t in (cells, tiles)):
        raise PriorError("an area is not above 0")
    if any((t["photos"] < 0).any() for t in (cells, clusters, tiles)):
        raise PriorError("a count of photos is below 0")
