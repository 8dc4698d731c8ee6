"""Process and socket: listening, SIGHUP during start-up, and running the app under uvicorn.

The socket is opened before the index, so that a used port is reported at once. uvicorn is imported by `run` only,
because `tilebeam locate` shares the command line and needs no server.
"""

import signal
import socket
from types import FrameType
from typing import TYPE_CHECKING

from service.errors import AddressError

if TYPE_CHECKING:  # loads the web framework
    from fastapi import FastAPI

    from service.settings import Settings


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


def run(app: "FastAPI", listener: socket.socket, settings: "Settings") -> None:
    """Serve until SIGTERM, after which running requests are answered, or until Ctrl-C, which also raises."""
    import uvicorn  # see the module's docstring

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    # uvicorn raises the signal again after it has shut down; for SIGTERM the exit code would not be 0.
    previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, previous)
        listener.close()
