"""Puts the service together: `create_app` makes the app of one index. Importing this module has no side effects."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from importlib import metadata

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware

from retrieval.locator import Locator
from service import reload
from service.access.admission import Admission, admit
from service.access.audit import Audit
from service.engine.inference import Inference
from service.errors import NotReadyError
from service.http import handlers, openapi, page, routes, tiles
from service.http.browsers import AnswerHeadersMiddleware, SiteCheckMiddleware, cors
from service.http.drain_upload import DrainUploadMiddleware
from service.http.methods import MethodsMiddleware
from service.ops.metrics import Metrics, MetricsMiddleware
from service.ops.request_log import RequestLogMiddleware
from service.settings import Settings


def create_app(settings: Settings, locator: Locator, reopen: reload.Reopen | None = None) -> FastAPI:
    """The HTTP app of one open index. Its lifespan warms the engine up and stops its threads.

    `reopen` opens the next index for `POST /index/reload` and SIGHUP; without it both are refused.
    """
    metrics = Metrics()
    inference = Inference(locator, settings, metrics)
    audit, admission = Audit(settings.audit_file), Admission(settings)
    map_state = page.MapState(settings, locator)
    reloader = reload.Reloader(inference, admission, audit, reopen, map_state.prepare_for)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # In the background: /healthz answers at once, /readyz after a real inference.
        warm_up = asyncio.create_task(_warm_up(inference))
        inference.registering.load()
        with reloader.on_hangup():
            yield
        warm_up.cancel()
        await asyncio.to_thread(inference.close)
        audit.close()
        await asyncio.to_thread(map_state.close)

    # FastAPI's own /docs and /redoc load their viewers from another host; service.http.page serves one from here.
    # A redirect to the path without its last slash would go to whatever Host the request names.
    app = FastAPI(
        title="Tilebeam",
        version=version(),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.service = routes.Service(settings, inference, metrics, admission, audit)
    app.state.reloader = reloader
    for router in (routes.router, reload.router):
        app.include_router(router, dependencies=[Depends(admit)])
    page.install(app, map_state, [Depends(admit)])
    handlers.install(app, metrics)
    document = functools.cache(lambda: openapi.document(app.routes, app.version))
    app.openapi = document  # type: ignore[method-assign]  # the way that FastAPI documents
    app.add_route(openapi.PATH, openapi.answer(document), include_in_schema=False)
    # FastAPI keeps included routers as they are, so their routes are not among the app's.
    every_route = [r for router in (routes, reload, page, tiles) for r in router.router.routes] + app.routes
    app.add_middleware(MethodsMiddleware, routes=every_route)
    if settings.cors_origins:
        app.add_middleware(CORSMiddleware, **cors(settings))
    respond = handlers.responder(metrics)
    app.add_middleware(SiteCheckMiddleware, settings=settings, refuse=respond)
    app.add_middleware(DrainUploadMiddleware)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.add_middleware(RequestLogMiddleware, respond=respond)
    app.add_middleware(AnswerHeadersMiddleware, settings=settings)
    return app


async def _warm_up(inference: Inference) -> None:
    with contextlib.suppress(NotReadyError):  # it was logged, and /readyz tries again
        await inference.check()


def version() -> str:
    """The installed version of Tilebeam."""
    try:
        return metadata.version("tilebeam")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "0"
