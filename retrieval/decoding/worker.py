"""The process that decodes: reads pictures from a socket and writes their views, one after the other.

    python -m retrieval.decoding.worker DESCRIPTOR MAX_MEMORY

It imports Pillow and NumPy alone. Before the first picture its memory is limited to what it has then and `MAX_MEMORY`
bytes, and for each picture a timer is set that ends it, so that it also ends where its parent has died.
"""

import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

from PIL import Image

from retrieval.decoding.frames import receive, receive_bytes, send, send_bytes
from retrieval.encoders.preprocess import Preprocess
from retrieval.errors import DecodeMemoryError, PhotoError
from retrieval.pictures.formats import accepted_formats
from retrieval.pictures.limits import PhotoLimits, View
from retrieval.pictures.photo import Photo, read_photo

__all__ = ["STRIP_BYTES", "main"]

STRIP_BYTES = 4 << 20
"""A picture is sent in strips of at most so many bytes, or of one row."""
_ROOM = 64 << 20
"""Bytes beside the computed ones: the file, a strip, and what the allocator holds back."""
_KEPT_BYTES = 64 << 20
"""A process that holds more than this after a picture, beyond what it began with, ends and is replaced."""
_GRACE_S = 2.0
"""Beyond the parent's own deadline."""


def main(descriptor: int, max_memory: int) -> None:
    """Serve one parent until it closes its end."""
    formats = accepted_formats()  # loads the codecs, so that their own memory does not count
    _use_one_thread()
    _limit_resources(max_memory)
    resident = _kilobytes("VmRSS")
    with socket.socket(fileno=descriptor) as connection:
        send(connection, {"formats": formats})
        is_last = False
        while not is_last:
            try:
                request = receive(connection)
            except EOFError:
                return
            signal.setitimer(signal.ITIMER_REAL, request["timeout_s"] + _GRACE_S)
            outcome = _outcome(request, bytes(receive_bytes(connection, request["bytes"])), max_memory)
            is_last = isinstance(outcome, MemoryError) or _kilobytes("VmRSS") - resident > _KEPT_BYTES >> 10
            _answer(connection, outcome, is_last)
            del outcome
            signal.setitimer(signal.ITIMER_REAL, 0)


def _outcome(request: Mapping[str, Any], data: bytes, max_memory: int) -> Photo | Exception:
    limits = PhotoLimits(**request["limits"] | {"formats": tuple(request["limits"]["formats"])})
    views = [
        View(view["min_edge"], None if view["preprocess"] is None else Preprocess.from_json(view["preprocess"]))
        for view in request["views"]
    ]
    try:
        return read_photo(data, limits, views)
    except PhotoError as exc:
        return exc
    except (DecodeMemoryError, MemoryError):
        return MemoryError(max_memory)


def _answer(connection: socket.socket, outcome: Photo | Exception, is_last: bool) -> None:
    if isinstance(outcome, Exception):
        send(connection, {"error": type(outcome).__name__, "message": str(outcome), "is_last": is_last})
        return
    sizes = [image.size for image in outcome.images]
    stored = {"stored": outcome.size, "turn": outcome.turn}
    send(connection, {"sizes": sizes, "notes": list(outcome.notes), "is_last": is_last} | stored)
    for image in outcome.images:
        _send_pixels(connection, image)


def _send_pixels(connection: socket.socket, image: Image.Image) -> None:
    rows = max(1, STRIP_BYTES // (3 * image.width))
    for top in range(0, image.height, rows):
        send_bytes(connection, image.crop((0, top, image.width, min(image.height, top + rows))).tobytes())


def _use_one_thread() -> None:
    """Each thread of a codec would take memory of its own, and the others decode beside this process."""
    avif: Any = sys.modules.get("PIL.AvifImagePlugin")
    if avif is not None:
        avif.DEFAULT_MAX_THREADS = 1
    heif: Any = sys.modules.get("pillow_heif")
    if heif is not None:
        heif.options.DECODE_THREADS = 1


def _limit_resources(max_memory: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not os.path.exists("/proc/self/status"):
        return
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:  # before the service, where memory runs out
        file.write("1000")
    limit = (_kilobytes("VmData") << 10) + max_memory + _ROOM
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _kilobytes(name: str) -> int:
    """A figure of this process; 0 where the system has no /proc."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(f"{name}:"))
    except (OSError, StopIteration):
        return 0


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
