"""The routes: each parses its request, is admitted by the limits, calls the engine and answers.

Errors are raised, not answered here: `service.http.handlers` turns them into problem documents.
"""

import asyncio
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
from service.engine.shares import Holding
from service.errors import RequestError
from service.http import geojson
from service.http.batches import BatchResponse, BatchWork
from service.http.models import PARAMETERS, LocateParams
from service.http.openapi import BATCH, HEALTH, INDEX, LOCATE, LOCATE_GEOJSON, METRICS, READY
from service.http.spool import Spool
from service.http.uploads import UploadedPhoto, read_batch, read_photo
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
    repeated = {name for name in PARAMETERS if len(request.query_params.getlist(name)) > 1}
    if repeated:
        raise RequestError(f"query parameter {min(repeated)!r} is given more than once; give it once")
    if params.within is None:
        query = params.query(service.settings.scoring)
    else:  # reading and checking a region takes tens of milliseconds
        query = await asyncio.to_thread(params.query, service.settings.scoring)
    service.inference.plan(query)  # reject an unknown prior before the picture is read
    return query


LocateQueryParam = Annotated[LocateQuery, Depends(_query)]


@router.post("/locate", tags=["locate"], summary="Where was this picture taken?", **LOCATE)
async def locate(request: Request, query: LocateQueryParam, service: ServiceParts) -> Response:
    """Send one picture, as the file field `image` of a form or as a raw body with an `image/*` content type.

    With `Accept: application/geo+json` the answer is that of `/locate/geojson`.
    """
    answer = await _located(request, query, service)
    if geojson.preferred(request.headers.get("accept", "")):
        return JSONResponse(geojson.feature_collection(answer), headers=_VARY, media_type=geojson.MEDIA_TYPE)
    return JSONResponse(answer, headers=_VARY)


@router.post("/locate/geojson", tags=["locate"], summary="The answer of /locate as GeoJSON", **LOCATE_GEOJSON)
async def locate_geojson(request: Request, query: LocateQueryParam, service: ServiceParts) -> Response:
    """The same as `/locate`; the answer is a GeoJSON FeatureCollection, whatever Accept says."""
    answer = await _located(request, query, service)
    return JSONResponse(geojson.feature_collection(answer), media_type=geojson.MEDIA_TYPE)


async def _located(request: Request, query: LocateQuery, service: Service) -> dict[str, Any]:
    """The answer for the picture in this request's body."""
    inference, caller = service.inference, request.state.caller.holder
    inference.requests.check(caller)  # before the upload is read: reject early
    inference.slots.check(caller)
    if query.register == "on":
        inference.registering.check(caller)
    memory = Holding(inference.upload_bytes, caller)
    try:
        async with deadline(service.settings.request_timeout_s, "answering"):
            with inference.uploads.taken(caller):
                photo = await read_photo(request, memory, service.settings)
            with inference.requests.taken(caller):
                return await until_disconnect(request, _answer(request, photo, memory, query, service))
    finally:
        memory.release()


async def _answer(
    request: Request, photo: UploadedPhoto, memory: Holding, query: LocateQuery, service: Service
) -> dict[str, Any]:
    inference, caller = service.inference, request.state.caller.holder
    with service.audit.trail(request).picture(photo) as entry, inference.slots.for_single(caller):
        decoded = await inference.decode(photo.read, query, caller)
        photo.discard()
        memory.release()
        entry.answer = await inference.locate(decoded, caller)
    return entry.answer


@router.post("/locate/batch", tags=["locate"], summary="Where was each of these taken?", **BATCH)
async def locate_batch(request: Request, query: LocateQueryParam, service: ServiceParts) -> Response:
    """Send several pictures as file fields `images`; the answer has a line of JSON for each, in order."""
    inference, caller = service.inference, request.state.caller
    inference.batches.take(caller.holder)
    disk = Holding(inference.spool_bytes, caller.holder)
    try:
        spool = Spool(service.settings)
    except BaseException:
        inference.batches.give_back(caller.holder)
        raise

    def release() -> None:
        spool.close()
        disk.release()
        inference.batches.give_back(caller.holder)

    work = BatchWork(
        spool,
        inference,
        query,
        caller.holder,
        service.metrics,
        service.audit.trail(request),
        lambda images: service.admission.charge(caller, images),
    )
    try:
        async with deadline(service.settings.batch_upload_timeout_s, "the upload"):
            await read_batch(request, spool, disk, service.settings)
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
