"""Process and socket: listening, SIGHUP during start-up, and running the app under uvicorn.

The socket is opened before the index, so that a used port is reported at once. uvicorn is imported by `run` only,
because `tilebeam locate` shares the command line and needs no server.
"""

import os
import resource
import signal
import socket
from types import FrameType
from typing import TYPE_CHECKING

from service.errors import AddressError

if TYPE_CHECKING:  # loads the web framework
    import uvicorn
    from fastapi import FastAPI

    from service.settings import Settings

_OTHER_DESCRIPTORS = 32
"""File descriptors for everything but connections and the index: spools, tiles, the audit."""


class _RememberHangup:
    """A signal handler that remembers that it was called."""

    def __init__(self) -> None:
        self.called = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.called = True


def remember_hangup() -> None:
    """Remember a SIGHUP until the service is up, instead of ending the process. Call early, in the main thread.

    Opening an index takes seconds, and by default the signal ends the process.
    """
    signal.signal(signal.SIGHUP, _RememberHangup())


def hangup_was_remembered() -> bool:
    """Whether SIGHUP arrived since `remember_hangup`; False if another handler is installed."""
    handler = signal.getsignal(signal.SIGHUP)
    return isinstance(handler, _RememberHangup) and handler.called


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes any free port. Raises AddressError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as exc:
        raise AddressError(f"host {host!r} is unknown ({exc}); use 127.0.0.1, or an address of this machine") from exc
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as exc:
        listener.close()
        raise AddressError(f"{host}:{port} cannot be used ({exc.strerror}); choose another --port") from exc
    return listener


def server(app: "FastAPI", settings: "Settings") -> "uvicorn.Server":
    """A server for the app, with the limits on connections. Its log is left to the logging of this process."""
    import uvicorn  # see the module's docstring

    from service.connections import ConnectionLimits, Connections

    limits = ConnectionLimits(
        settings.header_timeout_s,
        # Longer than the app's own patience with a batch's reader, which says in the log why it ended the batch.
        settings.client_timeout_s + 1,
        min(settings.max_connections, _available_descriptors()),
        settings.max_connections_per_address,
    )
    metrics = app.state.service.metrics
    connections = Connections(limits, metrics.count_refused_connection)
    metrics.read_connections_from(lambda: len(connections))
    config = uvicorn.Config(
        app,
        http=connections.protocol,  # type: ignore[arg-type]  # a function that makes protocols, as the class would be
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    return uvicorn.Server(config)


def _available_descriptors() -> int:
    """How many connections the system's limit on open files leaves room for.

    An open index maps files, and a reload opens a second one beside it.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 1 << 20
    used = len(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else 64
    return max(8, limit - 2 * used - _OTHER_DESCRIPTORS)


def run(app: "FastAPI", listener: socket.socket, settings: "Settings") -> None:
    """Serve until SIGTERM, after which running requests are answered, or until Ctrl-C, which also raises."""
    # uvicorn raises the signal again after it has shut down; for SIGTERM the exit code would not be 0.
    previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        server(app, settings).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, previous)
        listener.close()
