"""The routes: each parses its request, is admitted by the limits, calls the engine and answers.

Errors are raised, not answered here: `service.http.handlers` turns them into problem documents.
"""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from retrieval.search.query import LocateQuery
from service.access.admission import Admission
from service.access.audit import Audit
from service.engine.inference import Inference
from service.engine.limits import deadline, until_disconnect
from service.errors import RequestError
from service.http import geojson
from service.http.batches import BatchResponse, BatchWork
from service.http.models import LocateParams
from service.http.openapi import BATCH, HEALTH, INDEX, LOCATE, METRICS, READY
from service.http.uploads import Spool, UploadedPhoto, read_batch, read_photo
from service.ops.metrics import Metrics
from service.settings import Settings

router = APIRouter()

_VARY = {"Vary": "Accept"}


@dataclass(frozen=True)
class Service:
    """The parts of one app that its routes use."""

    settings: Settings
    inference: Inference
    metrics: Metrics
    admission: Admission
    audit: Audit


async def _service(request: Request) -> Service:
    # A coroutine, like the next one: FastAPI runs plain functions in a thread, which takes longer than the function.
    parts: Service = request.app.state.service
    return parts


ServiceParts = Annotated[Service, Depends(_service)]


async def _query(request: Request, params: Annotated[LocateParams, Query()], service: ServiceParts) -> LocateQuery:
    repeated = {name for name in params.model_fields_set if len(request.query_params.getlist(name)) > 1}
    if repeated:
        raise RequestError(f"query parameter {min(repeated)!r} is given more than once; give it once")
    query = params.query(service.settings.scoring)
    service.inference.locator.plan(query)  # reject an unknown prior before the picture is read
    return query


LocateQueryParam = Annotated[LocateQuery, Depends(_query)]


@router.post("/locate", tags=["locate"], summary="Where was this picture taken?", **LOCATE)
async def locate(request: Request, query: LocateQueryParam, service: ServiceParts) -> Response:
    """Send one picture, as the file field `image` of a form or as a raw body with an `image/*` content type."""
    with service.inference.requests.admitted():
        service.inference.slots.check()  # before the upload is read: reject early
        async with deadline(service.settings.request_timeout_s, "answering"):
            photo = await read_photo(request, service.settings)
            answer = await until_disconnect(request, _answer(request, photo, query, service))
    if geojson.preferred(request.headers.get("accept", "")):
        return JSONResponse(geojson.feature_collection(answer), headers=_VARY, media_type=geojson.MEDIA_TYPE)
    return JSONResponse(answer, headers=_VARY)


async def _answer(request: Request, photo: UploadedPhoto, query: LocateQuery, service: Service) -> dict[str, Any]:
    with service.audit.trail(request).picture(photo) as entry, service.inference.slots.for_single():
        decoded = await service.inference.decode(photo.read, query)
        entry.answer = await service.inference.locate(decoded)
    return entry.answer


@router.post("/locate/batch", tags=["locate"], summary="Where was each of these taken?", **BATCH)
async def locate_batch(request: Request, query: LocateQueryParam, service: ServiceParts) -> Response:
    """Send several pictures as file fields `images`; the answer has a line of JSON for each, in order."""
    gate, caller = service.inference.batches, request.state.caller
    gate.enter()
    try:
        spool = Spool(service.settings)
    except BaseException:
        gate.leave()
        raise

    def release() -> None:
        spool.close()
        gate.leave()

    work = BatchWork(
        spool,
        service.inference,
        query,
        service.metrics,
        service.audit.trail(request),
        lambda images: service.admission.charge(caller, images),
    )
    try:
        async with deadline(service.settings.batch_upload_timeout_s, "the upload"):
            await read_batch(request, service.settings, spool)
    except BaseException:
        await work.close()
        release()
        raise
    return BatchResponse(work, release, service.settings.client_timeout_s)


@router.get("/index", tags=["about"], summary="About the loaded index", **INDEX)
async def index(service: ServiceParts) -> dict[str, Any]:
    """Zooms, tile counts, coverage as GeoJSON, encoders, priors and attribution."""
    return service.inference.locator.describe()


@router.get("/healthz", tags=["about"], summary="Is the process alive?", **HEALTH)
async def healthz() -> dict[str, str]:
    """200 while the process runs, whether or not inference works."""
    return {"status": "alive"}


@router.get("/readyz", tags=["about"], summary="Does inference work?", **READY)
async def readyz(service: ServiceParts) -> dict[str, str]:
    """200 if the last inference succeeded. Otherwise tries one first, and answers 503 if it fails."""
    await service.inference.check()
    return {"status": "ready"}


@router.get("/metrics", tags=["about"], summary="Prometheus metrics", response_class=Response, **METRICS)
async def metrics(service: ServiceParts) -> Response:
    """Requests, durations per stage, pictures and errors since the start."""
    return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
