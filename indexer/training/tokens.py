"""What a zoom's tail sees of its tiles: tokens before the first trained block, computed once and kept on disk."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.errors import TrainingError
from indexer.learning.activations import ActivationCache, CacheLimits
from indexer.learning.row_store import HEADER_BYTES, SUM_BYTES
from indexer.progress import Progress
from indexer.training.pixels import TilePixels
from indexer.training.workshop import Workshop

__all__ = ["ZoomTokens", "limits_by_zoom"]

Rows = NDArray[np.int64]
_PARTS = {"cpu": 32, "cuda": 128}
"""Tiles through the trunk at once, always so many: another shape changes last bits, and a tile's must not depend on its
company."""


class ZoomTokens:
    """One zoom's tiles by row, (n,), to tokens, (n, t, width) float32 on the CPU."""

    def __init__(
        self, shop: Workshop, zoom: int, codes: NDArray[np.uint64], pixels: TilePixels, cache: ActivationCache
    ) -> None:
        self.zoom, self.cache = zoom, cache
        self._shop, self._codes, self._pixels = shop, codes, pixels
        self._part = _PARTS.get(shop.encoder.device.type, 32)

    @classmethod
    @contextmanager
    def open(cls, shop: Workshop, zoom: int, codes: NDArray[np.uint64], limit: int) -> Iterator["ZoomTokens"]:
        """With a cache of `limit` bytes, which the first process fills before the others open it."""
        settings = shop.request.settings
        folder, limits = shop.request.cache_folder / f"z{zoom:02d}", CacheLimits(limit, settings.cache_dtype)
        with shop.sources.local() as local, ExitStack() as stack:
            margin = settings.margin(zoom)
            pixels = TilePixels(local.source, local.overlay, shop.encoder.preprocess, margin, zoom)

            def opened() -> ZoomTokens:
                shape, key = shop.tower.token_shape, _key(shop, zoom, codes)
                cache = stack.enter_context(ActivationCache.open(folder, key, len(codes), shape, limits))
                tokens = cls(shop, zoom, codes, pixels, cache)
                if shop.group.first:
                    tokens.fill()
                return tokens

            yield shop.group.first_then_all(opened)

    def __call__(self, rows: Rows) -> Tensor:
        """Tokens of some tiles, in order."""
        return self.cache.get(rows, self._compute)

    def fill(self) -> None:
        """Compute what the cache can hold and does not yet."""
        if self.cache.note:
            self._shop.tell(Progress("note", f"zoom {self.zoom}: {self.cache.note}"))
        bar = self._shop.bar("activations", f"Frozen layers, zoom {self.zoom}")
        self.cache.fill(self._compute, batch=8 * self._part, on_progress=bar)

    def _compute(self, rows: Rows) -> Tensor:
        return torch.cat([self._through(rows[i : i + self._part]) for i in range(0, len(rows), self._part)])

    def _through(self, rows: Rows) -> Tensor:
        pictures, there = self._pixels.read(self._codes[rows])
        if not there.all():
            code = int(self._codes[rows][~there][0])
            raise TrainingError(
                f"the tile of zoom {self.zoom} with Morton code {code} was there when the run began and is "
                f"not now ({self._pixels.reasons[code]}): bring it back, or begin anew with another --out"
            )
        padded = torch.zeros((self._part, *pictures.shape[1:]))
        padded[: len(rows)] = pictures
        return self._shop.tower.trunk(padded)[: len(rows)].cpu()


def limits_by_zoom(limit: int, tiles: dict[int, int], shape: tuple[int, int]) -> dict[int, int]:
    """A limit in bytes divided among zooms of so many tiles: small ones get what they need, others share the rest."""
    size = 4 * shape[0] * shape[1] + SUM_BYTES
    shares: dict[int, int] = {}
    for left, (zoom, count) in zip(range(len(tiles), 0, -1), sorted(tiles.items(), key=lambda t: t[1]), strict=True):
        shares[zoom] = min(HEADER_BYTES + count * size, (limit - sum(shares.values())) // left)
    return shares


def _key(shop: Workshop, zoom: int, codes: NDArray[np.uint64]) -> str:
    """All that tokens depend on; CPUs and GPUs differ in last bits, and a run has to have the same when it goes on."""
    settings, encoder = shop.request.settings, shop.encoder
    facts = [zoom, settings.margin(zoom), settings.blocks, encoder.fingerprint, encoder.device.type]
    return f"{facts} {shop.sources.identity()} {sha256(codes.tobytes()).hexdigest()}"
