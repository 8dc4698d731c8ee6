"""Running the app under uvicorn: the socket first, so that a port in use costs no loading; then an orderly end."""

import signal
import socket

import uvicorn
from fastapi import FastAPI

from service.errors import AddressError
from service.settings import Settings

__all__ = ["listen", "run"]


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; raises AddressError. Port 0 takes any free one."""
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
        raise AddressError(f"{host}:{port} cannot be listened on ({exc.strerror}); choose another --port") from exc
    return listener


def run(app: FastAPI, listener: socket.socket, settings: Settings) -> None:
    """Serve until SIGTERM, which ends it once what is in work is answered, or ctrl-C, which also raises."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
    )
    # uvicorn raises a signal once more after its orderly end: for SIGTERM that would end in "terminated" instead of 0.
    previous = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, previous)
        listener.close()
