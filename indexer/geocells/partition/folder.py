"""The partition's directory: tables, GeoJSON, a map and a page; there whole or not at all."""

from pathlib import Path
from typing import Any

import numpy as np

from indexer.errors import GeocellError
from indexer.evaluation import plots
from indexer.geocells.partition.fit import Fitted
from indexer.geocells.partition.outlines import outline
from indexer.geocells.partition.words import page
from indexer.photos.photo_set import write_rejections
from indexer.runs import check_results_folder, write_results_folder
from retrieval.files import write_json
from retrieval.priors.partition import PARTITION_NAME

__all__ = ["check_out", "write_out"]


def check_out(out: Path) -> None:
    """Before any work: the place is free, empty, or an earlier partition. Raises GeocellError."""
    check_results_folder(out, PARTITION_NAME, GeocellError)


def write_out(out: Path, fitted: Fitted) -> None:
    """Write the folder beside its place and put it there, instead of an earlier partition."""
    write_results_folder(out, lambda fresh: _fill(fresh, fitted), GeocellError)


def _fill(folder: Path, fitted: Fitted) -> None:
    partition, photos = fitted.partition, fitted.photos
    cells = _features(partition.cells, [outline(polygon) for polygon in fitted.polygons])
    clusters = _features(partition.clusters, [_point(lat, lng) for lat, lng in partition.cluster_centres.tolist()])
    write_json(folder / "cells.geojson", cells)
    write_json(folder / "clusters.geojson", clusters)
    title = f"{len(partition):,} cells, {len(partition.clusters):,} clusters, {len(photos):,} photos"
    dots = partition.cluster_centres[:, ::-1]
    plots.cells_map(folder / "map.png", _rings(cells), photos.lng, photos.lat, fitted.cell, dots, title)
    (folder / "report.md").write_text(page(fitted), encoding="utf-8")
    write_rejections(folder / "rejected.csv", photos.rejected)
    partition.write(folder)


def _features(table: np.ndarray[Any, Any], geometries: list[dict[str, Any]]) -> dict[str, Any]:
    """A feature for each row, its columns as properties; the row's number is its id."""
    names = table.dtype.names or ()
    rows = [dict(zip(names, row, strict=True)) for row in table.tolist()]
    features = [
        {"type": "Feature", "id": i, "properties": row, "geometry": geometry}
        for i, (row, geometry) in enumerate(zip(rows, geometries, strict=True))
    ]
    return {"type": "FeatureCollection", "features": features}


def _point(lat: float, lng: float) -> dict[str, Any]:
    return {"type": "Point", "coordinates": [round(lng, 6), round(lat, 6)]}


def _rings(cells: dict[str, Any]) -> list[np.ndarray[Any, Any]]:
    found = []
    for feature in cells["features"]:
        geometry = feature["geometry"]
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        found += [np.array(polygon[0]) for polygon in polygons]
    return found
