"""The page at `/` and the API documentation at `/docs`, with the files of Leaflet and Swagger UI that they need.

The page is plain HTML, CSS and JavaScript modules in `service/http/static`. A strict content security policy lets the
browser load only what this service sends.
"""

from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, params
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from retrieval.locator import Locator
from service.http import tiles
from service.settings import Settings

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Accept-Ranges": "none",
}

router = APIRouter(include_in_schema=False)


class _WholeFile(FileResponse):
    """A file that is always sent whole: it is small, and Starlette's errors for a wrong range are plain text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, whatever the request's Range says."""
        await super().__call__({**scope, "headers": _without_range(scope)}, receive, send)


def _without_range(scope: Scope) -> list[tuple[bytes, bytes]]:
    return [pair for pair in scope["headers"] if pair[0] != b"range"]


@router.get("/")
async def page() -> FileResponse:
    """The page: drop a picture, see the answer on a map."""
    return _WholeFile(_folder("service.http", "static/index.html") / "index.html", headers=_HEADERS)


@router.get("/docs")
async def docs() -> FileResponse:
    """The OpenAPI document in Swagger UI."""
    return _WholeFile(_folder("service.http", "static/docs.html") / "docs.html", headers=_HEADERS)


class _Files(StaticFiles):
    """Static files that a browser caches but revalidates (`no-cache`), so that an update shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file with the page's headers, or 404."""
        scope["headers"] = _without_range(scope)
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


class MapState:
    """The parts of the page that depend on the loaded index: the map's tiles (None: no map) and the samples.

    Raises SettingsError if the setting `tiles` does not name a tile source.
    """

    def __init__(self, settings: Settings, locator: Locator) -> None:
        self._setting = settings.tiles
        self._index_source = _source_name(locator)
        self.tiles = tiles.open_tiles(self._setting, self._index_source)

    @property
    def has_samples(self) -> bool:
        """Whether the bundled samples, pictures of the built-in Earth, fit the index."""
        return self._index_source.split(":")[0] == tiles.BUILT_IN

    def prepare_for(self, locator: Locator) -> Callable[[], None]:
        """Open the tiles for the next index, and return a function that replaces the old tiles with them.

        A source from the settings is opened again, because its file may have been replaced; the built-in Earth is
        reused. Raises SettingsError.
        """
        index_source, old = _source_name(locator), self.tiles
        reuse = not self._setting and index_source == self._index_source
        new = old if reuse else tiles.open_tiles(self._setting, index_source)

        def replace() -> None:
            self._index_source, self.tiles = index_source, new
            if old is not None and old is not new:
                old.close_when_idle()

        return replace

    def close(self) -> None:
        """Cancel queued tiles and close the source."""
        if self.tiles is not None:
            self.tiles.close()


def _source_name(locator: Locator) -> str:
    """Name of the tile source that the index was built from."""
    return str(locator.index.manifest.source.get("name", ""))


class _Samples(_Files):
    """The bundled samples; 404 while the loaded index does not cover them."""

    def __init__(self, map_state: MapState) -> None:
        super().__init__(directory=_folder("indexer.builtin", "samples/samples.json"))
        self._map_state = map_state

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, or 404."""
        if not self._map_state.has_samples:
            raise HTTPException(404)
        return await super().get_response(path, scope)


def install(app: FastAPI, map_state: MapState, admission: Sequence[params.Depends]) -> None:
    """Add the page, its files and the map's tiles to `app`.

    `admission` applies to the tiles, which may be licensed. The page itself is public.
    """
    app.state.map_state = map_state
    app.include_router(router)
    app.include_router(tiles.router, dependencies=admission)
    app.mount("/static/leaflet", _Files(directory=_folder("xstatic.pkg.leaflet", "data/leaflet.js")))
    app.mount("/static/swagger", _Files(directory=_folder("fastapi_swagger.resources", "swagger-ui-bundle.js")))
    app.mount("/static/samples", _Samples(map_state))
    app.mount("/static", _Files(directory=_folder("service.http", "static/index.html")))


def _folder(package: str, file: str) -> Path:
    """The folder of a package's data file; these packages are always installed as folders."""
    path: Any = resources.files(package).joinpath(file)
    return Path(str(path)).parent
