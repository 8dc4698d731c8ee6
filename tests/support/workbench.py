"""Sources in memory, a tile server on loopback, and builds in separate processes."""

import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tile_cache.addressing import Tile
from tile_cache.source import SourceInfo

WORKER = Path(__file__).parent / "build_worker.py"
ROOT = Path(__file__).parents[2]


def picture(seed: int, mode: str = "RGB", size: int = 16) -> Image.Image:
    """A blocky random picture; equal seeds give equal pixels."""
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, bands), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(), mode=mode).resize((size, size), Image.Resampling.NEAREST)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def seed_of(tile: Tile) -> int:
    return (tile.z << 40) + (tile.x << 20) + tile.y


def tile_bytes(tile: Tile) -> bytes:
    return encoded(picture(seed_of(tile)))


@dataclass
class MemorySource:
    """A TileSource from a function; counts its reads."""

    answer: Callable[[Tile], bytes | None] = tile_bytes
    min_zoom: int = 0
    max_zoom: int = 20
    name: str = "memory"
    reads: list[Tile] = field(default_factory=list)

    @property
    def info(self) -> SourceInfo:
        return SourceInfo(self.name, f"memory:{self.name}", "nobody", self.min_zoom, self.max_zoom, 16)

    def read(self, tile: Tile) -> bytes | None:
        self.reads.append(tile)
        return self.answer(tile)

    def close(self) -> None:
        pass


@dataclass
class Server:
    """Serves `answer(tile)`; None is a 404. `log` holds every requested tile; each answer takes `delay_s`."""

    answer: Callable[[Tile], bytes | None] = tile_bytes
    delay_s: float = 0.0
    log: list[Tile] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{{z}}/{{x}}/{{y}}.png"


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server while the block runs."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            z, x, y = self.path.removesuffix(".png").split("/")[-3:]
            tile = Tile(int(x), int(y), int(z))
            state.log.append(tile)
            time.sleep(state.delay_s)
            body = state.answer(tile)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignore errors: a killed client resets its connections."""

    httpd = Quiet(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    state.port = httpd.server_address[1]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def start_worker(**request: Any) -> "subprocess.Popen[str]":
    """Start a build in its own process, which prints `ready` before the build and its report after it."""
    process = subprocess.Popen(
        [sys.executable, str(WORKER), json.dumps(request, default=str)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def run_worker(**request: Any) -> tuple[int, str, str]:
    """(exit code, standard output, standard error) of a build in its own process."""
    process = start_worker(**request)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def contents(directory: Path) -> dict[str, bytes]:
    """Every file of a directory with its bytes."""
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def write_folder(root: Path, tiles: dict[Tile, bytes]) -> Path:
    """Write tiles as a z/x/y folder."""
    for tile, data in tiles.items():
        path = root / str(tile.z) / str(tile.x) / f"{tile.y}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root
