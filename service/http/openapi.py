"""The OpenAPI document: per operation the keyword arguments of its route's decorator, and the whole document.

Request bodies are parsed by hand and answers are plain dicts, so FastAPI cannot derive them from annotations. They are
described here, with the models of `service.http.models`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from service.answer_parts import Alive, Ready, example_of
from service.errors import INTERNAL, MEDIA_TYPE, PROBLEM_TYPES, TYPE_PREFIX, ProblemType
from service.http import geojson
from service.http.geojson_models import FeatureCollection
from service.http.models import (
    ANSWERS,
    Answer,
    Index,
    Problem,
    Reloaded,
    TileJSON,
)

PATH = "/openapi.json"

_Responses = dict[int | str, dict[str, Any]]

_BINARY = {"type": "string", "format": "binary"}
_TEXT: dict[str, Any] = {"type": "string"}
_KEY: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}]
_RETRY_AFTER = {"description": "Seconds to wait before trying again.", "schema": {"type": "integer", "minimum": 1}}
_REQUEST_ID = {"description": "Id of the request, as in the service's log.", "schema": _TEXT}
_SECURITY: dict[str, dict[str, Any]] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key made by `tilebeam key new`."},
    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same key in a header."},
}
_ABOUT = """Compares a picture with map tiles, zoom by zoom. Answers with a place and a probability for every zoom.

Every error is a problem document (RFC 9457). Beyond the errors of each operation, a path that does not exist gets 404,
a method that a path does not have gets 405 with `Allow` (both have the type `about:blank`), and bytes that are not HTTP
get 400 (`not-http`). HEAD answers as GET does, without the body.
"""
_TAGS = {
    "locate": "Where were these pictures taken?",
    "about": "The loaded index and the state of the service.",
    "map": "The map of the page.",
}
_TYPES_BY_SLUG = {kind.slug: kind for kind in (*PROBLEM_TYPES.values(), INTERNAL)}


class _WithoutFieldTitles(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        """False: pydantic's title of a field is its name once more."""
        return False


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON schemas of all models by name: the document's components."""
    models: tuple[type[BaseModel], ...] = (*ANSWERS, FeatureCollection)
    _, found = models_json_schema(
        [(model, "validation") for model in models],
        ref_template="#/components/schemas/{model}",
        schema_generator=_WithoutFieldTitles,
    )
    definitions: dict[str, dict[str, Any]] = found["$defs"]
    return definitions


def document(routes: Sequence[BaseRoute], version: str) -> dict[str, Any]:
    """The whole description of these routes, OpenAPI 3.1; needs no index and no server."""
    tags = [{"name": name, "description": about} for name, about in _TAGS.items()]
    described = get_openapi(title="Tilebeam", version=version, description=_ABOUT, routes=routes, tags=tags)
    operations = [operation for path in described["paths"].values() for operation in path.values()]
    for parameter in (each for operation in operations for each in operation.get("parameters", ())):
        parameter["schema"] = _without_null(parameter["schema"])
    for response in (each for operation in operations for each in operation["responses"].values()):
        response["headers"] = {"X-Request-ID": _REQUEST_ID} | response.get("headers", {})
    # Relative to the document's own address, because the service may lie below a sub-path of a proxy.
    described["servers"] = [{"url": "."}]
    described["components"] = {"schemas": schemas(), "securitySchemes": _SECURITY}
    return described


def answer(described: Callable[[], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
    """The route that sends the description. It is made once, in a thread, because that takes a while."""
    content, lock = list[bytes](), asyncio.Lock()

    async def send(_: Request) -> Response:
        async with lock:
            if not content:
                content.append(await asyncio.to_thread(lambda: bytes(JSONResponse(described()).body)))
        return Response(content[0], media_type="application/json")

    return send


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter's schema without null, which stands for a missing parameter."""
    kinds = [each for each in schema.pop("anyOf", ()) if each != {"type": "null"}]
    schema.pop("title", None)
    return {**(kinds[0] if kinds else {}), **schema}


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}


def _ok(media_type: str, schema: dict[str, Any], example: Any, about: str = "Answered") -> _Responses:
    return {200: {"description": about, "content": {media_type: {"schema": schema, "example": example}}}}


def _json_of(model: type[BaseModel], **example: Any) -> _Responses:
    return _ok("application/json", _ref(model), example or example_of(model))


def _problems(instance: str, *slugs: str) -> _Responses:
    """The responses for these problem types and those of every route, by status, with an example of each type."""
    responses: _Responses = {}
    of_every_route = ("slow-upload", "unknown-host", "headers-too-large", "overloaded", "internal")
    for kind in sorted(
        (_TYPES_BY_SLUG[slug] for slug in {*slugs, *of_every_route}), key=lambda kind: (kind.status, kind.slug)
    ):
        response = responses.setdefault(kind.status, {"headers": _headers(kind.status), "content": {MEDIA_TYPE: {}}})
        response["description"] = "; ".join(filter(None, [response.get("description"), kind.title]))
        content = response["content"][MEDIA_TYPE]
        content["schema"] = _ref(Problem)
        example = _problem(kind) | {"instance": instance, "request_id": "9f3c1a7e5b2d4860"}
        content.setdefault("examples", {})[kind.slug] = {"summary": kind.title, "value": example}
    return responses


def _problem(kind: ProblemType) -> dict[str, Any]:
    return {"type": TYPE_PREFIX + kind.slug, "title": kind.title, "status": kind.status, "detail": kind.example}


def _headers(status: int) -> dict[str, Any]:
    if status in (429, 503):
        return {"Retry-After": _RETRY_AFTER}
    return {"WWW-Authenticate": {"description": "`Bearer`.", "schema": _TEXT}} if status == 401 else {}


def _body(**content: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, **content}}


def _form(field: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A form with one field, which holds one file or several."""
    fields = {"type": "object", "required": [field], "properties": {field: schema}, "additionalProperties": False}
    return {"multipart/form-data": {"schema": fields}}


def _operation(name: str, responses: _Responses, is_open: bool = False, **extra: Any) -> dict[str, Any]:
    """A decorator's keyword arguments. `is_open`: the route never needs a key."""
    security = [] if is_open else [*_KEY, {}]  # {}: no key, where the service lets everybody in
    return {
        "operation_id": name,
        "responses": responses,
        "response_model": None,  # answers are not validated: that would cost time per request
        "openapi_extra": {"security": security} | extra,
    }


def _locate_problems(instance: str, *slugs: str) -> _Responses:
    """The problems of both ways to locate, and `slugs`."""
    common = ("unauthorized", "cross-site", "slow-upload", "body-too-large", "unsupported-body", "invalid-request")
    more = ("invalid-query", "rate-limited", "overloaded", "out-of-memory", "decoder-ended", "too-slow")
    return _problems(instance, *common, *more, *slugs)


_ANSWER = example_of(Answer)
_FEATURES = geojson.feature_collection(_ANSWER)
_FEATURES["features"] = [each for each in _FEATURES["features"] if each["properties"]["kind"] != "radius"]  # too long
_RAW = "The picture's bytes, with any image/* content type. The format is detected from the contents."
_ONE_PICTURE = _body(
    description="One picture, as the file field `image` of a form or as the body itself.",
    content={
        **_form("image", _BINARY | {"description": "The picture, as a file."}),
        "image/*": {"schema": _BINARY | {"description": _RAW}},
    },
)


def _picture_problems(instance: str) -> _Responses:
    own = (
        "unreadable-photo",
        "photo-too-large",
        "photo-too-slow",
        "unsupported-photo",
        "audit-unavailable",
        "not-ready",
    )
    return _locate_problems(instance, *own)


# Each form of the answer has an operation of its own, because a generated client makes a union of two media types.
LOCATE: dict[str, Any] = _operation(
    "locate",
    _ok("application/json", _ref(Answer), _ANSWER, "Answered; as GeoJSON where Accept prefers it")
    | _picture_problems("/locate"),
    **_ONE_PICTURE,
)
LOCATE_GEOJSON: dict[str, Any] = _operation(
    "locate_geojson",
    _ok(geojson.MEDIA_TYPE, _ref(FeatureCollection), _FEATURES) | _picture_problems("/locate/geojson"),
    **_ONE_PICTURE,
) | {"response_class": Response}
_LINES = (
    {"index": 0, "name": "a.jpg", "result": _ANSWER},
    {"index": 1, "name": "b.jpg", "error": _problem(_TYPES_BY_SLUG["unreadable-photo"])},
)
_NDJSON = _ok(
    "application/x-ndjson",
    {"type": "string", "description": "A `Line` for each picture, in the order of the request, as each is ready."},
    "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in _LINES),
    "A line of JSON for each picture",
)
_NDJSON[200]["content"]["application/x-ndjson"]["x-item-schema"] = {"$ref": "#/components/schemas/Line"}
_FILES = {"type": "array", "items": _BINARY, "minItems": 1, "description": "The pictures, as files."}

BATCH: dict[str, Any] = _operation(
    "locate_batch",
    _NDJSON | _locate_problems("/locate/batch", "store-unavailable"),
    **_body(description="Several pictures, each a file field `images` of one form.", content=_form("images", _FILES)),
) | {"response_class": Response}
INDEX: dict[str, Any] = _operation("describe_index", _json_of(Index) | _problems("/index", "unauthorized"))
RELOAD: dict[str, Any] = _operation(
    "reload_index",
    _json_of(Reloaded) | _problems("/index/reload", "unauthorized", "cross-site", "forbidden", "reload-refused"),
)
RELOAD["openapi_extra"]["security"] = _KEY
READY: dict[str, Any] = _operation("ready", _json_of(Ready) | _problems("/readyz", "not-ready"), is_open=True)
HEALTH: dict[str, Any] = _operation("alive", _json_of(Alive) | _problems("/healthz"), is_open=True)
METRICS: dict[str, Any] = _operation(
    "metrics",
    _ok("text/plain", _TEXT, "tilebeam_images_total 128.0\n") | _problems("/metrics", "unauthorized"),
)
TILES: dict[str, Any] = _operation(
    "describe_tiles", _json_of(TileJSON) | _problems("/tiles", "unauthorized", "no-tile")
)
_CACHED = {"ETag": {"schema": _TEXT}, "Cache-Control": {"schema": _TEXT}}
_IMAGES = {f"image/{kind}": {"schema": _BINARY} for kind in ("jpeg", "png", "webp")}

TILE: dict[str, Any] = _operation(
    "tile",
    {
        200: {"description": "The tile's image", "headers": _CACHED, "content": _IMAGES},
        304: {"description": "The tile is the one named by If-None-Match", "headers": _CACHED},
        **_problems("/tiles/12/0/0", "unauthorized", "no-tile", "invalid-request", "overloaded"),
    },
)
