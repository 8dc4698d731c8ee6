"""Messages between two processes over a socket: a JSON object and bytes behind it. Nothing is unpickled.

A message is the length of its object, 4 bytes big-endian, and the object as JSON; it names the lengths of the bytes
that follow. `until`: time.monotonic() at which TimeoutError is raised; None waits for ever. EOFError: the other process
has closed its end. ValueError: the message breaks these rules.
"""

import json
import socket
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["receive", "receive_bytes", "send", "send_bytes"]

_MAX_OBJECT = 1 << 20


def send(connection: socket.socket, message: Mapping[str, Any], until: float | None = None) -> None:
    """Send an object."""
    body = json.dumps(message).encode()
    send_bytes(connection, len(body).to_bytes(4, "big") + body, until)


def send_bytes(connection: socket.socket, payload: bytes, until: float | None = None) -> None:
    """Send the bytes behind an object."""
    _limit(connection, until)
    connection.sendall(payload)


def receive(connection: socket.socket, until: float | None = None) -> dict[str, Any]:
    """The next object."""
    length = int.from_bytes(receive_bytes(connection, 4, until), "big")
    if length > _MAX_OBJECT:
        raise ValueError(f"a message of {length:,} bytes")
    message = json.loads(receive_bytes(connection, length, until))
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")
    return message


def receive_bytes(connection: socket.socket, count: int, until: float | None = None) -> bytearray:
    """The next `count` bytes."""
    payload = bytearray(count)
    view, length = memoryview(payload), 0
    while length < count:
        _limit(connection, until)
        received = connection.recv_into(view[length:])
        if not received:
            raise EOFError
        length += received
    return payload


def _limit(connection: socket.socket, until: float | None) -> None:
    left = None if until is None else until - time.monotonic()
    if left is not None and left <= 0:
        raise TimeoutError
    connection.settimeout(left)
