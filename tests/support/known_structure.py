"""Photo sets of known structure: clusters in six cells at chosen places, with features or pictures that differ."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from indexer.geocells.model.features import SplitData
from indexer.geocells.settings import GeocellRequest, GeocellSettings, Pace
from indexer.photos.read import ReadOptions
from indexer.photos.splits import SplitPlan
from retrieval.encoders.open_clip import PhotoEncoder, build_tower
from retrieval.encoders.preprocess import Preprocess
from retrieval.priors.partition import CELLS, CLUSTERS, TILE_ZOOM, TILES, Partition
from retrieval.sphere import unit_vectors
from tile_cache.addressing import centres_of_codes, codes_at

CENTRES = ((48.0, 2.0), (-15.0, -55.0), (35.0, 139.0), (-30.0, 140.0), (64.0, -150.0), (5.0, 178.0))
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 24, "patch_size": 12, "width": 32, "layers": 2, "head_width": 16},
    "quick_gelu": False,
}


def partition_of(cells: NDArray[np.float64], clusters: list[NDArray[np.float64]]) -> Partition:
    """A partition from centroids, (c, 2), and the clusters of each cell, (k, 2), all latitude and longitude.

    A tile belongs to the cell of its centre.
    """
    count = len(cells)
    tables = np.zeros(count, CELLS), np.zeros(sum(map(len, clusters)), CLUSTERS)
    tables[0]["lat"], tables[0]["lng"] = cells.T
    tables[0]["area_km2"], tables[0]["photos"] = 1.0, 10
    tables[1]["lat"], tables[1]["lng"] = np.concatenate(clusters).T
    tables[1]["cell"], tables[1]["photos"] = np.repeat(np.arange(count), [len(own) for own in clusters]), 10
    codes = np.arange(4**TILE_ZOOM, dtype=np.uint64)
    lng, lat = centres_of_codes(codes, TILE_ZOOM)
    tiles = np.zeros(len(codes), TILES)
    tiles["code"], tiles["area_km2"] = codes, np.cos(np.radians(lat)) ** 2
    tiles["cell"] = (unit_vectors(lng, lat) @ unit_vectors(cells[:, 1], cells[:, 0]).T).argmax(1)
    tiles["photos"][codes_at(tables[1]["lng"], tables[1]["lat"], TILE_ZOOM).astype(np.int64)] = 10
    return Partition(*tables, tiles)


@dataclass(frozen=True)
class Known:
    """Photos: the true cluster of each, (n,), its place, (n, 2) degrees, and its features, (n, f) unit rows."""

    partition: Partition
    cluster: NDArray[np.int64]
    lat_lng: NDArray[np.float64]
    features: NDArray[np.float32]

    def split(self, rows: NDArray[np.int64]) -> SplitData:
        """These rows as a split."""
        return SplitData(rows, torch.from_numpy(self.lat_lng[rows]), torch.from_numpy(self.features[rows]))


def known_partition(per_cell: int = 3) -> Partition:
    """Six cells far apart, each with clusters on a ring of 4 degrees around its centroid."""
    cells = np.array(CENTRES)
    turns = 2 * np.pi * np.arange(per_cell) / per_cell
    rings = [np.stack([lat + 4 * np.sin(turns), lng + 4 * np.cos(turns)], 1) for lat, lng in CENTRES]
    for ring in rings:
        ring[:, 1] = (ring[:, 1] + 180) % 360 - 180
    return partition_of(cells, rings)


def known_features(photos: int = 20, noise: float = 0.8, dim: int = 32, seed: int = 0) -> Known:
    """`photos` per cluster, within about 80 km of its centre; features are the cluster's direction plus noise."""
    rng, partition = np.random.default_rng(seed), known_partition()
    centres = partition.cluster_centres
    cluster = np.tile(np.arange(len(centres)), photos)
    lat_lng = centres[cluster] + rng.normal(0, 0.4, (len(cluster), 2))
    lat_lng[:, 1] = (lat_lng[:, 1] + 180) % 360 - 180
    directions = rng.normal(0, 1, (len(centres), dim))
    features = directions[cluster] + noise * rng.normal(0, 1, (len(cluster), dim))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return Known(partition, cluster, lat_lng, features.astype(np.float32))


def draw_pictures(folder: Path, photos: int = 10, seed: int = 0) -> Path:
    """Pictures with a pattern for each cluster, in the layout of OSV-5M: <id>.jpg in sub-folders, and a table."""
    rng, partition = np.random.default_rng(seed), known_partition()
    rows = []
    for number, (lat, lng) in enumerate(np.tile(partition.cluster_centres, (photos, 1))):
        own = np.random.default_rng([7, number % len(partition.clusters)])
        picture = own.uniform(0, 255, (3, 3, 3)) + rng.normal(0, 12, (3, 3, 3))
        path = folder / "images" / "train" / f"{number % 3:02}" / f"{1000 + number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).resize((32, 32), Image.Resampling.NEAREST).save(path)
        rows.append((1000 + number, lat + rng.normal(0, 0.3), (lng + rng.normal(0, 0.3) + 180) % 360 - 180, "x"))
    with (folder / "train.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([("id", "latitude", "longitude", "country"), *rows])
    return folder / "train.csv"


def tiny_encoder(folder: Path) -> Path:
    """A small ViT with random weights, saved in `folder`."""
    torch.manual_seed(3)
    preprocess = Preprocess(24, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    PhotoEncoder("tiny", build_tower(ARCHITECTURE), preprocess, ARCHITECTURE, "cpu").save(folder)
    return folder


def request_of(drawn: Path, out: Path, **changes: Any) -> GeocellRequest:
    """A training of a second or two; `changes` are fields of the settings or of their pace."""
    pace: dict[str, Any] = {"epochs": 3, "batch": 16, "save_every": 4, "log_every": 4}
    numbers: dict[str, Any] = {"lr_encoder": 1e-4, "lr_heads": 1e-2, "geo_dim": 16, "top": 2}
    for name, value in changes.items():
        (pace if name in Pace.__dataclass_fields__ else numbers)[name] = value
    return GeocellRequest(
        photos=drawn / "train.csv",
        out=out,
        read=ReadOptions(layout="osv5m"),
        split=SplitPlan(ratio=(6, 2, 2), near_duplicates=False),
        device="cpu",
        partition=drawn / "partition",
        encoder=str(drawn / "encoder"),
        settings=GeocellSettings(Pace(**pace), **numbers),
    )
