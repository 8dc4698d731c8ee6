"""Logging as JSON lines, and a request id that log lines, the answer and problem documents share.

A line contains the route's template, never the path, query, address or picture of a request.
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
from typing import Any, TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID_HEADER = "X-Request-ID"

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DEBUG_ROUTES = frozenset({"/healthz", "/readyz", "/metrics"})
"""Routes that machines poll every few seconds; they are logged at level debug."""

_request_id: contextvars.ContextVar[str] = contextvars.ContextVar("tilebeam_request_id", default="")
_log = logging.getLogger("tilebeam.request")


class JsonLines(logging.Formatter):
    """One JSON object per record: time (UTC), level, logger, message, request_id, and the items of `fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as one line."""
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


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stderr` is when a record arrives, not to what it was when the handler was made.

    A command line's test runner replaces and closes `sys.stderr`; later records would fail on the closed file.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.stream = sys.stderr
        super().emit(record)


def configure(level: str) -> None:
    """Write the service's log, and the warnings of uvicorn and all libraries, to stderr as JSON lines."""
    handler = StderrHandler()
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # Pillow's warnings about pictures are not JSON lines, and Python would keep every distinct text in memory.
    warnings.filterwarnings("ignore", module="PIL")
    logging.getLogger("tilebeam").setLevel(level.upper())


class RequestLogMiddleware:
    """Gives every request an id, or takes it from the header X-Request-ID, and logs one line at its end."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request and log it, also if it fails."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client_id = Headers(scope=scope).get(REQUEST_ID_HEADER, "")
        request_id = client_id if _VALID_ID.fullmatch(client_id) else secrets.token_hex(8)
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        status, started = 500, time.perf_counter()

        async def send_tracked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        token = _request_id.set(request_id)
        try:
            await self.app(scope, receive, send_tracked)
        finally:
            _log_request(scope, status, (time.perf_counter() - started) * 1000)
            _request_id.reset(token)


def _log_request(scope: Scope, status: int, ms: float) -> None:
    route = getattr(scope.get("route"), "path", "other")
    fields: dict[str, Any] = {"method": scope["method"], "route": route, "status": status, "ms": round(ms, 1)}
    if caller := scope["state"].get("caller"):
        fields["key"] = caller.key
    _log.log(logging.DEBUG if route in _DEBUG_ROUTES else logging.INFO, "request", extra={"fields": fields})
