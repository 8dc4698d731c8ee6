"""The page at `/` and the one at `/docs`: their files, those of Leaflet and Swagger UI from packages that ship them.

The files are plain HTML, CSS and modules in `service/http/static`; a strict policy lets a browser run and load only what
this service sends.
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
from starlette.types import Scope

from retrieval.locator import Locator
from service.http import tiles
from service.settings import Settings

__all__ = ["CONTENT_SECURITY_POLICY", "Ground", "install"]

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
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def page() -> FileResponse:
    """Drop a picture, watch the beam."""
    return FileResponse(_folder("service.http", "static/index.html") / "index.html", headers=_HEADERS)


@router.get("/docs")
async def docs() -> FileResponse:
    """The OpenAPI description, for people, in Swagger UI."""
    return FileResponse(_folder("service.http", "static/docs.html") / "docs.html", headers=_HEADERS)


class _Files(StaticFiles):
    """Files that a browser keeps and asks about again (`no-cache`), so that an update shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file with the page's headers, or 404."""
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


class Ground:
    """What the page shows of the index that is loaded: the map's tiles (None: none), and whether samples are of it.

    Raises SettingsError where the setting names no source of tiles.
    """

    def __init__(self, settings: Settings, locator: Locator) -> None:
        self._setting = settings.tiles
        self._indexed = _source(locator)
        self.tiles = tiles.open_tiles(self._setting, self._indexed)

    @property
    def has_samples(self) -> bool:
        """The bundled samples are pictures of the built-in Earth."""
        return self._indexed.split(":")[0] == tiles.BUILT_IN

    def follow(self, locator: Locator) -> Callable[[], None]:
        """Open the tiles for the index that is to serve next; what is returned puts them in place of the old ones.

        Files are opened again, as others may lie there now; the built-in Earth is kept. Raises SettingsError.
        """
        indexed, old = _source(locator), self.tiles
        keeps = not self._setting and indexed == self._indexed
        new = old if keeps else tiles.open_tiles(self._setting, indexed)

        def take_over() -> None:
            self._indexed, self.tiles = indexed, new
            if old is not None and old is not new:
                old.retire()

        return take_over

    def close(self) -> None:
        """Drop what waits and close the source."""
        if self.tiles is not None:
            self.tiles.close()


def _source(locator: Locator) -> str:
    """The name of the source that an index was built from."""
    return str(locator.index.manifest.source.get("name", ""))


class _Samples(_Files):
    """The bundled samples, while the index that is loaded is of what they show."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(directory=_folder("indexer.builtin", "samples/samples.json"))
        self._ground = ground

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, or 404."""
        if not self._ground.has_samples:
            raise HTTPException(404)
        return await super().get_response(path, scope)


def install(app: FastAPI, ground: Ground, admission: Sequence[params.Depends]) -> None:
    """Add the page, its files and the map's tiles to `app`.

    `admission` guards the tiles, which may be licensed; the page itself is the same for everyone.
    """
    app.state.ground = ground
    app.include_router(router)
    app.include_router(tiles.router, dependencies=admission)
    app.mount("/static/leaflet", _Files(directory=_folder("xstatic.pkg.leaflet", "data/leaflet.js")))
    app.mount("/static/swagger", _Files(directory=_folder("fastapi_swagger.resources", "swagger-ui-bundle.js")))
    app.mount("/static/samples", _Samples(ground))
    app.mount("/static", _Files(directory=_folder("service.http", "static/index.html")))


def _folder(package: str, file: str) -> Path:
    """Where a package's data file lies; packages here are always installed as folders."""
    found: Any = resources.files(package).joinpath(file)
    return Path(str(found)).parent
