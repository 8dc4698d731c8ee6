"""A line in the log for each request, ids that join it with its answer and audit, and an answer for what nothing else
answered.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import NotReadyError
from service.ops.logs import request_ids

REQUEST_ID_HEADER = "X-Request-ID"
CLIENT_ID_HEADER = "X-Client-Request-ID"

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DEBUG_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes that machines poll every few seconds; they are logged at level debug."""

_log = logging.getLogger("tilebeam.request")
_service_log = logging.getLogger("tilebeam.service")


class RequestLogMiddleware:
    """Gives every request an id of its own, and logs one line at its end.

    An id that the client sends as X-Request-ID is kept beside it and never takes its place, because two requests could
    have the same. `respond`: makes the answer to an error that the app did not answer.
    """

    def __init__(self, app: ASGIApp, respond: Callable[[Scope, Exception], ASGIApp]) -> None:
        self.app = app
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, answer it if the app fails, and log it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        ids = {"request_id": secrets.token_hex(8)}
        client_id = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        if _VALID_ID.fullmatch(client_id):
            ids["client_request_id"] = client_id
        state = scope.setdefault("state", {})
        state["ids"] = ids
        status, started = 0, time.perf_counter()

        async def send_tracked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = ids["request_id"]
                if "client_request_id" in ids:
                    headers[CLIENT_ID_HEADER] = ids["client_request_id"]
            await send(message)

        token = request_ids.set(ids)
        try:
            await self.app(scope, receive, send_tracked)
        except asyncio.CancelledError:
            # By the server, for what has not ended in the time that requests have after SIGTERM.
            if not status:
                error = NotReadyError("the service is stopping; send the request again in a moment")
                await self._respond(scope, error)(scope, receive, _closing(send_tracked))
        except Exception as error:
            _service_log.exception("a request failed")
            if not status:
                await self._respond(scope, error)(scope, receive, send_tracked)
        finally:
            _log_request(scope, status or 500, (time.perf_counter() - started) * 1000)
            request_ids.reset(token)


def _closing(send: Send) -> Send:
    async def send_and_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
        await send(message)

    return send_and_close


def _log_request(scope: Scope, status: int, ms: float) -> None:
    route = getattr(scope.get("route"), "path", "other")
    fields: dict[str, Any] = {"method": scope["method"], "route": route, "status": status, "ms": round(ms, 1)}
    if caller := scope["state"].get("caller"):
        fields["key"] = caller.key
    _log.log(logging.DEBUG if route in _DEBUG_ROUTES else logging.INFO, "request", extra={"fields": fields})
