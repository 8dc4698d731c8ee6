"""The directory of a fitted partition: tables, GeoJSON, a map and a report. It is written whole or not at all."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.errors import GeocellError
from indexer.evaluation import plots
from indexer.evaluation.tables import markdown_table
from indexer.geocells.partition.fit import FittedPartition
from indexer.geocells.partition.grid_search import Trial
from indexer.geocells.partition.outlines import outline
from indexer.photos.photo_set import write_rejections
from indexer.runs import check_results_folder, write_results_folder
from retrieval.files import write_json
from retrieval.priors.partition import PARTITION_NAME
from retrieval.sphere import EARTH_AREA_KM2

__all__ = ["check_out", "report", "summary", "write_partition"]

_LARGEST_CELLS = 20
"""Cells that the report lists."""


def check_out(out: Path) -> None:
    """Raise GeocellError, before any work, unless `out` is free, empty, or an earlier partition.

    Raises EvaluationError if its map cannot be drawn.
    """
    plots.check_library()
    check_results_folder(out, PARTITION_NAME, GeocellError)


def write_partition(out: Path, fitted: FittedPartition) -> None:
    """Write the directory beside its place, then rename it; an earlier partition there is replaced."""
    write_results_folder(out, lambda folder: _fill(folder, fitted), GeocellError)


def summary(fitted: FittedPartition) -> list[str]:
    """The outcome in three lines of text."""
    partition, best = fitted.partition, fitted.search.best
    return [
        f"{len(partition):,} cells and {len(partition.clusters):,} clusters from {len(fitted.photos):,} photos",
        f"{best.setting}: silhouette {best.silhouette:.3f}, Davies-Bouldin {best.davies_bouldin:.3f}, "
        f"{best.outliers:.0%} outliers assigned to the nearest centroid",
        f"median distance of a photo: {np.median(fitted.to_centroid_km):,.0f} km to its cell's centroid, "
        f"{np.median(fitted.to_cluster_km):,.0f} km to its cluster's centre",
    ]


def report(fitted: FittedPartition) -> str:
    """The outcome as Markdown: figures of the partition, every setting that was tried, the largest cells."""
    return "\n\n".join(_sections(fitted)) + "\n"


def _fill(folder: Path, fitted: FittedPartition) -> None:
    partition, photos = fitted.partition, fitted.photos
    cells = _features(partition.cells, [outline(polygon) for polygon in fitted.polygons])
    clusters = _features(partition.clusters, [_point(lat, lng) for lat, lng in partition.cluster_centres.tolist()])
    write_json(folder / "cells.geojson", cells)
    write_json(folder / "clusters.geojson", clusters)
    title = f"{len(partition):,} cells, {len(partition.clusters):,} clusters, {len(photos):,} photos"
    centres = partition.cluster_centres[:, ::-1]
    plots.cells_map(folder / "map.png", _rings(cells), photos.lng, photos.lat, fitted.cell, centres, title)
    (folder / "report.md").write_text(report(fitted), encoding="utf-8")
    write_rejections(folder / "rejected.csv", photos.rejected)
    partition.write(folder)


def _features(table: NDArray[np.void], geometries: list[dict[str, Any]]) -> dict[str, Any]:
    """A GeoJSON feature for each row: its id is the row's number, its properties are the columns."""
    names = table.dtype.names or ()
    rows = [dict(zip(names, row, strict=True)) for row in table.tolist()]
    features = [
        {"type": "Feature", "id": i, "properties": row, "geometry": geometry}
        for i, (row, geometry) in enumerate(zip(rows, geometries, strict=True))
    ]
    return {"type": "FeatureCollection", "features": features}


def _point(lat: float, lng: float) -> dict[str, Any]:
    return {"type": "Point", "coordinates": [round(lng, 6), round(lat, 6)]}


def _rings(cells: dict[str, Any]) -> list[NDArray[np.float64]]:
    """The outer rings of all cells, each (p, 2) longitude and latitude, for the map."""
    rings = []
    for feature in cells["features"]:
        geometry = feature["geometry"]
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        rings += [np.array(polygon[0]) for polygon in polygons]
    return rings


def _sections(fitted: FittedPartition) -> Iterator[str]:
    partition, search = fitted.partition, fitted.search
    clusters_of_cell, points = np.bincount(partition.clusters["cell"]), len(search.best.labels)
    yield "# Geocells"
    yield "; ".join(summary(fitted)) + f". Fingerprint `{partition.fingerprint[:16]}`."
    yield markdown_table(
        ["", "median", "mean", "least", "most"],
        [
            ["photos in a cell", *_spread(partition.cells["photos"])],
            ["clusters in a cell", *_spread(clusters_of_cell)],
            ["photos in a cluster", *_spread(partition.clusters["photos"])],
            ["area of a cell, km²", *_spread(partition.cells["area_km2"])],
            ["photo to its cell's centroid, km", *_spread(fitted.to_centroid_km)],
            ["photo to its cluster's centre, km", *_spread(fitted.to_cluster_km)],
        ],
    )
    yield (
        f"{fitted.moved:.1%} of the photos are nearer to the centroid of another cell than to that of the cluster that "
        "they belonged to or joined; they count for the nearer one. The areas of the cells sum to "
        f"{partition.cells['area_km2'].sum() / EARTH_AREA_KM2:.9f} of the Earth's."
    )
    minimum, maximum = fitted.request.grid.cell_limits(points)
    yield "## Settings"
    yield (
        f"Measured on the {points:,} photos that OPTICS was run on, each in the cell of the nearest centroid. Settings "
        f"with {minimum} to {maximum} cells are ranked. Rank: the rank by silhouette (high is good) plus the rank by "
        "Davies-Bouldin index (low is good); the least sum wins."
    )
    head = ["", "setting", "cells", "outliers", "moved", "silhouette", "Davies-Bouldin", "rank"]
    yield markdown_table(head, [_trial_row(trial, trial is search.best) for trial in search.trials])
    yield f"## The {min(_LARGEST_CELLS, len(partition))} cells with the most photos"
    rows = [
        [str(i), f"{c['lat']:.3f}", f"{c['lng']:.3f}", f"{c['photos']:,}", f"{c['area_km2']:,.0f}", str(clusters)]
        for i, (c, clusters) in enumerate(zip(partition.cells[:_LARGEST_CELLS], clusters_of_cell, strict=False))
    ]
    yield markdown_table(["cell", "latitude", "longitude", "photos", "km²", "clusters"], rows)


def _trial_row(trial: Trial, best: bool) -> list[str]:
    indices = [_index(trial.silhouette), _index(trial.davies_bouldin), str(trial.rank or "-")]
    shares = [f"{trial.outliers:.0%}", f"{trial.moved:.0%}"]
    return ["**→**" if best else "", str(trial.setting), str(trial.cell_count), *shares, *indices]


def _index(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _spread(values: NDArray[np.number]) -> list[str]:
    figures = (np.median(values), values.mean(), values.min(), values.max())
    return [f"{v:,.1f}" if v < 1000 else f"{v:,.0f}" for v in map(float, figures)]
