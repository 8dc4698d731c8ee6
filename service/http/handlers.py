"""Exception handlers: every error becomes a problem document, by the one table in `service.errors`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.errors import MEDIA_TYPE, PROBLEM_TYPES, RequestError, headers_of, problem_of, problem_type_of
from service.http.models import LocateParams
from service.ops.logs import REQUEST_ID_HEADER
from service.ops.metrics import Metrics

_CLIENT_CLOSED_REQUEST = 499
"""As in nginx. The client has disconnected, so the answer is only counted and logged."""
_Handler = Callable[[Request, Exception], Awaitable[Response]]


def install(app: FastAPI, metrics: Metrics) -> None:
    """Answer every error of `app` with a problem document, and count it."""

    async def known_error(request: Request, error: Exception) -> Response:
        metrics.count_problem(problem_type_of(error).slug)
        return _response(request, problem_of(error), headers_of(error))

    async def validation_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await known_error(request, RequestError("; ".join(map(_detail, error.errors()))))

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
        Exception: known_error,
    }
    for cls, handler in handlers.items():
        app.add_exception_handler(cls, handler)


def _response(request: Request, problem: dict[str, Any], headers: Mapping[str, str]) -> Response:
    # The answer to an unexpected error does not pass the middleware that sets this header, so set it here too.
    request_id = request.state.request_id
    body = problem | {"instance": request.url.path, "request_id": request_id}
    return JSONResponse(body, problem["status"], {**headers, REQUEST_ID_HEADER: request_id}, media_type=MEDIA_TYPE)


def _http_problem(request: Request, error: HTTPException) -> dict[str, Any]:
    """404 and 405 in the form that RFC 9457 defines for plain HTTP statuses: `about:blank`, titled by the phrase."""
    details = {
        404: f"no route has the path {request.url.path!r}; /docs lists all routes",
        405: f"{request.url.path!r} does not accept {request.method}; /docs lists the methods",
    }
    title = HTTPStatus(error.status_code).phrase
    detail = details.get(error.status_code, error.detail)
    return {"type": "about:blank", "title": title, "status": error.status_code, "detail": detail}


def _detail(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors as a sentence."""
    location: Sequence[Any] = error["loc"]
    name = location[-1] if location else "request"
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(LocateParams.model_fields))
        return f"unknown query parameter {name!r}; use {known}"
    return f"query parameter {name}={error.get('input')!r} is invalid: {error['msg']}"
