"""A seeded index for search benchmarks: the world at zooms 4, 6 and 8, one region down to 16, vectors along a tree.

A child's vector is its parent's plus noise, so that a search that keeps the right tiles leads into the region, as with
a trained encoder. Vectors are written as FAISS lists and also as plain arrays, for the other methods.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.index.manifest import Manifest, ShardEntry, ZoomEntry
from retrieval.index.writer import write_manifest, write_shard
from retrieval.testing.fake import FakePhotoEncoder, unit_rows
from tile_cache.addressing import parents_of_codes

ZOOMS = (4, 6, 8, 10, 12, 14, 16)
WORLD_ZOOM = 8
SHARD_PARENTS = 1 << 16
_KEPT = 0.75
"""The share of a child's squared length that lies in its parent's direction."""

Codes = NDArray[np.uint64]

_WORLD = [[-180, -85], [180, -85], [180, 85], [-180, 85], [-180, -85]]


def codes_of(zoom: int, leaves: int) -> Codes:
    """Every tile down to WORLD_ZOOM; deeper, the ancestors of `leaves` consecutive tiles in the middle of zoom 16."""
    if zoom <= WORLD_ZOOM:
        return np.arange(4**zoom, dtype=np.uint64)
    first = 4 ** ZOOMS[-1] // 3 >> 22 << 22
    shift = 2 * (ZOOMS[-1] - zoom)
    return np.arange(first >> shift, (first + leaves - 1 >> shift) + 1, dtype=np.uint64)


def build(directory: Path, leaves: int, dim: int, seed: int = 0, photo: dict[str, Any] | None = None) -> Manifest:
    """Write the index and arrays (`v04.npy` ... (n, dim) float16), or reuse those of an earlier run.

    `photo` describes the photo encoder, if the index is searched with photos and not only with vectors.
    """
    if (directory / "manifest.json").is_file():
        return Manifest.read(directory)
    directory.mkdir(parents=True, exist_ok=True)
    zooms = []
    for i, zoom in enumerate(ZOOMS):
        shards = tuple(_build_zoom(directory, i, leaves, dim, np.random.default_rng([seed, zoom])))
        zooms.append(ZoomEntry(zoom, shards, "random"))
    return write_manifest(
        directory,
        zooms,
        dim=dim,
        codec="fp16",
        photo_encoder=photo or FakePhotoEncoder(dim).describe(),
        map_encoders={},
        source={"identity": f"random {seed}"},
        attribution="",
        coverage={
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [_WORLD]},
            "properties": {"zooms": list(ZOOMS), "leaves": leaves},
        },
    )


def queries(directory: Path, count: int, seed: int = 1) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noisy copies of random leaves, (count, dim) float32 unit rows, and the rows of these leaves, (count,)."""
    leaf = np.load(directory / f"v{ZOOMS[-1]:02d}.npy", mmap_mode="r")
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(leaf), count)
    noise = unit_rows(rng.standard_normal((count, leaf.shape[1])))
    return unit_rows(0.8 * leaf[rows].astype(np.float32) + 0.6 * noise), rows


def _build_zoom(directory: Path, i: int, leaves: int, dim: int, rng: np.random.Generator) -> Iterator[ShardEntry]:
    zoom = ZOOMS[i]
    codes = codes_of(zoom, leaves)
    parents, count, above = _parents(directory, i, codes, leaves)
    plain = np.lib.format.open_memmap(directory / f"v{zoom:02d}.npy", "w+", np.float16, (len(codes), dim))
    for number, first in enumerate(range(0, count, SHARD_PARENTS)):
        last = min(first + SHARD_PARENTS, count)
        start, stop = (int(v) for v in np.searchsorted(parents, (first, last)))
        vectors = np.empty((stop - start, dim), dtype=np.float32)
        for a in range(start, stop, 1 << 15):
            b = min(a + (1 << 15), stop)
            noise = unit_rows(rng.standard_normal((b - a, dim), dtype=np.float32))
            inherited = 0 if above is None else above[parents[a:b]].astype(np.float32)
            vectors[a - start : b - start] = unit_rows(_KEPT**0.5 * inherited + (1 - _KEPT) ** 0.5 * noise)
        plain[start:stop] = vectors
        yield write_shard(
            directory,
            zoom,
            number,
            codes[start:stop],
            vectors,
            np.ones(stop - start, dtype=bool),
            parents=parents[start:stop],
            first_row=start,
            first_parent=first,
            parent_count=last - first,
        )
    plain.flush()


def _parents(
    directory: Path, i: int, codes: Codes, leaves: int
) -> tuple[NDArray[np.int64], int, NDArray[np.float16] | None]:
    if i == 0:
        return np.zeros(len(codes), dtype=np.int64), 1, None
    above = codes_of(ZOOMS[i - 1], leaves)
    rows = np.searchsorted(above, parents_of_codes(codes, ZOOMS[i] - ZOOMS[i - 1])).astype(np.int64)
    return rows, len(above), np.load(directory / f"v{ZOOMS[i - 1]:02d}.npy", mmap_mode="r")
