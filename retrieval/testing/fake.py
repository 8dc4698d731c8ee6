"""Fake encoders, and small random pyramids of tiles with vectors, written as real indexes.

Everything is seeded: the same arguments give the same bits.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.index.manifest import Manifest, ShardEntry, ZoomEntry
from retrieval.index.writer import write_manifest, write_shard
from tile_cache.addressing import children_of_codes

_SIDE = 16
"""Pixels along an edge of the fake encoders' input."""


@dataclass
class FakePhotoEncoder:
    """Embeds a picture as a random projection of its 16 x 16 thumbnail, so similar pictures get similar embeddings."""

    dim: int = 32
    seed: int = 0
    name: str = "fake"
    batch_size: int = 8
    min_edge: int | None = None
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        self.fingerprint = hashlib.sha256(f"fake photo {self.dim} {self.seed}".encode()).hexdigest()
        self._projection = _projection(self.dim, self.seed)

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """Scale an RGB picture to a thumbnail, (3, 16, 16) float32 from 0 to 1."""
        small = np.asarray(image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX), dtype=np.float32)
        return np.ascontiguousarray(small.transpose(2, 0, 1) / 255)

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed thumbnails: (n, 3, 16, 16) to (n, dim) unit rows. A row does not depend on the rest of the batch."""
        return np.concatenate([_embed(one[None], self._projection) for one in batch])

    def describe(self) -> dict[str, Any]:
        """The description for a manifest. Its `spec` cannot be loaded, so pass this object when opening the index."""
        return {"name": self.name, "spec": "fake", "fingerprint": self.fingerprint, "dim": self.dim, "preprocess": {}}


@dataclass
class FakeTileEncoder:
    """Embeds tiles like a FakePhotoEncoder with the same seed."""

    dim: int = 32
    seed: int = 0
    batch_size: int = 8
    contexts: Mapping[int, float] = field(default_factory=dict)
    input_size: int = field(default=_SIDE, init=False)

    def __post_init__(self) -> None:
        self._projection = _projection(self.dim, self.seed)

    def context(self, zoom: int) -> float:
        """The margin around a tile, in tile widths: that in `contexts`, or 0."""
        return self.contexts.get(zoom, 0.0)

    def fingerprint(self, zoom: int) -> str:
        """Digest of dimension, seed, zoom and margin."""
        text = f"fake map {self.dim} {self.seed} {zoom} {self.context(zoom)}"
        return hashlib.sha256(text.encode()).hexdigest()

    def encode(self, zoom: int, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed tiles: (n, 16, 16, 3) uint8 to (n, dim) unit rows, the same at every zoom."""
        return _embed(pixels.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255), self._projection)


@dataclass(frozen=True)
class FakeLevel:
    """One zoom of a pyramid: (n,) ascending codes, (n,) flags, (n, d) unit rows (ignored where the flag is False)."""

    zoom: int
    codes: NDArray[np.uint64]
    has_vector: NDArray[np.bool_]
    vectors: NDArray[np.float32]


def fake_pyramid(
    seed: int, zooms: Sequence[int], dim: int, *, tiles: int = 200, thinning: float = 0.0, holes: float = 0.1
) -> list[FakeLevel]:
    """A random pyramid, closed upward, of at most `tiles` tiles a zoom.

    `thinning`: share of each zoom's tiles that have no children; `holes`: share of rows without vector.
    """
    rng = np.random.default_rng(seed)
    levels: list[FakeLevel] = []
    codes = np.arange(4 ** zooms[0], dtype=np.uint64)
    for i, zoom in enumerate(zooms):
        if i:
            parents = levels[-1].codes
            fertile = parents[rng.random(len(parents)) >= thinning]
            codes = _children(rng, fertile, zoom - zooms[i - 1], tiles)
        codes = np.sort(rng.choice(codes, min(tiles, len(codes)), replace=False))
        vectors = unit_rows(rng.standard_normal((len(codes), dim)))
        levels.append(FakeLevel(zoom, codes, rng.random(len(codes)) >= holes, vectors))
    return levels


def write_fake_index(
    directory: Path,
    levels: Sequence[FakeLevel],
    *,
    photo: FakePhotoEncoder | None = None,
    codec: str = "fp16",
    shard_parents: int | None = None,
) -> Manifest:
    """Write a pyramid as an index, in shards of `shard_parents` parents (None: one a zoom)."""
    directory.mkdir(parents=True, exist_ok=True)
    dim = levels[0].vectors.shape[1]
    photo = photo or FakePhotoEncoder(dim)
    maps = FakeTileEncoder(dim, photo.seed)
    zooms = []
    for i, level in enumerate(levels):
        shards = _write_level(directory, level, levels[i - 1] if i else None, codec, shard_parents)
        zooms.append(ZoomEntry(level.zoom, tuple(shards), maps.fingerprint(level.zoom)))
    return write_manifest(
        directory,
        zooms,
        dim=dim,
        codec=codec,
        photo_encoder=photo.describe(),
        map_encoders={"name": "fake"},
        source={"name": "fake", "identity": "fake"},
        attribution="nobody's tiles",
        coverage={
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [_WORLD]},
            "properties": {"zooms": [level.zoom for level in levels]},
        },
    )


def unit_rows(vectors: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Scale rows, (n, d), to length 1, as float32; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


_WORLD = [[-180, -85], [180, -85], [180, 85], [-180, 85], [-180, -85]]


def _children(rng: np.random.Generator, parents: NDArray[np.uint64], step: int, tiles: int) -> NDArray[np.uint64]:
    """Children of the parents: all for small steps, else random ones, a little more than `tiles` in all."""
    if 4**step <= 256:
        return children_of_codes(parents, step)
    codes = parents.repeat(max(1, tiles // max(1, len(parents))) + 1) << np.uint64(2 * step)
    return np.unique(codes + rng.integers(0, 4**step, len(codes), dtype=np.uint64))


def _write_level(
    directory: Path, level: FakeLevel, above: FakeLevel | None, codec: str, shard_parents: int | None
) -> list[ShardEntry]:
    if above is None:
        parents, count = np.zeros(len(level.codes), dtype=np.int64), 1
    else:
        shift = np.uint64(2 * (level.zoom - above.zoom))
        parents, count = np.searchsorted(above.codes, level.codes >> shift).astype(np.int64), len(above.codes)
    shards = []
    size = shard_parents or max(count, 1)
    for number, first in enumerate(range(0, count, size)):
        last = min(first + size, count)
        start, stop = (int(v) for v in np.searchsorted(parents, (first, last)))
        rows = slice(start, stop)
        shards.append(
            write_shard(
                directory,
                level.zoom,
                number,
                level.codes[rows],
                level.vectors[rows],
                level.has_vector[rows],
                parents=parents[rows],
                first_row=start,
                first_parent=first,
                parent_count=last - first,
                codec=codec,
            )
        )
    return shards


def _projection(dim: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng([seed, dim]).standard_normal((3 * _SIDE * _SIDE, dim)).astype(np.float32)


def _embed(thumbnails: NDArray[np.float32], projection: NDArray[np.float32]) -> NDArray[np.float32]:
    # Subtracting middle grey spreads the similarities, which would otherwise all be near 1. A small constant in one
    # component gives an all-grey picture a direction.
    flat = thumbnails.reshape(len(thumbnails), -1) - np.float32(0.5)
    flat[:, 0] += np.float32(0.01)
    return unit_rows(flat @ projection)
