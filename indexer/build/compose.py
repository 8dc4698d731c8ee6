"""Compose a map encoder's input: a tile, its overlay, and a margin filled from its neighbours.

The margin is given in tile widths. Where a neighbour has no imagery or lies beyond a pole, the tile's own edge is
repeated, and it shows through where a neighbour is transparent; columns wrap at the date line. The module knows pixels
and addresses, not encoders or files.
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
"""Size of the cache of decoded tiles: a tile appears in the margins of eight others and is decoded once."""


class Composed(NamedTuple):
    """An encoder's input, (size, size, 3) uint8, or None if the tile itself has no imagery; and the problems.

    `digest` hashes the pixels. It is computed in the composing threads to spare the encoder's thread. `sha256`: that of
    the bytes of the source's tile; empty if the source draws pixels, or has no tile.
    """

    pixels: Pixels | None
    problems: tuple[TileProblem, ...]
    digest: bytes = b""
    sha256: str = ""

    @classmethod
    def of(cls, pixels: Pixels | None, problems: tuple[TileProblem, ...], sha256: str) -> "Composed":
        """A picture with the digest of its pixels."""
        if pixels is None:
            return cls(None, problems, sha256=sha256)
        pixels = np.ascontiguousarray(pixels)
        return cls(pixels, problems, hashlib.blake2b(pixels.data, digest_size=16).digest(), sha256)


@dataclass(frozen=True)
class Frame:
    """Sizes in pixels of a picture's tile and margin, before the last resize to `size`.

    `reach`: how many tiles away the margin needs neighbours.
    """

    size: int
    tile: int
    margin: int
    reach: int

    @classmethod
    def of(cls, size: int, context: float) -> "Frame":
        """The frame of pictures of `size` pixels with a margin of `context` tile widths on each side."""
        if not (math.isfinite(context) and context >= 0):
            raise ValueError(f"margin {context!r} must be a number of tile widths, 0 or more")
        tile = math.ceil(size / (1 + 2 * context) - 1e-9)
        margin = round(context * tile)
        return cls(size, tile, margin, -(-margin // tile))


class Composer:
    """Composes tiles of one source, overlay, size and margin. Thread-safe; a tile in its cache is decoded only once.

    `absent`: pictures, by the SHA-256 of their bytes, that mean that there is no imagery.
    """

    def __init__(
        self,
        source: TileSource,
        overlay: TileSource | None,
        size: int,
        context: float,
        absent: frozenset[str] = frozenset(),
    ) -> None:
        self.frame = Frame.of(size, context)
        self._absent = absent
        self._source = source
        self._overlay = overlay
        self._lock = threading.Lock()
        self._decoded: LRUCache[Tile, Future[Decoded]] = LRUCache(max(64, CACHE_BYTES // (3 * self.frame.tile**2)))

    def compose(self, tile: Tile) -> Composed:
        """The picture of one tile. Errors of the source pass through."""
        if self.frame.reach == 0:
            alone = self._decode(tile)
            return Composed.of(alone.pixels, alone.problems, alone.sha256)
        own = self._shared(tile)
        if own.pixels is None:
            return Composed.of(None, own.problems, own.sha256)
        p = self.frame.margin
        canvas = np.pad(own.pixels, ((p, p), (p, p), (0, 0)), mode="edge")
        problems = list(own.problems)
        for dx, dy in self._offsets():
            near = self._neighbour(tile, dx, dy)
            problems.extend(near.problems)
            if near.pixels is not None:
                self._paste(canvas, near.pixels, near.opacity, dx, dy)
        return Composed.of(resized(canvas, self.frame.size), tuple(dict.fromkeys(problems)), own.sha256)

    def _decode(self, tile: Tile) -> Decoded:
        return decode_tile(tile, self._source, self._overlay, self.frame.tile, self._absent)

    def _offsets(self) -> list[tuple[int, int]]:
        steps = range(-self.frame.reach, self.frame.reach + 1)
        return [(dx, dy) for dy in steps for dx in steps if dx or dy]

    def _neighbour(self, tile: Tile, dx: int, dy: int) -> Decoded:
        n = 1 << tile.z
        if not 0 <= tile.y + dy < n:
            return Decoded(None, ())
        return self._shared(Tile((tile.x + dx) % n, tile.y + dy, tile.z))

    def _paste(self, canvas: Pixels, pixels: Pixels, opacity: Pixels | None, dx: int, dy: int) -> None:
        """Copy the part of a neighbour that lies on the canvas; what is there shows through where it is transparent."""
        t, p = self.frame.tile, self.frame.margin
        left, top = p + dx * t, p + dy * t
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + t, canvas.shape[1]), min(top + t, canvas.shape[0])
        if x1 > x0 and y1 > y0:
            place, part = np.s_[y0:y1, x0:x1], np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
            canvas[place] = pixels[part] if opacity is None else _over(canvas[place], pixels[part], opacity[part])

    def _shared(self, tile: Tile) -> Decoded:
        """A decoded tile; the first thread that needs it decodes it, the others wait."""
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


def _over(below: Pixels, pixels: Pixels, opacity: Pixels) -> Pixels:
    """Pixels that lie on black, (h, w, 3), laid over others instead; `opacity`: (h, w), 0 to 255."""
    through = (255 - opacity.astype(np.uint16))[..., None] * below
    return np.minimum(pixels + (through + 127) // 255, 255).astype(np.uint8)
