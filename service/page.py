"""The page at `/` and the one at `/docs`: their files, those of Leaflet and Swagger UI from packages that ship them.

The files are plain HTML, CSS and modules in `service/static`; a strict policy lets a browser run and load only what
this service sends.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, params
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from indexer.retrieval.locator import Locator
from service import tiles
from service.settings import Settings

__all__ = ["CONTENT_SECURITY_POLICY", "install"]

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
    return FileResponse(_folder("service", "static/index.html") / "index.html", headers=_HEADERS)


@router.get("/docs")
async def docs() -> FileResponse:
    """The OpenAPI description, for people, in Swagger UI."""
    return FileResponse(_folder("service", "static/docs.html") / "docs.html", headers=_HEADERS)


class _Files(StaticFiles):
    """Files that a browser keeps and asks about again (`no-cache`), so that an update shows at once."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file with the page's headers, or 404."""
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


def install(
    app: FastAPI, settings: Settings, locator: Locator, admission: Sequence[params.Depends]
) -> tiles.MapTiles | None:
    """Add the page, its files and the map's tiles to `app`; returns the tiles, for closing.

    `admission` guards the tiles, which may be licensed; the page itself is the same for everyone.
    """
    source = str(locator.index.manifest.source.get("name", ""))
    found = tiles.open_tiles(settings.tiles, source)
    app.state.tiles = found
    app.include_router(router)
    app.include_router(tiles.router, dependencies=admission)
    app.mount("/static/leaflet", _Files(directory=_folder("xstatic.pkg.leaflet", "data/leaflet.js")))
    app.mount("/static/swagger", _Files(directory=_folder("fastapi_swagger.resources", "swagger-ui-bundle.js")))
    if source.split(":")[0] == tiles.BUILT_IN:  # the samples are pictures of the built-in Earth
        app.mount("/static/samples", _Files(directory=_folder("indexer.builtin", "samples/samples.json")))
    app.mount("/static", _Files(directory=_folder("service", "static/index.html")))
    return found


def _folder(package: str, file: str) -> Path:
    """Where a package's data file lies; packages here are always installed as folders."""
    found: Any = resources.files(package).joinpath(file)
    return Path(str(found)).parent
