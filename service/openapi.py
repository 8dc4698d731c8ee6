"""What OpenAPI says about bodies and answers that are parsed by hand: keyword arguments for the routes' decorators."""

from typing import Any

from service.problems import MEDIA_TYPE

__all__ = ["BATCH", "INDEX", "LOCATE", "READY", "RELOAD"]

_BINARY = {"type": "string", "format": "binary"}
_NUMBER_OR_NULL = {"type": ["number", "null"]}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TILE = _object({axis: {"type": "integer"} for axis in ("z", "x", "y")})
_POINT = {"lat": {"type": "number"}, "lon": {"type": "number"}, "confidence": {"type": "number"}}
_LEVEL = _object(
    {
        "zoom": {"type": "integer"},
        "tile": _TILE,
        "quadkey": {"type": "string"},
        "bounds": _list({"type": "number"}),
        "similarity": _NUMBER_OR_NULL,
        **_POINT,
    }
)
_ANSWER = _object(
    {
        **_POINT,
        "calibrated": {"type": "boolean"},
        "radius_km": _object({"50": _NUMBER_OR_NULL, "90": _NUMBER_OR_NULL}),
        "zoom": {"type": "integer"},
        "levels": _list(_LEVEL),
        "alternatives": _list(_object({**_POINT, "tile": _TILE})),
        "elsewhere": {"type": "number"},
        "index": {"type": "object"},
        "attribution": {"type": "string"},
        "timing_ms": _object({stage: {"type": "number"} for stage in ("decode", "encode", "search")}),
    },
    trace=_list({"type": "object"}),
)
_PROBLEM = _object(
    {name: {"type": "string"} for name in ("type", "title", "detail")} | {"status": {"type": "integer"}},
    instance={"type": "string"},
    request_id={"type": "string"},
)
_LINE = _object({"index": {"type": "integer"}, "name": {"type": "string"}}, result=_ANSWER, error=_PROBLEM)


def _form(properties: dict[str, Any]) -> dict[str, Any]:
    return {"multipart/form-data": {"schema": _object(properties)}}


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {
        400: "The picture cannot be read",
        401: "A key is needed",
        403: "This key may not do that",
        408: "The upload stopped",
        413: "Too many bytes, pixels or pictures",
        415: "A format or content type that is not taken",
        422: "Parameters or form fields that are not as documented",
        409: "What was to be loaded is refused",
        429: "This key has sent its pictures for now; Retry-After says when to go on",
        503: "Not now; Retry-After says when",
    }
    return {
        status: {"description": words[status], "content": {MEDIA_TYPE: {"schema": _PROBLEM}}} for status in statuses
    }


def _answered(media_type: str, schema: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "Answered", "content": {media_type: {"schema": schema}}}}


_RAW = {"image/*": {"schema": _BINARY}}

LOCATE: dict[str, Any] = {
    "responses": _answered("application/json", _ANSWER) | _problems(400, 401, 408, 413, 415, 422, 429, 503),
    "openapi_extra": {"requestBody": {"required": True, "content": {**_form({"image": _BINARY}), **_RAW}}},
}
BATCH: dict[str, Any] = {
    "responses": _answered("application/x-ndjson", _LINE) | _problems(401, 408, 413, 415, 422, 429, 503),
    "openapi_extra": {"requestBody": {"required": True, "content": _form({"images": _list(_BINARY)})}},
}
INDEX: dict[str, Any] = {"responses": _answered("application/json", {"type": "object"}) | _problems(401)}
RELOAD: dict[str, Any] = {"responses": _answered("application/json", {"type": "object"}) | _problems(401, 403, 409)}
READY: dict[str, Any] = {"responses": _problems(503)}
