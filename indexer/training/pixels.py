"""What a map encoder sees of tiles, ready for a tower: composed as the indexer composes them, prepared as encoders do.

A tile whose bytes are no image counts as one without imagery; the reason is kept. It knows nothing of towers.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.build.compose import Composer
from indexer.build.decode import Decoded, TileProblem, decode_tile
from indexer.build.problems import NO_IMAGERY
from retrieval.encoders.preprocess import Preprocess
from tile_cache.addressing import Tile, tile_of_code
from tile_cache.source import TileSource

__all__ = ["TilePixels"]

_THREADS = min(8, os.cpu_count() or 1)
_PROBE = 8
"""Pixels along an edge of a tile that is only asked whether it is there."""

T = TypeVar("T")


class TilePixels:
    """What a map encoder sees of one zoom's tiles, with a margin of `context` tile widths and the overlay on top.

    `reasons`: Morton code -> why a tile that was asked for has no imagery ("no imagery", or how its bytes are broken).
    Use it from one thread; it reads and decodes in several. Errors of the source pass through.
    """

    def __init__(
        self, source: TileSource, overlay: TileSource | None, preprocess: Preprocess, context: float, zoom: int
    ) -> None:
        self.zoom, self.reasons = zoom, dict[int, str]()
        self._source, self._preprocess = source, preprocess
        self._composer = Composer(source, overlay, preprocess.size, context)

    def read(self, codes: NDArray[np.uint64]) -> tuple[Tensor, NDArray[np.bool_]]:
        """Tiles by Morton code, (n,), to pictures of those with imagery, (m, 3, s, s) float32, and which, (n,).

        They come in the order of `codes`.
        """
        composed = self._each(self._composer.compose, codes)
        there = self._note(codes, ((c.pixels is not None, c.problems) for c in composed))
        size = self._preprocess.size
        pictures = [c.pixels for c in composed if c.pixels is not None]
        stacked = np.stack(pictures) if pictures else np.empty((0, size, size, 3), dtype=np.uint8)
        return torch.from_numpy(self._preprocess.pixels(stacked)), there

    def has_imagery(self, codes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Which tiles, (n,) Morton codes, `read` would give pictures of, (n,); decodes them, but composes nothing."""
        decoded = self._each(self._probe, codes)
        return self._note(codes, ((d.pixels is not None, d.problems) for d in decoded))

    def _probe(self, tile: Tile) -> Decoded:
        return decode_tile(tile, self._source, None, _PROBE)

    def _each(self, work: Callable[[Tile], T], codes: NDArray[np.uint64]) -> list[T]:
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="tiles") as pool:
            return list(pool.map(work, (tile_of_code(int(code), self.zoom) for code in codes)))

    def _note(
        self, codes: NDArray[np.uint64], seen: Iterable[tuple[bool, tuple[TileProblem, ...]]]
    ) -> NDArray[np.bool_]:
        """Which are there; why the others are not goes into `reasons`."""
        there = np.zeros(len(codes), dtype=np.bool_)
        for n, (has, problems) in enumerate(seen):
            there[n] = has
            if not has:
                broken = (p.reason for p in problems if p.layer == "source")
                self.reasons[int(codes[n])] = next(broken, NO_IMAGERY)
        return there
