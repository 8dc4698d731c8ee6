"""Putting the service together. Importing this module does nothing; `create_app` makes one app of one index."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator
from importlib import metadata

from fastapi import Depends, FastAPI

from retrieval.locator import Locator
from service import reload
from service.access.admission import Admission, admit
from service.access.audit import Audit
from service.engine.inference import Inference
from service.errors import NotReadyError
from service.http import handlers, openapi, page, routes
from service.ops.linger import LingerMiddleware
from service.ops.logs import RequestLogMiddleware
from service.ops.metrics import Metrics, MetricsMiddleware
from service.settings import Settings

__all__ = ["create_app", "version"]


def create_app(settings: Settings, locator: Locator, reopen: reload.Reopen | None = None) -> FastAPI:
    """The HTTP service of one opened index. The app's lifespan warms it up, and ends its threads.

    `reopen` opens what `POST /index/reload` and SIGHUP take in its place; without it they are refused.
    """
    metrics = Metrics()
    inference = Inference(locator, settings, metrics)
    audit, admission = Audit(settings.audit_file), Admission(settings)
    ground = page.Ground(settings, locator)
    reloader = reload.Reloader(inference, admission, audit, reopen, ground.follow)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # In the background: /healthz answers at once, /readyz when a real inference has succeeded.
        warm_up = asyncio.create_task(_warm_up(inference))
        with reloader.on_hangup():
            yield
        warm_up.cancel()
        await asyncio.to_thread(inference.close)
        audit.close()
        await asyncio.to_thread(ground.close)

    # Its own pages of /docs and /redoc load their viewers from a public host; service.http.page has one that does not.
    app = FastAPI(title="Tilebeam", version=version(), lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = routes.Service(settings, inference, metrics, admission, audit)
    app.state.reloader = reloader
    for router in (routes.router, reload.router):
        app.include_router(router, dependencies=[Depends(admit)])
    page.install(app, ground, [Depends(admit)])
    handlers.install(app, metrics)
    described = functools.cache(lambda: openapi.document(app.routes, app.version))
    app.openapi = described  # type: ignore[method-assign]  # as FastAPI documents it
    app.add_middleware(LingerMiddleware)
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    app.add_middleware(RequestLogMiddleware)
    return app


async def _warm_up(inference: Inference) -> None:
    with contextlib.suppress(NotReadyError):  # it is in the log, and /readyz tries again
        await inference.check()


def version() -> str:
    """Tilebeam's, as it is installed."""
    try:
        return metadata.version("tilebeam")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
