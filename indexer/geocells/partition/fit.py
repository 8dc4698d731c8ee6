"""`tilebeam geocells fit` from request to partition: read, order, choose, settle, tessellate, subdivide."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.geocells.model.request import FitRequest
from indexer.geocells.partition.choosing import Choice, choose
from indexer.geocells.partition.outliers import Settled, settle
from indexer.geocells.partition.subclusters import how_many, subdivide
from indexer.geocells.partition.tiles import share_out
from indexer.geocells.partition.voronoi import areas_km2, cells
from indexer.photos.photo_set import PhotoSet, sample_rows
from indexer.photos.read import read_photos
from indexer.progress import OnProgress, Progress
from retrieval.priors.partition import CELLS, CLUSTERS, Partition
from retrieval.sphere import degrees_of, great_circle_km, unit_vectors

__all__ = ["Fitted", "fit", "part"]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Fitted:
    """What came out."""

    request: FitRequest
    photos: PhotoSet
    choice: Choice
    """Over the photos that OPTICS saw."""
    partition: Partition
    polygons: list[Floats]
    """The cells' as `voronoi.cells` has them, in the partition's order."""
    cell: Ints
    """(n,) the photos' cells."""
    moved: float
    """The share of photos whose cell is not that of the cluster that they were in or joined."""
    to_centroid_km: Floats
    """(n,) from each photo to its cell's centroid."""
    to_cluster_km: Floats
    """(n,) and to its cluster's centre: what naming the right cell, or cluster, leaves of an error."""


def fit(request: FitRequest, on_progress: OnProgress) -> Fitted:
    """Read the photos and part the Earth; the same for the same photos, settings and seed.

    Raises PhotoSetError for photos that cannot be used and GeocellError where they show no clusters.
    """
    return part(_photos(request, on_progress), request, on_progress)


def part(photos: PhotoSet, request: FitRequest, on_progress: OnProgress) -> Fitted:
    """The same for photos that are at hand; of the request, the grid, the seed and the size of clusters count."""
    vectors = unit_vectors(photos.lng, photos.lat)
    seen = sample_rows(len(photos), request.grid.most_points, request.seed)
    if len(seen) < len(photos):
        text = f"OPTICS sees {len(seen):,} of {len(photos):,} photos; the others join the nearest centroid"
        on_progress(Progress("note", text))
    choice = choose(vectors[seen], request.grid, request.seed, _shown(on_progress))
    labels = np.full(len(photos), -1, dtype=np.intp)
    labels[seen] = choice.picked.labels
    settled = _by_size(settle(vectors, labels))
    polygons = cells(settled.centroids)
    areas = areas_km2(settled.centroids, polygons)
    clusters, cluster = _clusters(request, vectors, settled, on_progress)
    lng, lat = degrees_of(settled.centroids)
    table = _table(CELLS, lat=lat, lng=lng, area_km2=areas, photos=settled.counts)
    tiles = share_out(settled.centroids, areas, photos.lng, photos.lat, settled.cell)
    partition = Partition(table, clusters, tiles, _told(request, photos, choice))
    apart = [_apart(photos, table, settled.cell), _apart(photos, clusters, cluster)]
    return Fitted(request, photos, choice, partition, polygons, settled.cell, settled.moved, *apart)


def _photos(request: FitRequest, on_progress: OnProgress) -> PhotoSet:
    photos = read_photos(request.photos, request.reading)
    if photos.rejected:
        counts = "; ".join(f"{count:,} {reason}" for reason, count in photos.summary().items())
        on_progress(Progress("note", f"Not used of the photos: {counts}"))
    wanted = request.split or (None if photos.split is None else "train")
    photos = photos if wanted is None else photos.only(wanted)
    return photos.sample(request.limit, request.seed).check_not_empty()


def _by_size(settled: Settled) -> Settled:
    """The same cells, those with the most photos first."""
    order = np.argsort(-settled.counts, kind="stable")
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    return Settled(settled.centroids[order], place[settled.cell], settled.moved)


def _clusters(
    request: FitRequest, vectors: Floats, settled: Settled, on_progress: OnProgress
) -> tuple[NDArray[np.void], Ints]:
    """The table of clusters, cell after cell, and each photo's."""
    tables: list[NDArray[np.void]] = []
    cluster, first = np.empty(len(vectors), dtype=np.intp), 0
    members = np.split(np.argsort(settled.cell, kind="stable"), np.cumsum(settled.counts)[:-1])
    for cell, here in enumerate(members):
        count = how_many(len(here), request.per_cluster)
        centres, labels = subdivide(vectors[here], count, request.seed)
        lng, lat = degrees_of(centres)
        photos = np.bincount(labels)
        tables.append(_table(CLUSTERS, lat=lat, lng=lng, cell=np.full(len(centres), cell), photos=photos))
        cluster[here] = first + labels
        first += len(centres)
        _shown(on_progress)("Clustering within cells", cell + 1, len(members))
    return np.concatenate(tables), cluster


def _apart(photos: PhotoSet, table: NDArray[np.void], row: Ints) -> Floats:
    return great_circle_km(photos.lng, photos.lat, table["lng"][row], table["lat"][row])


def _table(dtype: np.dtype[Any], **columns: NDArray[Any]) -> NDArray[np.void]:
    table = np.zeros(len(next(iter(columns.values()))), dtype=dtype)
    for name, column in columns.items():
        table[name] = column
    return table


def _told(request: FitRequest, photos: PhotoSet, choice: Choice) -> dict[str, Any]:
    """How it was fitted, for the partition's JSON."""
    setting = choice.picked.setting
    chosen = {"min_samples": setting.min_samples, setting.method: setting.value}
    return request.settings() | {"chosen": chosen, "photos": {"count": len(photos), "digest": photos.digest()}}


def _shown(on_progress: OnProgress) -> Any:
    return lambda text, done, total: on_progress(Progress("fit", text, done, total))
