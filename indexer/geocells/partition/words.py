"""A fitted partition as a page for people."""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation.tables import markdown_table
from indexer.geocells.partition.choosing import Candidate
from indexer.geocells.partition.fit import Fitted
from retrieval.sphere import EARTH_AREA_KM2

__all__ = ["in_words", "page"]

_SHOWN = 20


def page(fitted: Fitted) -> str:
    """Markdown: what was found, what it was chosen from, the largest cells."""
    return "\n\n".join(_parts(fitted)) + "\n"


def in_words(fitted: Fitted) -> list[str]:
    """The outcome in a few lines."""
    partition, picked = fitted.partition, fitted.choice.picked
    return [
        f"{len(partition):,} cells and {len(partition.clusters):,} clusters from {len(fitted.photos):,} photos",
        f"{picked.setting}: silhouette {picked.silhouette:.3f}, Davies-Bouldin {picked.davies_bouldin:.3f}, "
        f"{picked.outliers:.0%} outliers joined",
        f"a photo is {np.median(fitted.to_centroid_km):,.0f} km from its cell's centroid (median), "
        f"{np.median(fitted.to_cluster_km):,.0f} km from its cluster's centre",
    ]


def _parts(fitted: Fitted) -> Iterator[str]:
    partition, choice = fitted.partition, fitted.choice
    clusters = np.bincount(partition.clusters["cell"])
    yield "# Geocells"
    yield "; ".join(in_words(fitted)) + f". Fingerprint `{partition.fingerprint[:16]}`."
    yield markdown_table(
        ["", "median", "mean", "least", "most"],
        [
            ["photos in a cell", *_spread(partition.cells["photos"])],
            ["clusters in a cell", *_spread(clusters)],
            ["photos in a cluster", *_spread(partition.clusters["photos"])],
            ["area of a cell, km²", *_spread(partition.cells["area_km2"])],
            ["photo to its cell's centroid, km", *_spread(fitted.to_centroid_km)],
            ["photo to its cluster's centre, km", *_spread(fitted.to_cluster_km)],
        ],
    )
    yield (
        f"{fitted.moved:.1%} of the photos are nearer to another cell's centroid than to that of the cluster that "
        "they were in or joined; they count for the nearer one. The cells' areas sum to "
        f"{partition.cells['area_km2'].sum() / EARTH_AREA_KM2:.9f} of the Earth's."
    )
    least, most = fitted.request.grid.cells_for(len(choice.picked.labels))
    yield "## Settings"
    yield (
        f"Judged on the {len(choice.picked.labels):,} photos that OPTICS saw, all of them in the cell of the nearest "
        f"centroid; settings with {least} to {most} cells take part. Rank: place by silhouette (high is good) and by "
        "Davies-Bouldin (low is good), added up; the least wins."
    )
    head = ["", "setting", "cells", "outliers", "moved", "silhouette", "Davies-Bouldin", "rank"]
    yield markdown_table(head, [_line(c, c is choice.picked) for c in choice.candidates])
    yield f"## The {min(_SHOWN, len(partition))} cells with the most photos"
    rows = [
        [str(i), f"{c['lat']:.3f}", f"{c['lng']:.3f}", f"{c['photos']:,}", f"{c['area_km2']:,.0f}", str(clusters[i])]
        for i, c in enumerate(partition.cells[:_SHOWN])
    ]
    yield markdown_table(["cell", "latitude", "longitude", "photos", "km²", "clusters"], rows)


def _line(candidate: Candidate, picked: bool) -> list[str]:
    c = candidate
    figures = [_figure(c.silhouette), _figure(c.davies_bouldin), str(c.rank or "-")]
    return ["**→**" if picked else "", str(c.setting), str(c.cells), f"{c.outliers:.0%}", f"{c.moved:.0%}", *figures]


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _spread(values: NDArray[np.number]) -> list[str]:
    figures = (np.median(values), values.mean(), values.min(), values.max())
    return [f"{v:,.1f}" if v < 1000 else f"{v:,.0f}" for v in map(float, figures)]
