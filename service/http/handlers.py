"""Exception handlers: every error becomes a problem document, by the one table in `service.errors`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from service.errors import (
    MEDIA_TYPE,
    PROBLEM_TYPES,
    RequestError,
    headers_of,
    problem_of,
    problem_type_of,
    shortened,
)
from service.http.models import PARAMETERS
from service.ops.metrics import Metrics

_CLIENT_CLOSED_REQUEST = 499
"""As in nginx. The client has disconnected, so the answer is only counted and logged."""
_MOST_QUOTED = 3
"""Invalid parameters that a detail names; the others are counted."""
_MOST_CHARACTERS = 100
"""Of a quoted value or path."""
_Handler = Callable[[Request, Exception], Awaitable[Response]]


def responder(metrics: Metrics) -> Callable[[Scope, Exception], Response]:
    """A function that makes the answer to an error outside the app, and counts it."""

    def respond(scope: Scope, error: Exception) -> Response:
        metrics.count_problem(problem_type_of(error).slug)
        return _response(Request(scope), problem_of(error), headers_of(error))

    return respond


def install(app: FastAPI, metrics: Metrics) -> None:
    """Answer every error of `app` with a problem document, and count it."""

    async def known_error(request: Request, error: Exception) -> Response:
        metrics.count_problem(problem_type_of(error).slug)
        return _response(request, problem_of(error), headers_of(error))

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first, others = error.errors()[:_MOST_QUOTED], len(error.errors()) - _MOST_QUOTED
        more = f"; and {others:,} more" if others > 0 else ""
        return await known_error(request, RequestError("; ".join(map(_detail, first)) + more))

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _response(request, _http_problem(request, error), error.headers or {})

    async def client_disconnect(request: Request, error: Exception) -> Response:
        metrics.departures.inc()
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    handlers: dict[type[Exception], _Handler] = dict.fromkeys(PROBLEM_TYPES, known_error)
    handlers |= {
        RequestValidationError: validation_error,
        HTTPException: http_error,
        ClientDisconnect: client_disconnect,
    }
    for cls, handler in handlers.items():
        app.add_exception_handler(cls, handler)


def _response(request: Request, problem: dict[str, Any], headers: Mapping[str, str]) -> Response:
    instance = shortened(request.url.path, _MOST_CHARACTERS)
    body = problem | {"instance": instance, "request_id": request.state.ids["request_id"]}
    return JSONResponse(body, problem["status"], headers, media_type=MEDIA_TYPE)


def _http_problem(request: Request, error: HTTPException) -> dict[str, Any]:
    """404 and 405 in the form that RFC 9457 defines for plain HTTP statuses: `about:blank`, titled by the phrase."""
    path = shortened(request.url.path, _MOST_CHARACTERS)
    details = {
        404: f"no route has the path {path!r}; /docs lists all routes",
        405: f"{path!r} does not accept {request.method}; /docs lists the methods",
    }
    title = HTTPStatus(error.status_code).phrase
    detail = details.get(error.status_code, error.detail)
    return {"type": "about:blank", "title": title, "status": error.status_code, "detail": detail}


def _detail(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors as a sentence."""
    location: Sequence[Any] = error["loc"]
    name = shortened(str(location[-1]), _MOST_CHARACTERS) if location else "request"
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(PARAMETERS))
        return f"unknown query parameter {name!r}; use {known}"
    value = shortened(repr(error.get("input")), _MOST_CHARACTERS)
    place = "path" if location[:1] == ("path",) else "query"
    return f"{place} parameter {name}={value} is invalid: {error['msg']}"
