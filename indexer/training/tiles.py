"""The tiles of a training: sources on this machine, pictures for a tower, and tokens from its frozen trunk.

Only tiles that hold a photo are read or fetched, and the neighbours that a margin needs. Tiles are composed as the
index build composes them, and prepared as encoders prepare them. This module knows nothing of photos and losses.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.build.area import reach_of
from indexer.build.compose import Composer
from indexer.build.coverage import neighbours
from indexer.build.decode import NO_IMAGERY, Decoded, TileProblem, decode_tile
from indexer.build.fetch import cache_file, fetch_tiles, open_cache
from indexer.errors import CoverageError, TrainingError
from indexer.learning.activations import ActivationCache
from indexer.learning.row_store import HEADER_BYTES, SUM_BYTES
from indexer.learning.trunk import SplitTower
from indexer.progress import OnProgress
from indexer.training.settings import TrainRequest
from retrieval.encoders.preprocess import Preprocess
from tile_cache.addressing import Tile, tile_of_code
from tile_cache.mbtiles import TileStore
from tile_cache.open import open_source
from tile_cache.source import SourceInfo, TileSource
from tile_cache.xyz import XyzSource

__all__ = ["LocalSources", "TilePixels", "TileSources", "ZoomTokens", "divide_limit"]

Rows = NDArray[np.int64]
T = TypeVar("T")

_THREADS = min(8, os.cpu_count() or 1)
_PROBE_PIXELS = 8
"""Edge of a tile that is decoded only to see whether it can be."""
_FETCHED_AT_ONCE = 65_536


class LocalSources(NamedTuple):
    """A source and an overlay that answer without a network.

    `absent`: pictures, by the SHA-256 of their bytes, that mean that there is no imagery.
    """

    source: TileSource
    overlay: TileSource | None
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TileSources:
    """A request's source and overlay. Servers are read through the cache of fetched tiles; see `local`."""

    request: TrainRequest
    source: TileSource | XyzSource
    overlay: TileSource | XyzSource | None

    @classmethod
    def open(cls, request: TrainRequest) -> "TileSources":
        """Open both. Raises SourceError kinds, and CoverageError for a zoom that the source does not have."""
        overlay = None if request.overlay is None else open_source(request.overlay)
        sources = cls(request, open_source(request.source), overlay)
        _check_zooms(request.settings.zooms, sources.source.info)
        return sources

    def identity(self) -> dict[str, Any]:
        """What decides the tiles' pixels."""
        absent = self.request.fetch.absent_images
        overlay = self.overlay.info.identity if self.overlay else None
        named = {"absent-image": sorted(absent)} if absent else {}  # runs without keep the identity that they had
        return {"source": self.source.info.identity, "overlay": overlay, **named}

    def fetch(self, codes: Mapping[int, NDArray[np.uint64]], on_progress: OnProgress) -> None:
        """Fetch what is missing of these tiles, Morton codes by zoom, and of their margins."""
        for source, is_overlay in ((self.source, False), (self.overlay, True)):
            if isinstance(source, XyzSource):
                self._fetch(source, is_overlay, codes, on_progress)

    @contextmanager
    def local(self) -> Iterator[LocalSources]:
        """Both as sources that answer without a network: servers' tiles come from the cache."""
        with ExitStack() as stack:
            source = self._local(stack, self.source, overlay=False)
            overlay = self._local(stack, self.overlay, overlay=True) if self.overlay else None
            yield LocalSources(source, overlay, self.request.fetch.absent_images)

    def close(self) -> None:
        """Close what is open."""
        for source in (self.source, self.overlay):
            if source is not None and not isinstance(source, XyzSource):
                source.close()

    def _local(self, stack: ExitStack, source: TileSource | XyzSource, *, overlay: bool) -> TileSource:
        if not isinstance(source, XyzSource):
            return source
        path = cache_file(self.request.tile_cache, source.info, overlay=overlay)
        return stack.enter_context(TileStore.open(path, source.info, read_only=True))

    def _fetch(
        self, server: XyzSource, overlay: bool, codes: Mapping[int, NDArray[np.uint64]], on_progress: OnProgress
    ) -> None:
        info = server.info
        chunks = []
        for z, own in codes.items():
            if info.min_zoom <= z <= info.max_zoom:
                needed = np.unique(neighbours(own, z, reach_of(self.request.settings.margin(z))))
                chunks += [(z, needed[i : i + _FETCHED_AT_ONCE]) for i in range(0, len(needed), _FETCHED_AT_ONCE)]
        total = sum(len(c) for _, c in chunks)
        with open_cache(cache_file(self.request.tile_cache, info, overlay=overlay), info) as store:
            fetch_tiles(server, store, chunks, total, self.request.fetch, on_progress)


class TilePixels:
    """One zoom's tiles as a map encoder sees them, with a margin of `context` tile widths and the overlay on top.

    A tile whose bytes are not an image counts as one without imagery. `reasons`: Morton code -> why a tile has no
    imagery ("no imagery", or how its bytes are broken), for the tiles asked for so far. Use it from one thread; it
    reads and decodes in several. Errors of the source pass through.
    """

    def __init__(self, sources: LocalSources, preprocess: Preprocess, context: float, zoom: int) -> None:
        self.zoom, self.reasons = zoom, dict[int, str]()
        self._source, self._preprocess, self._absent = sources.source, preprocess, sources.absent
        self._composer = Composer(sources.source, sources.overlay, preprocess.size, context, sources.absent)

    def read(self, codes: NDArray[np.uint64]) -> tuple[Tensor, NDArray[np.bool_]]:
        """Tiles by Morton code, (n,), to pictures of those with imagery, (m, 3, s, s) float32, and which, (n,).

        The pictures are in the order of `codes`.
        """
        composed = self._map(self._composer.compose, codes)
        has_imagery = self._record(codes, ((c.pixels is not None, c.problems) for c in composed))
        size = self._preprocess.size
        pictures = [c.pixels for c in composed if c.pixels is not None]
        stacked = np.stack(pictures) if pictures else np.empty((0, size, size, 3), dtype=np.uint8)
        return torch.from_numpy(self._preprocess.pixels(stacked)), has_imagery

    def has_imagery(self, codes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which tiles, (n,) Morton codes, have a picture, (n,); decodes them, but composes nothing."""
        decoded = self._map(self._probe, codes)
        return self._record(codes, ((d.pixels is not None, d.problems) for d in decoded))

    def _probe(self, tile: Tile) -> Decoded:
        return decode_tile(tile, self._source, None, _PROBE_PIXELS, self._absent)

    def _map(self, work: Callable[[Tile], T], codes: NDArray[np.uint64]) -> list[T]:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="tiles") as pool:
            return list(pool.map(work, (tile_of_code(int(code), self.zoom) for code in codes)))

    def _record(
        self, codes: NDArray[np.uint64], results: Iterable[tuple[bool, tuple[TileProblem, ...]]]
    ) -> NDArray[np.bool_]:
        """Which tiles have imagery; the reason of each other one goes into `reasons`."""
        has_imagery = np.zeros(len(codes), dtype=np.bool_)
        for n, (has, problems) in enumerate(results):
            has_imagery[n] = has
            if not has:
                broken = (p.reason for p in problems if p.layer == "source")
                self.reasons[int(codes[n])] = next(broken, NO_IMAGERY)
        return has_imagery


class ZoomTokens:
    """One zoom's tiles by row, (n,), as tokens from the frozen trunk, (n, t, width) float32 on the CPU.

    `codes`: (t,) the Morton codes of all rows; `cache` keeps tokens between calls and runs.
    """

    def __init__(
        self, tower: SplitTower, codes: NDArray[np.uint64], pixels: TilePixels, cache: ActivationCache
    ) -> None:
        self._tower, self._codes, self._pixels, self._cache = tower, codes, pixels, cache

    def __call__(self, rows: Rows) -> Tensor:
        """The tokens of some tiles, in their order. TrainingError if a tile has disappeared from the source."""
        return self._cache.get(rows, self._compute)

    def fill(self, on_progress: Callable[[int, int], None]) -> None:
        """Compute what the cache can hold and does not hold yet; `on_progress` gets (rows done, rows that fit)."""
        self._cache.fill(self._compute, batch=8 * self._tower.batch, on_progress=on_progress)

    def _compute(self, rows: Rows) -> Tensor:
        return self._tower.trunk_of_rows(rows, self._pictures)

    def _pictures(self, rows: Rows) -> Tensor:
        codes = self._codes[rows]
        pictures, has_imagery = self._pixels.read(codes)
        if not has_imagery.all():
            code = int(codes[~has_imagery][0])
            tile = tile_of_code(code, self._pixels.zoom)
            raise TrainingError(
                f"tile {tile.z}/{tile.x}/{tile.y} was there when the run began and is missing now "
                f"({self._pixels.reasons[code]}): restore it, or start again with another --out"
            )
        return pictures


def divide_limit(limit: int, tiles: Mapping[int, int], shape: tuple[int, int]) -> dict[int, int]:
    """Divide a limit in bytes among zooms of so many tiles: small zooms get what they need, others share the rest.

    `shape`: (t, width) of a tile's tokens.
    """
    size = 4 * shape[0] * shape[1] + SUM_BYTES
    shares: dict[int, int] = {}
    for left, (zoom, count) in zip(range(len(tiles), 0, -1), sorted(tiles.items(), key=lambda t: t[1]), strict=True):
        shares[zoom] = min(HEADER_BYTES + count * size, (limit - sum(shares.values())) // left)
    return shares


def _check_zooms(zooms: tuple[int, ...], info: SourceInfo) -> None:
    for z in zooms:
        if z > info.max_zoom:
            raise CoverageError(f"{info.name} ends at zoom {info.max_zoom}, but --zooms has {z}")
        if z < info.min_zoom:
            raise CoverageError(f"{info.name} begins at zoom {info.min_zoom}, but --zooms has {z}")
