"""The OpenAPI description: for each operation keyword arguments of its route's decorator, and the whole document.

Bodies are parsed by hand and answers built as plain JSON, so what they are is said here and not found in annotations.
"""

import json
from collections.abc import Sequence
from typing import Any

from fastapi.openapi.utils import get_openapi
from starlette.responses import Response
from starlette.routing import BaseRoute

from service.http import geojson
from service.http import openapi_examples as examples
from service.http.openapi_schemas import COMPONENTS, SECURITY, ref
from service.problems import MEDIA_TYPE

__all__ = ["BATCH", "HEALTH", "INDEX", "LOCATE", "METRICS", "READY", "RELOAD", "TILE", "TILES", "document"]

_Answers = dict[int | str, dict[str, Any]]

_BINARY = {"type": "string", "format": "binary"}
_KEY: list[dict[str, list[str]]] = [{"bearer": []}, {"apiKey": []}]
_TEXT: dict[str, Any] = {"type": "string"}
_SECONDS = {"description": "Seconds after which asking again makes sense.", "schema": {"type": "integer", "minimum": 1}}
_REQUEST_ID = {"description": "The request's id, as in the service's log.", "schema": _TEXT}

_ABOUT = "Compares a picture with map tiles, zoom by zoom, and answers with a place and a probability for every zoom."
_TAGS = {
    "locate": "Where were these pictures taken?",
    "about": "What the service knows and how it is.",
    "map": "The map beneath the page.",
}


def document(routes: Sequence[BaseRoute], version: str) -> dict[str, Any]:
    """The whole description, OpenAPI 3.1, of these routes; needs no index and no server."""
    tags = [{"name": name, "description": about} for name, about in _TAGS.items()]
    found = get_openapi(title="Tilebeam", version=version, description=_ABOUT, routes=routes, tags=tags)
    operations = [operation for path in found["paths"].values() for operation in path.values()]
    for parameter in (each for operation in operations for each in operation.get("parameters", ())):
        parameter["schema"] = _present(parameter["schema"])
    for answer in (each for operation in operations for each in operation["responses"].values()):
        answer["headers"] = {"X-Request-ID": _REQUEST_ID} | answer.get("headers", {})
    found["components"] = {"schemas": COMPONENTS, "securitySchemes": SECURITY}
    return found


def _present(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter's schema without the null that only its absence stands for."""
    kinds = [each for each in schema.pop("anyOf", ()) if each != {"type": "null"}]
    schema.pop("title", None)
    return {**(kinds[0] if kinds else {}), **schema}


def _answered(media_type: str, schema: dict[str, Any], example: Any = None, about: str = "Answered") -> _Answers:
    content = {"schema": schema} | ({} if example is None else {"example": example})
    return {200: {"description": about, "content": {media_type: content}}}


def _problems(instance: str, *slugs: str) -> _Answers:
    """The answers of these kinds of problem, by status, an example of each kind."""
    found: _Answers = {}
    for slug in sorted((*slugs, "internal"), key=lambda slug: examples.KINDS[slug].status):
        kind = examples.KINDS[slug]
        answer = found.setdefault(kind.status, {"headers": _headers(kind.status), "content": {MEDIA_TYPE: {}}})
        answer["description"] = "; ".join(filter(None, [answer.get("description"), kind.title]))
        content = answer["content"][MEDIA_TYPE]
        content["schema"] = ref("Problem")
        told = {"summary": kind.title, "value": examples.problem(slug, instance)}
        content.setdefault("examples", {})[slug] = told
    return found


def _headers(status: int) -> dict[str, Any]:
    if status in (429, 503):
        return {"Retry-After": _SECONDS}
    return {"WWW-Authenticate": {"description": "`Bearer`.", "schema": _TEXT}} if status == 401 else {}


def _body(**content: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, **content}}


def _form(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """A form of one field, which is a file or several."""
    fields = {"type": "object", "required": [name], "properties": {name: schema}, "additionalProperties": False}
    return {"multipart/form-data": {"schema": fields}}


def _operation(name: str, responses: _Answers, open_to_all: bool = False, **extra: Any) -> dict[str, Any]:
    """A decorator's keyword arguments. `open_to_all`: no key is asked for, wherever the service listens."""
    security = [] if open_to_all else [*_KEY, {}]  # none where the service lets in whoever has none
    return {
        "operation_id": name,
        "responses": responses,
        "response_model": None,
        "openapi_extra": {"security": security} | extra,
    }


def _asked(instance: str, *slugs: str) -> _Answers:
    """What can go wrong on both ways to locate, and `slugs`."""
    common = ("unauthorized", "slow-upload", "body-too-large", "unsupported-body", "invalid-request", "invalid-query")
    return _problems(instance, *common, "rate-limited", "overloaded", "too-slow", *slugs)


_PICTURE = "The picture's bytes; what they are is told by the bytes. Send them with any image/* content type."
_ANSWERS = _answered("application/json", ref("Answer"), examples.ANSWER, "Answered, in the form that Accept prefers")
_ANSWERS[200]["content"][geojson.MEDIA_TYPE] = {"schema": ref("FeatureCollection"), "example": examples.FEATURES}

LOCATE: dict[str, Any] = _operation(
    "locate",
    _ANSWERS
    | _asked("/locate", "unreadable-photo", "photo-too-large", "unsupported-photo", "audit-unavailable", "not-ready"),
    **_body(
        description="One picture, as a form's file field `image` or as the body itself.",
        content={
            **_form("image", _BINARY | {"description": "The picture, as a file."}),
            "image/*": {"schema": _BINARY | {"description": _PICTURE}},
        },
    ),
)
_LINES = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in examples.LINES)
_NDJSON = _answered(
    "application/x-ndjson",
    {"type": "string", "description": "A `Line` for each picture, in the order of the request, as each is ready."},
    _LINES,
    "A line of JSON for each picture",
)
_NDJSON[200]["content"]["application/x-ndjson"]["x-item-schema"] = ref("Line")
_FILES = {"type": "array", "items": _BINARY, "minItems": 1, "description": "The pictures, as files."}

BATCH: dict[str, Any] = _operation(
    "locate_batch",
    _NDJSON | _asked("/locate/batch", "store-unavailable"),
    **_body(description="Many pictures, each a file field `images` of one form.", content=_form("images", _FILES)),
) | {"response_class": Response}
INDEX: dict[str, Any] = _operation(
    "describe_index",
    _answered("application/json", ref("Index"), examples.INDEX) | _problems("/index", "unauthorized"),
)
RELOAD: dict[str, Any] = _operation(
    "reload_index",
    _answered("application/json", ref("Reloaded"), examples.RELOADED)
    | _problems("/index/reload", "unauthorized", "forbidden", "reload-refused"),
)
RELOAD["openapi_extra"]["security"] = _KEY
READY: dict[str, Any] = _operation(
    "ready",
    _answered("application/json", ref("Status"), {"status": "ready"}) | _problems("/readyz", "not-ready"),
    open_to_all=True,
)
HEALTH: dict[str, Any] = _operation(
    "alive", _answered("application/json", ref("Status"), {"status": "alive"}), open_to_all=True
)
METRICS: dict[str, Any] = _operation(
    "metrics",
    _answered("text/plain", _TEXT, "tilebeam_images_total 128.0\n") | _problems("/metrics", "unauthorized"),
)
TILES: dict[str, Any] = _operation(
    "describe_tiles",
    _answered("application/json", ref("TileJSON"), examples.TILE_JSON) | _problems("/tiles", "unauthorized", "no-tile"),
)
_KNOWN = {"ETag": {"schema": _TEXT}, "Cache-Control": {"schema": _TEXT}}
_PICTURES = {f"image/{kind}": {"schema": _BINARY} for kind in ("jpeg", "png", "webp")}

TILE: dict[str, Any] = _operation(
    "tile",
    {
        200: {"description": "The tile's picture", "headers": _KNOWN, "content": _PICTURES},
        304: {"description": "It is the one that If-None-Match names", "headers": _KNOWN},
        **_problems("/tiles/12/0/0", "unauthorized", "no-tile", "invalid-request", "overloaded"),
    },
)
