"""Connections before there is a request: how large a request's head may be, how long it may take, how many are open.

A head is a request's address and headers. uvicorn's protocol bounds none of this, and the app sees a request only once
its head is complete, so a client without a key could take memory, time and file descriptors here. It loads uvicorn, so
only `service.serving` imports it.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.access.addresses import client_of
from service.errors import (
    MEDIA_TYPE,
    HeadersTooLargeError,
    NotHttpError,
    OverloadedError,
    ServiceError,
    SlowUploadError,
    headers_of,
    problem_of,
)

MAX_HEAD_BYTES = 65_536
MAX_HEADERS = 100
_LINGER_S = 1.0
"""How long a refused client may still send. Closing at once would reset the connection before it reads the answer."""
_LINGER_BYTES = 1 << 20


@dataclass(frozen=True)
class ConnectionLimits:
    """`head_timeout_s`: for a head to arrive; `stall_timeout_s`: for a client to read some of what was sent to it."""

    head_timeout_s: float
    stall_timeout_s: float
    connections: int
    per_address: int


class Connections:
    """All open connections of a server. `on_refusal` is called with a word for each one that is refused or closed."""

    def __init__(self, limits: ConnectionLimits, on_refusal: Callable[[str], None]) -> None:
        self.limits, self.on_refusal = limits, on_refusal
        self._count = 0
        self._of_address: Counter[str] = Counter()
        self._idle: dict[BoundedProtocol, None] = {}  # those without a request, the longest idle first

    def __len__(self) -> int:
        return self._count

    def protocol(self, **options: Any) -> "BoundedProtocol":
        """A new connection's protocol, as uvicorn asks for one."""
        return BoundedProtocol(self, **options)

    def admit(self, connection: "BoundedProtocol") -> bool:
        """Register a new connection; if there are too many, close an idle one first. False if none is idle."""
        full = self._count >= self.limits.connections
        if self._of_address[connection.address] >= self.limits.per_address or full:
            self.on_refusal("too-many")
            victim = self._longest_idle(None if full else connection.address)
            if victim is None:
                return False
            self.remove(victim)
            victim.transport.close()
        self._count += 1
        self._of_address[connection.address] += 1
        self._idle[connection] = None
        return True

    def remove(self, connection: "BoundedProtocol") -> None:
        """Forget a connection; may be called again."""
        if not connection.is_admitted:
            return
        connection.is_admitted = False
        self.set_idle(connection, False)
        self._count -= 1
        self._of_address[connection.address] -= 1
        if not self._of_address[connection.address]:
            del self._of_address[connection.address]

    def set_idle(self, connection: "BoundedProtocol", is_idle: bool) -> None:
        """Note whether a connection waits for its next request."""
        self._idle.pop(connection, None)
        if is_idle and connection.is_admitted:
            self._idle[connection] = None

    def _longest_idle(self, address: str | None) -> "BoundedProtocol | None":
        """An idle connection of this address; None for the address: of the one that has the most connections."""
        if address is None:
            address = max((c.address for c in self._idle), key=self._of_address.__getitem__, default=None)
        return next((connection for connection in self._idle if connection.address == address), None)


class _Forgiving:
    """A transport that drops what is written after it was closed, as asyncio's do; uvloop's raise RuntimeError.

    A client may leave while answers to its pipelined requests are due, and that is no error of the service.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self.is_closing():
            self._transport.write(data)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol for one connection, with the limits above. Errors are answered with a problem document."""

    def __init__(self, all_connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self.address = ""
        self.is_admitted = False
        self._all = all_connections
        self._head_bytes = self._head_count = 0  # of this request's complete headers and trailers
        self._silent_bytes = 0  # received since the parser last completed a head, a piece of a body, or a request
        self._is_too_large = self._is_refused = False
        self._discarded = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None

    # What the event loop calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn declares it
        super().connection_made(_Forgiving(transport))  # type: ignore[arg-type]  # in all that is used of it
        self.address = client_of(self.client[0]) if self.client else ""
        self.is_admitted = self._all.admit(self)
        if self.is_admitted:
            self._start_head_timer()
        else:
            message = f"{len(self._all):,} connections are open, of which none is idle; try again in 1 s"
            self._refuse(OverloadedError(message))

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.remove(self)
        self._stop_timers()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self._discarded += len(data)
            if self._discarded > _LINGER_BYTES:
                self.transport.abort()
            return
        self._unset_keepalive_if_required()
        self._silent_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # to a protocol that this service does not speak; the request is answered as HTTP/1.1
        except httptools.HttpParserError:
            self._refuse_head("too-large" if self._is_too_large else "not-http")
            return
        if self._silent_bytes > MAX_HEAD_BYTES:
            self._refuse_head("too-large")
        elif self._head_timer is None and not self._is_busy:
            self._start_head_timer()

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self._is_refused:
            self._start_stall_timer()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self._is_refused:
            self._stop_stall_timer()

    # What the parser calls

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = self._head_count = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._check_head(len(self.url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head_bytes += len(name) + len(value)
        self._head_count += 1
        self._check_head(self._head_bytes)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._silent_bytes = 0
        self._stop_head_timer()
        self._all.set_idle(self, False)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._silent_bytes = 0
        super().on_message_complete()

    # What uvicorn's request calls

    def on_response_complete(self) -> None:
        is_upload_complete = not self.cycle.more_body
        super().on_response_complete()
        if self.transport.get_write_buffer_size():
            self._start_stall_timer()
        if self._is_busy or self.transport.is_closing():
            return
        self._all.set_idle(self, True)
        if not is_upload_complete:  # its rest is discarded as it arrives, but not for ever
            self._start_head_timer()

    @property
    def _is_busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _check_head(self, size: int) -> None:
        if size > MAX_HEAD_BYTES or self._head_count > MAX_HEADERS:
            self._is_too_large = True
            raise HeadersTooLargeError  # the parser stops, and `data_received` answers

    def _refuse_head(self, reason: str) -> None:
        self._all.on_refusal(reason)
        if self._is_busy and (self.cycle.response_started or self.pipeline or not self.cycle.more_body):
            # An answer, to this request or one before it, is under way or due; another must not be written into it.
            self.transport.close()
            return
        if self._is_busy:  # the body of a request is broken: what its handler still answers is dropped
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if reason == "too-large":
            self._refuse(
                HeadersTooLargeError(
                    f"the address and headers have more than {MAX_HEAD_BYTES:,} bytes or {MAX_HEADERS} headers; "
                    "send fewer and shorter ones"
                )
            )
        else:
            self._refuse(NotHttpError("this is not HTTP/1.1; send a request as an HTTP library does"))

    def _refuse(self, error: ServiceError) -> None:
        """Answer with a problem document, then close as soon as the client has had a moment to read it."""
        problem = problem_of(error)
        body = json.dumps(problem).encode()
        headers = {
            "Content-Type": MEDIA_TYPE,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "Connection": "close",
            **headers_of(error),
        }
        lines = [b"%s: %s\r\n" % pair for pair in self.server_state.default_headers]
        lines += [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
        self.transport.write(b"".join([STATUS_LINE[problem["status"]], *lines, b"\r\n", body]))
        self._is_refused = True
        self._all.remove(self)
        self._stop_timers()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._stall_timer = self.loop.call_later(_LINGER_S, self.transport.abort)

    # Timers

    def _start_head_timer(self) -> None:
        self._stop_head_timer()
        self._head_timer = self.loop.call_later(self._all.limits.head_timeout_s, self._end_slow_head)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _end_slow_head(self) -> None:
        self._head_timer = None
        if self._is_busy or self.transport.is_closing():
            return
        self._all.on_refusal("slow")
        if self._silent_bytes:
            seconds = self._all.limits.head_timeout_s
            self._refuse(SlowUploadError(f"the address and headers took longer than {seconds:g} s; send them at once"))
        else:
            self.transport.close()

    def _start_stall_timer(self) -> None:
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(self._all.limits.stall_timeout_s, self._end_stalled)

    def _stop_stall_timer(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _end_stalled(self) -> None:
        self._stall_timer = None
        if self.transport.get_write_buffer_size():
            self._all.on_refusal("stalled")
            self.transport.abort()

    def _stop_timers(self) -> None:
        self._unset_keepalive_if_required()
        self._stop_head_timer()
        self._stop_stall_timer()
