"""A tile server on loopback whose answers a test chooses, and images for it."""

import io
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from tile_cache.addressing import Tile
from tile_cache.xyz import XyzSource


def image(seed: int = 0, kind: str = "PNG", size: int = 32) -> bytes:
    """An image whose pixels depend on `seed`."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST).save(out, kind)
    return out.getvalue()


def tile_image(tile: Tile) -> bytes:
    """An image of its own for each tile."""
    return image(seed=(tile.z << 40) + (tile.x << 20) + tile.y)


RESET = object()
"""A piece of an answer that ends the connection with a TCP reset."""


class Request(NamedTuple):
    path: str
    headers: dict[str, str]
    count: int
    """Number of requests for this path so far, this one included."""

    @property
    def tile(self) -> Tile:
        z, x, y = self.path.partition("?")[0].rpartition(".")[0].split("/")[-3:]
        return Tile(int(x), int(y), int(z))


def http(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
    """A complete HTTP response; keywords such as `Content_Length` override its headers."""
    fields = {"Content-Type": "image/png", "Content-Length": str(len(body))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body


Piece = bytes | float | object
"""A piece of an answer: bytes to send, seconds to wait, or RESET."""


@dataclass
class TileServer:
    """A server that responds with `answer(request)`; a test may replace `answer` at any time. `log`: all requests."""

    answer: Callable[[Request], bytes | Iterable[Piece]]
    port: int = 0
    log: list[Request] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def template(self) -> str:
        return f"http://127.0.0.1:{self.port}/{{z}}/{{x}}/{{y}}.png"

    @property
    def source(self) -> XyzSource:
        return XyzSource.from_template(self.template, {})

    def begin(self, path: str, headers: dict[str, str]) -> Request:
        with self.lock:
            self.counts[path] += 1
            request = Request(path, headers, self.counts[path])
            self.log.append(request)
            self.times.append(time.monotonic())
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
        return request

    def end(self) -> None:
        with self.lock:
            self.under_way -= 1


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        try:
            while (head := self._head()) is not None and self._serve(*head):
                pass
        except OSError:
            pass  # the client closed the connection, as tests of deadlines expect

    def _head(self) -> tuple[str, dict[str, str]] | None:
        first = self.rfile.readline().split()
        if len(first) < 2:
            return None
        headers = {}
        while line := self.rfile.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return first[1].decode(), headers

    def _serve(self, path: str, headers: dict[str, str]) -> bool:
        server: TileServer = self.server.tiles  # type: ignore[attr-defined]
        request = server.begin(path, headers)
        try:
            pieces = server.answer(request)
            for piece in [pieces] if isinstance(pieces, bytes) else pieces:
                if isinstance(piece, bytes):
                    self.wfile.write(piece)
                    self.wfile.flush()
                elif isinstance(piece, float):
                    time.sleep(piece)
                else:
                    self.connection.setsockopt(*_LINGER)
                    return False
        finally:
            server.end()
        return isinstance(pieces, bytes)


_LINGER = (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class _Threads(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


@contextmanager
def serving() -> Iterator[TileServer]:
    """Run a server on a free port of loopback; it answers with `tile_image` until `answer` is replaced."""
    tiles = TileServer(lambda request: http(200, tile_image(request.tile)))
    with _Threads(("127.0.0.1", 0), _Handler) as tcp:
        tcp.tiles = tiles  # type: ignore[attr-defined]
        tiles.port = tcp.server_address[1]
        thread = threading.Thread(target=tcp.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield tiles
        finally:
            tcp.shutdown()
