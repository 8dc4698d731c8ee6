"""Errors to problem documents: the framework's own are made ours first, so that one table decides over all."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from service.errors import RequestError
from service.http.routes import LocateParams
from service.ops.logs import HEADER
from service.ops.metrics import Metrics
from service.problems import MEDIA_TYPE, TABLE, headers_of, kind_of, problem_of

__all__ = ["install"]

_CLIENT_CLOSED_REQUEST = 499
"""nginx's name for it; nobody reads this answer, but it is counted and logged."""
_Handler = Callable[[Request, Exception], Awaitable[Response]]


def install(app: FastAPI, metrics: Metrics) -> None:
    """Answer every error of `app` with a problem document, and count it."""

    async def answer(request: Request, error: Exception) -> Response:
        metrics.rejected(kind_of(error).slug)
        return _response(request, problem_of(error), headers_of(error))

    async def validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await answer(request, RequestError("; ".join(map(_sentence, error.errors()))))

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return _response(request, _http_problem(request, error), error.headers or {})

    async def gone(request: Request, error: Exception) -> Response:
        metrics.departures.inc()
        return Response(status_code=_CLIENT_CLOSED_REQUEST)

    handlers: dict[type[Exception], _Handler] = dict.fromkeys(TABLE, answer)
    handlers |= {RequestValidationError: validation, HTTPException: http, ClientDisconnect: gone, Exception: answer}
    for cls, handler in handlers.items():
        app.add_exception_handler(cls, handler)


def _response(request: Request, problem: dict[str, Any], headers: Mapping[str, str]) -> Response:
    # A fault's answer leaves outside all middleware, so the header is set here too.
    request_id = request.state.request_id
    body = problem | {"instance": request.url.path, "request_id": request_id}
    return JSONResponse(body, problem["status"], {**headers, HEADER: request_id}, media_type=MEDIA_TYPE)


def _http_problem(request: Request, error: HTTPException) -> dict[str, Any]:
    """404 and 405 as RFC 9457 wants plain HTTP statuses: about:blank, titled by the status's phrase."""
    details = {
        404: f"there is nothing at {request.url.path!r}; /docs lists what there is",
        405: f"{request.method} is not for {request.url.path!r}; /docs says what is",
    }
    title = HTTPStatus(error.status_code).phrase
    detail = details.get(error.status_code, error.detail)
    return {"type": "about:blank", "title": title, "status": error.status_code, "detail": detail}


def _sentence(error: Mapping[str, Any]) -> str:
    """One of pydantic's findings, in our words."""
    place: Sequence[Any] = error["loc"]
    name = place[-1] if place else "request"
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(LocateParams.model_fields))
        return f"query parameter {name!r} is unknown; there are {known}"
    return f"query parameter {name}={error.get('input')!r} is wrong: {error['msg']}"
