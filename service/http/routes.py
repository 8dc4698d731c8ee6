"""The routes: parse, call, answer. They build no error responses; `service.http.handlers` does, from one table."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict, Field

from retrieval.search.query import MAX_ALTERNATIVES, MAX_K, BBox, LocateQuery
from service.access.admission import Admission
from service.access.audit import Audit
from service.engine.batches import BatchResponse, BatchWork
from service.engine.deadline import deadline
from service.engine.inference import Inference
from service.engine.leaving import unless_gone
from service.errors import RequestError
from service.http import geojson
from service.http.bbox import parse_bbox
from service.http.openapi import BATCH, HEALTH, INDEX, LOCATE, METRICS, READY
from service.http.uploads import Spool, read_batch, read_photo
from service.ops.metrics import Metrics
from service.settings import Settings

if TYPE_CHECKING:
    from retrieval.geo.region import Region

__all__ = ["LocateParams", "Service", "router"]

router = APIRouter()

_VARY = {"Vary": "Accept"}


@dataclass(frozen=True)
class Service:
    """What the routes of one app work with."""

    settings: Settings
    inference: Inference
    metrics: Metrics
    admission: Admission
    audit: Audit


class LocateParams(BaseModel):
    """The query parameters of both ways to locate."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(64, ge=1, le=MAX_K, description="Beam width: tiles kept per zoom.")
    alternatives: int = Field(0, ge=0, le=MAX_ALTERNATIVES, description="Other places wanted.")
    bbox: str | None = Field(
        None,
        description="Only there: `west,south,east,north` in degrees; west > east crosses the date line.",
        examples=["-10,35,30,60"],
    )
    trace: bool = Field(False, description="Also tell the tiles kept per zoom.")
    prior: str | None = Field(
        None,
        max_length=40,
        description="A prior to ask, of those that `GET /index` lists, or `none`; by default the index's own choice.",
        examples=["none"],
    )
    within: str | None = Field(
        None,
        max_length=16_000,
        description="Only there: a GeoJSON polygon (also MultiPolygon, Feature, ...) as text; with `bbox`, in both.",
        examples=['{"type":"Polygon","coordinates":[[[5,45],[11,45],[8,48],[5,45]]]}'],
    )


async def _service(request: Request) -> Service:
    # A coroutine, as the next: FastAPI gives plain functions a thread's round trip each, dearer than they are.
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(_service)]


async def _query(request: Request, params: Annotated[LocateParams, Query()], here: Here) -> LocateQuery:
    repeated = {name for name in params.model_fields_set if len(request.query_params.getlist(name)) > 1}
    if repeated:
        raise RequestError(f"query parameter {min(repeated)!r} is given more than once; give it once")
    bbox = None if params.bbox is None else BBox(*parse_bbox(params.bbox))
    within = None if params.within is None else _region(params.within)
    query = LocateQuery(params.k, params.alternatives, bbox, params.trace, here.settings.scoring, params.prior, within)
    here.inference.locator.asked(query)  # a prior that is not there is told before the picture is read
    return query


def _region(text: str) -> "Region":
    from retrieval.geo.region import Region  # brings shapely, which most questions do without

    return Region.of_geojson(text)


Question = Annotated[LocateQuery, Depends(_query)]


@router.post("/locate", tags=["locate"], summary="Where was this picture taken?", **LOCATE)
async def locate(request: Request, question: Question, here: Here) -> Response:
    """Send one picture, as the file field `image` of a form or as a raw body with an `image/*` content type."""
    with here.inference.requests.place():
        here.inference.places.check()  # before anything is read: an upload in vain helps nobody
        async with deadline(here.settings.request_timeout_s, "answering"):
            data = await read_photo(request, here.settings)
            answer = await unless_gone(request, _answer(request, data, question, here))
    if geojson.preferred(request.headers.get("accept", "")):
        return JSONResponse(geojson.feature_collection(answer), headers=_VARY, media_type=geojson.MEDIA_TYPE)
    return JSONResponse(answer, headers=_VARY)


async def _answer(request: Request, data: bytes, question: LocateQuery, here: Service) -> dict[str, Any]:
    with here.audit.trail(request).picture() as seen, here.inference.places.place():
        photo = await here.inference.prepare(lambda: seen.read(data), question)
        seen.answer = await here.inference.locate(photo, question)
    return seen.answer


@router.post("/locate/batch", tags=["locate"], summary="Where was each of these taken?", **BATCH)
async def locate_batch(request: Request, question: Question, here: Here) -> Response:
    """Send many pictures as file fields `images`; a line of JSON comes back for each, in order, once it is ready."""
    gate, caller = here.inference.batches, request.state.caller
    gate.enter()
    try:
        spool = Spool(here.settings)
    except BaseException:
        gate.leave()
        raise

    def release() -> None:
        spool.close()
        gate.leave()

    work = BatchWork(
        spool,
        here.inference,
        question,
        here.metrics,
        here.audit.trail(request),
        lambda images: here.admission.charge(caller, images),
    )
    try:
        async with deadline(here.settings.batch_upload_timeout_s, "the upload"):
            await read_batch(request, here.settings, spool)
    except BaseException:
        await work.close()
        release()
        raise
    return BatchResponse(work, release, here.settings.client_timeout_s)


@router.get("/index", tags=["about"], summary="What the service knows", **INDEX)
async def index(here: Here) -> dict[str, Any]:
    """Zooms, counts, coverage as GeoJSON, encoders and attribution of the loaded index."""
    return here.inference.locator.describe()


@router.get("/healthz", tags=["about"], summary="Is the process alive?", **HEALTH)
async def healthz() -> dict[str, str]:
    """Always answered while the process runs; says nothing about inference."""
    return {"status": "alive"}


@router.get("/readyz", tags=["about"], summary="Can it answer?", **READY)
async def readyz(here: Here) -> dict[str, str]:
    """Answered once an inference has succeeded on what is loaded; after a failed one, tries another first."""
    await here.inference.check()
    return {"status": "ready"}


@router.get("/metrics", tags=["about"], summary="Figures for Prometheus", response_class=Response, **METRICS)
async def metrics(here: Here) -> Response:
    """Requests, durations by stage, pictures and rejections since the start."""
    return Response(here.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
