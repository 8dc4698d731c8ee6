"""Any tile source on this machine as a reference of one rendition. It fetches nothing and knows no pictures."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.registration.fields import Layer
from retrieval.sphere import EARTH_RADIUS_KM
from tile_cache.addressing import Tile

__all__ = ["TileReference"]

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

_EQUATOR_KM = 2 * np.pi * EARTH_RADIUS_KM
_MAX_LAT = 85.05112878
_MAX_TILES = 64
"""Tiles of one drawing; where more would be needed, those of a lower zoom are read."""
_NO_IMAGERY = 128


class TileReference:
    """Web-Mercator tiles, as `read` gives them: encoded pictures, or None where there is none.

    `read` must be callable from several threads. `zooms`: the zooms that have tiles, such as an index's. Decoded tiles
    are cached up to `max_bytes`. A tile that is missing, or that cannot be decoded, is flat grey.
    """

    def __init__(
        self,
        read: Callable[[Tile], bytes | None],
        identity: str,
        zooms: Sequence[int],
        tile_size: int = 256,
        max_bytes: int = 64_000_000,
    ) -> None:
        if not zooms:
            raise ValueError("a tile reference needs at least one zoom: give those that the source has")
        self.identity = identity
        self._read, self._zooms, self._size = read, sorted(zooms), tile_size
        self._capacity = max(1, max_bytes // (3 * tile_size * tile_size))
        self._tiles: OrderedDict[Tile, Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def layers(self, lng: Floats, lat: Floats, pixel_km: float) -> list[Layer]:
        """One rendition, (3, h, w), with weight 1; grey beyond 85 degrees of latitude."""
        middle = float(np.clip(np.median(lat), -_MAX_LAT, _MAX_LAT))
        exact = np.log2(_EQUATOR_KM * np.cos(np.radians(middle)) / (self._size * pixel_km))
        x, y = _mercator(lng, lat)
        # Longitudes continue beyond the date line, so that a drawing across it is one piece.
        x = (x - x.flat[x.size // 2] + 0.5) % 1.0 + x.flat[x.size // 2] - 0.5
        fitting = [z for z in self._zooms if z <= exact + 0.5] or self._zooms[:1]
        for zoom in reversed(fitting):
            columns, rows = self._span(x, zoom), self._span(np.clip(y, 0, 1 - 1e-9), zoom)
            if len(columns) * len(rows) <= _MAX_TILES or zoom == fitting[0]:
                break
        mosaic = self._mosaic(columns, rows, zoom)
        scale = 2**zoom * self._size
        values = _bilinear(mosaic, x * scale - columns[0] * self._size - 0.5, y * scale - rows[0] * self._size - 0.5)
        values[:, np.abs(lat) > _MAX_LAT] = _NO_IMAGERY
        return [(values, 1.0)]

    def _span(self, position: Floats, zoom: int) -> range:
        """The tile columns or rows that these positions, 0 to 1, and their neighbours lie in."""
        pixel = 0.5 / (2**zoom * self._size)
        return range(
            int(np.floor((position.min() - pixel) * 2**zoom)), int(np.floor((position.max() + pixel) * 2**zoom)) + 1
        )

    def _mosaic(self, columns: range, rows: range, zoom: int) -> Pixels:
        size, count = self._size, 2**zoom
        mosaic = np.full((len(rows) * size, len(columns) * size, 3), _NO_IMAGERY, dtype=np.uint8)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                if 0 <= row < count:
                    mosaic[i * size : (i + 1) * size, j * size : (j + 1) * size] = self._tile(
                        Tile(column % count, row, zoom)
                    )
        return mosaic

    def _tile(self, tile: Tile) -> Pixels:
        with self._lock:
            if tile in self._tiles:
                self._tiles.move_to_end(tile)
                return self._tiles[tile]
        pixels = self._decoded(tile)
        with self._lock:
            self._tiles[tile] = pixels
            while len(self._tiles) > self._capacity:
                self._tiles.popitem(last=False)
        return pixels

    def _decoded(self, tile: Tile) -> Pixels:
        data = self._read(tile)
        size = (self._size, self._size)
        if data is not None:
            try:
                with Image.open(io.BytesIO(data)) as image:
                    image.draft("RGB", size)
                    return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BOX))
            except Exception:  # Pillow's decoders raise almost anything on damaged bytes
                pass
        return np.full((*size, 3), _NO_IMAGERY, dtype=np.uint8)


def _mercator(lng: Floats, lat: Floats) -> tuple[Floats, Floats]:
    """Degrees to positions from 0 to 1, from the west and from the north."""
    sine = np.sin(np.radians(np.clip(lat, -_MAX_LAT, _MAX_LAT)))
    return (lng + 180) / 360, 0.5 - np.arctanh(sine) / (2 * np.pi)


def _bilinear(picture: Pixels, column: Floats, row: Floats) -> NDArray[np.float32]:
    """Sample (h, w, 3) at pixel positions of any shape: (3, ...) float32; the outermost pixels repeat outside."""
    height, width = picture.shape[:2]
    x = np.clip(column.ravel(), 0, width - 1.001).astype(np.float32)
    y = np.clip(row.ravel(), 0, height - 1.001).astype(np.float32)
    left, top = x.astype(np.int64), y.astype(np.int64)
    across, down = (x - left).astype(np.float32)[:, None], (y - top).astype(np.float32)[:, None]
    flat, at = picture.reshape(-1, 3), top * width + left
    upper = flat[at] * (1 - across) + flat[at + 1] * across
    lower = flat[at + width] * (1 - across) + flat[at + width + 1] * across
    return np.ascontiguousarray((upper * (1 - down) + lower * down).T).reshape(3, *column.shape)
