"""`tilebeam geocells fit` from request to partition: read photos, search the grid, make cells, clusters and tiles.

The caller starts at `fit`; `write` puts the result on disk. Uses places only and opens no picture.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.geocells.partition.assign import Assignment, assign_outliers, cluster_count, split_cell
from indexer.geocells.partition.grid_search import SearchResult, search_grid
from indexer.geocells.partition.tiles import tile_table
from indexer.geocells.partition.voronoi import areas_km2, cells
from indexer.geocells.settings import FitRequest
from indexer.photos.photo_set import PhotoSet, sample_rows
from indexer.photos.read import read_photos
from indexer.progress import OnProgress, Progress, counter
from retrieval.priors.partition import CELLS, CLUSTERS, Partition
from retrieval.sphere import degrees_of, great_circle_km, unit_vectors

__all__ = ["FittedPartition", "fit", "fit_photos"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class FittedPartition:
    """A partition, the photos that it was fitted to, and what the report needs."""

    request: FitRequest
    photos: PhotoSet
    search: SearchResult
    """Its trials cover the photos that OPTICS was run on."""
    partition: Partition
    polygons: list[Floats]
    """The polygon of each cell as `voronoi.cells` returns it, in the partition's order."""
    cell: Ints
    """(n,) the cell of each photo."""
    moved: float
    """The share of photos whose cell is not that of the cluster that they belonged to or joined."""
    to_centroid_km: Floats
    """(n,) from each photo to its cell's centroid: the error that is left if the right cell is named."""
    to_cluster_km: Floats
    """(n,) from each photo to its cluster's centre: the error that is left if the right cluster is named."""


def fit(request: FitRequest, on_progress: OnProgress) -> FittedPartition:
    """Read the photos and divide the Earth; the same photos, settings and seed give the same partition.

    Raises PhotoSetError if the photos cannot be used, and GeocellError if they show no cluster.
    """
    return fit_photos(_read_photos(request, on_progress), request, on_progress)


def fit_photos(photos: PhotoSet, request: FitRequest, on_progress: OnProgress) -> FittedPartition:
    """Like `fit`, for photos in memory; of the request only grid, seed and photos per cluster are used."""
    vectors = unit_vectors(photos.lng, photos.lat)
    sample = sample_rows(len(photos), request.grid.most_points, request.seed)
    if len(sample) < len(photos):
        text = f"OPTICS uses {len(sample):,} of {len(photos):,} photos; the others join the nearest centroid"
        on_progress(Progress("note", text))
    search = search_grid(vectors[sample], request.grid, request.seed, on_progress)
    labels = np.full(len(photos), -1, dtype=np.intp)
    labels[sample] = search.best.labels
    assignment = assign_outliers(vectors, labels).by_size()
    polygons = cells(assignment.centroids)
    areas = areas_km2(assignment.centroids, polygons)
    clusters, cluster = _clusters(request, vectors, assignment, on_progress)
    lng, lat = degrees_of(assignment.centroids)
    table = _table(CELLS, lat=lat, lng=lng, area_km2=areas, photos=assignment.counts)
    tiles = tile_table(assignment.centroids, areas, photos.lng, photos.lat, assignment.cell)
    partition = Partition(table, clusters, tiles, _settings(request, photos, search))
    return FittedPartition(
        request,
        photos,
        search,
        partition,
        polygons,
        assignment.cell,
        assignment.moved,
        to_centroid_km=_distances_km(photos, table, assignment.cell),
        to_cluster_km=_distances_km(photos, clusters, cluster),
    )


def _read_photos(request: FitRequest, on_progress: OnProgress) -> PhotoSet:
    photos = read_photos(request.photos, request.reading)
    if photos.rejected:
        counts = "; ".join(f"{count:,} {reason}" for reason, count in photos.summary().items())
        on_progress(Progress("note", f"Photos not used: {counts}"))
    split = request.split or (None if photos.split is None else "train")
    photos = photos if split is None else photos.only(split)
    return photos.sample(request.limit, request.seed).check_not_empty()


def _clusters(
    request: FitRequest, vectors: Floats, assignment: Assignment, on_progress: OnProgress
) -> tuple[NDArray[np.void], Ints]:
    """The table of clusters, cell by cell, and the cluster of each photo, (n,)."""
    tables: list[NDArray[np.void]] = []
    cluster, first = np.empty(len(vectors), dtype=np.intp), 0
    members = np.split(np.argsort(assignment.cell, kind="stable"), np.cumsum(assignment.counts)[:-1])
    on_cells = counter(on_progress, "fit", "Clustering within cells")
    for cell, rows in enumerate(members):
        centres, labels = split_cell(vectors[rows], cluster_count(len(rows), request.per_cluster), request.seed)
        lng, lat = degrees_of(centres)
        counts = np.bincount(labels)
        tables.append(_table(CLUSTERS, lat=lat, lng=lng, cell=np.full(len(centres), cell), photos=counts))
        cluster[rows] = first + labels
        first += len(centres)
        on_cells(cell + 1, len(members))
    return np.concatenate(tables), cluster


def _distances_km(photos: PhotoSet, table: NDArray[np.void], row: Ints) -> Floats:
    return great_circle_km(photos.lng, photos.lat, table["lng"][row], table["lat"][row])


def _table(dtype: np.dtype[Any], **columns: NDArray[Any]) -> NDArray[np.void]:
    table = np.zeros(len(next(iter(columns.values()))), dtype=dtype)
    for name, column in columns.items():
        table[name] = column
    return table


def _settings(request: FitRequest, photos: PhotoSet, search: SearchResult) -> dict[str, Any]:
    """How the partition was fitted, for its JSON."""
    best = search.best.setting
    chosen = {"min_samples": best.min_samples, best.method: best.value}
    return request.settings() | {"chosen": chosen, "photos": {"count": len(photos), "digest": photos.digest()}}
