"""Logs as JSON lines, and an id for each request that its log lines, its answer and its problem documents share.

A line says the route's template and never the path, query, address or picture of a request.
"""

import contextvars
import datetime
import json
import logging
import re
import secrets
import sys
import time
import warnings
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADER", "JsonLines", "RequestLogMiddleware", "configure"]

HEADER = "X-Request-ID"

_SANE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes that machines ask every few seconds: their lines are of level debug."""

_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("tilebeam_request_id", default="")
_log = logging.getLogger("tilebeam.request")


class JsonLines(logging.Formatter):
    """One JSON object a record: time (UTC), level, logger, message, request_id, what `extra={"fields": ...}` adds."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := _request_id.get():
            line["request_id"] = request_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def configure(level: str) -> None:
    """Write the service's log, and uvicorn's and every library's warnings, to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # What Pillow has to say of a stranger's picture is no line of JSON, and Python would remember each such text.
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("tilebeam").setLevel(level.upper())


class RequestLogMiddleware:
    """Gives every request an id, which it may bring as X-Request-ID, and logs one line when it ends."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and log it, whatever becomes of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        brought = Headers(scope=scope).get(HEADER, "")
        request_id = brought if _SANE.fullmatch(brought) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status, started = 500, time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        token = _request_id.set(request_id)
        try:
            await self.app(scope, receive, watch)
        finally:
            _log_request(scope, status, (time.perf_counter() - started) * 1000)
            _request_id.reset(token)


def _log_request(scope: Scope, status: int, ms: float) -> None:
    route = getattr(scope.get("route"), "path", "other")
    fields: dict[str, Any] = {"method": scope["method"], "route": route, "status": status, "ms": round(ms, 1)}
    if caller := scope["state"].get("caller"):
        fields["key"] = caller.key
    _log.log(logging.DEBUG if route in _QUIET else logging.INFO, "request", extra={"fields": fields})
