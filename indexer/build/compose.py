"""What a map encoder sees of a tile: the tile, its overlay, and a margin filled from its neighbours.

The margin is given in tile widths. A neighbour that has no imagery, or that would lie beyond a pole, leaves the tile's
own edge repeated; columns wrap at the date line. It knows pixels and addresses, not encoders or files.
"""

import hashlib
import math
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from indexer.build.decode import Decoded, TileProblem, decode_tile, resized
from tile_cache.addressing import Tile
from tile_cache.source import TileSource

__all__ = ["Composed", "Composer", "Frame"]

Pixels = NDArray[np.uint8]

CACHE_BYTES = 128 << 20
"""Decoded tiles kept, so that a tile is decoded once though it stands in nine pictures."""


class Composed(NamedTuple):
    """An encoder's input, (size, size, 3) uint8, or None: no imagery for the tile itself; and what was wrong.

    `digest` hashes the pixels: taken here, in the threads that compose, so that the one that encodes need not.
    """

    pixels: Pixels | None
    problems: tuple[TileProblem, ...]
    digest: bytes = b""

    @classmethod
    def of(cls, pixels: Pixels | None, problems: tuple[TileProblem, ...]) -> "Composed":
        """With the digest of these pixels."""
        if pixels is None:
            return cls(None, problems)
        pixels = np.ascontiguousarray(pixels)
        return cls(pixels, problems, hashlib.blake2b(pixels.data, digest_size=16).digest())


@dataclass(frozen=True)
class Frame:
    """How large a picture, its tile and its margin are, in pixels, before the last resize to `size`.

    `reach` is how many tiles away the margin needs neighbours.
    """

    size: int
    tile: int
    margin: int
    reach: int

    @classmethod
    def of(cls, size: int, context: float) -> "Frame":
        """For pictures of `size` pixels with a margin of `context` tile widths (0 or more) on each side."""
        if not (math.isfinite(context) and context >= 0):
            raise ValueError(f"a margin of {context!r} tile widths is none: 0 or more is needed")
        tile = math.ceil(size / (1 + 2 * context) - 1e-9)
        margin = round(context * tile)
        return cls(size, tile, margin, -(-margin // tile))


class Composer:
    """Composes tiles of one source, overlay, size and margin. Thread-safe; while kept, a tile is decoded only once."""

    def __init__(self, source: TileSource, overlay: TileSource | None, size: int, context: float) -> None:
        self.frame = Frame.of(size, context)
        self._source = source
        self._overlay = overlay
        self._lock = threading.Lock()
        self._decoded: LRUCache[Tile, Future[Decoded]] = LRUCache(max(64, CACHE_BYTES // (3 * self.frame.tile**2)))

    def compose(self, tile: Tile) -> Composed:
        """The picture of one tile. Errors of the source pass through."""
        if self.frame.reach == 0:
            alone = self._decode(tile)
            return Composed.of(alone.pixels, alone.problems)
        own = self._shared(tile)
        if own.pixels is None:
            return Composed.of(None, own.problems)
        p = self.frame.margin
        canvas = np.pad(own.pixels, ((p, p), (p, p), (0, 0)), mode="edge")
        problems = list(own.problems)
        for dx, dy in self._offsets():
            near = self._neighbour(tile, dx, dy)
            problems.extend(near.problems)
            if near.pixels is not None:
                self._paste(canvas, near.pixels, dx, dy)
        return Composed.of(resized(canvas, self.frame.size), tuple(dict.fromkeys(problems)))

    def _decode(self, tile: Tile) -> Decoded:
        return decode_tile(tile, self._source, self._overlay, self.frame.tile)

    def _offsets(self) -> list[tuple[int, int]]:
        steps = range(-self.frame.reach, self.frame.reach + 1)
        return [(dx, dy) for dy in steps for dx in steps if dx or dy]

    def _neighbour(self, tile: Tile, dx: int, dy: int) -> Decoded:
        n = 1 << tile.z
        if not 0 <= tile.y + dy < n:
            return Decoded(None, ())
        return self._shared(Tile((tile.x + dx) % n, tile.y + dy, tile.z))

    def _paste(self, canvas: Pixels, pixels: Pixels, dx: int, dy: int) -> None:
        """Put a neighbour in its place on the canvas, as far as it reaches in."""
        t, p = self.frame.tile, self.frame.margin
        left, top = p + dx * t, p + dy * t
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + t, canvas.shape[1]), min(top + t, canvas.shape[0])
        if x1 > x0 and y1 > y0:
            canvas[y0:y1, x0:x1] = pixels[y0 - top : y1 - top, x0 - left : x1 - left]

    def _shared(self, tile: Tile) -> Decoded:
        """A decoded tile, from whichever thread asked first."""
        with self._lock:
            future = self._decoded.get(tile)
            if mine := future is None:
                future = self._decoded[tile] = Future()
        if mine:
            try:
                future.set_result(self._decode(tile))
            except BaseException as exc:
                future.set_exception(exc)
        return future.result()
