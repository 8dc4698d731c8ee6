"""A small synthetic world: pictures and labels for every tile, a loopback server of them, and the area to index.

Every picture contains its ancestors' patterns, so that a photo of a place resembles the tiles of all zooms there.
"""

import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from brute_force import TileKey, edges, is_under, morton
from PIL import Image, ImageDraw

ZOOMS = (4, 6, 8, 10, 12, 14, 16)
SIDE = 256
CORNER = (9, 6)
"""A corner of zoom 4, on 22.5 degrees east; it is a corner of every deeper zoom too."""

_X16, _Y16 = (v << 12 for v in CORNER)
_Z8, _Z10 = 1 << 8, 1 << 6  # tiles of zoom 16 along the edge of one of zoom 8, of zoom 10
BLOCKS = (  # zoom 16: x, y of the first tile, columns, rows
    (_X16 - 1, _Y16 - 1, 2, 2),  # on the corner
    (_X16 + _Z8 + 2 * _Z10 - 2, _Y16 - _Z8 - _Z10 - 2, 4, 4),  # on a corner of zoom 10
    (_X16 - _Z8 - _Z10 - 1, _Y16 + 2 * _Z10 - 2, 3, 3),  # on another
    (_X16 + 5, _Y16 + _Z8 + 9, 1, 3),  # inside one tile of zoom 14
)
HOLE_16 = (16, BLOCKS[1][0], BLOCKS[1][1])
HOLE_14 = (14, BLOCKS[3][0] >> 2, BLOCKS[3][1] >> 2)
HOLES = (HOLE_16, HOLE_14)
TWINS = ((16, BLOCKS[0][0], BLOCKS[0][1]), (16, BLOCKS[0][0] + 1, BLOCKS[0][1]))
"""Two tiles with the same picture, like open sea."""
PLACE = (16, BLOCKS[1][0] + 2, BLOCKS[1][1] + 1)
"""Where the photo was taken."""


def bbox() -> tuple[float, float, float, float]:
    """W S E N of the 16 tiles of zoom 8 around the corner, slightly smaller."""
    x, y = (v << 4 for v in CORNER)
    west, _, _, north = edges((8, x - 2, y - 2))
    _, south, east, _ = edges((8, x + 1, y + 1))
    return west + 1e-7, south + 1e-7, east - 1e-7, north - 1e-7


def deep_geojson(path: Path) -> Path:
    """The blocks of zoom 16, slightly smaller, as a GeoJSON file."""
    polygons = []
    for x, y, columns, rows in BLOCKS:
        west, _, _, north = edges((16, x, y))
        _, south, east, _ = edges((16, x + columns - 1, y + rows - 1))
        w, s, e, n = west + 1e-7, south + 1e-7, east - 1e-7, north - 1e-7
        polygons.append([[[w, s], [e, s], [e, n], [w, n], [w, s]]])
    path.write_text(json.dumps({"type": "MultiPolygon", "coordinates": polygons}))
    return path


def covered() -> list[TileKey]:
    """Every tile that the index must hold, in row order."""
    leaves = [(16, x + i, y + j) for x, y, columns, rows in BLOCKS for i in range(columns) for j in range(rows)]
    x, y = (v << 4 for v in CORNER)
    eights = [(8, x + i, y + j) for i in range(-2, 2) for j in range(-2, 2)]
    tiles = set(leaves + eights)
    for z in ZOOMS:
        tiles |= {(z, tx >> tz - z, ty >> tz - z) for tz, tx, ty in (*leaves, *eights) if z <= tz}
    return sorted(tiles, key=lambda t: (t[0], morton(t)))


def imagery(tile: TileKey) -> Image.Image:
    """The picture of a tile that has one, RGB."""
    if tile == TWINS[1]:
        tile = TWINS[0]
    total = np.full((SIDE, SIDE, 3), 128.0)
    for z in range(4, tile[0] + 1, 2):
        up = tile[0] - z
        total += _pattern(z, tile[1] >> up, tile[2] >> up)
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def labels(tile: TileKey) -> Image.Image | None:
    """A translucent border and a word, RGBA; None for a third of the tiles and for the twins."""
    z, x, y = tile
    if (x + y) % 3 == 0 or tile in TWINS:
        return None
    image = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.line([(0, (x * 37) % SIDE), (SIDE, (y * 53) % SIDE)], fill=(255, 240, 0, 150), width=9)
    draw.text((40, 110), f"{z}/{x % 100}", fill=(255, 255, 255, 255), font_size=48)
    return image


def png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


@dataclass
class Server:
    """Serves /base/z/x/y.png and /labels/z/x/y.png; `answered` counts tiles, `delay_s` delays each."""

    port: int = 0
    delay_s: float = 0.0
    answered: int = 0
    asked: list[tuple[str, TileKey]] = field(default_factory=list)

    def template(self, layer: str) -> str:
        return f"http://127.0.0.1:{self.port}/{layer}/{{z}}/{{x}}/{{y}}.png"

    def body(self, path: str) -> bytes | None:
        layer, z, x, y = path.strip("/").removesuffix(".png").split("/")
        tile = (int(z), int(x), int(y))
        self.asked.append((layer, tile))
        if layer == "base":
            return None if tile in HOLES else png(imagery(tile))
        image = labels(tile)
        return None if image is None else png(image)


@contextmanager
def serving() -> Iterator[Server]:
    """Run a tile server on loopback during the block."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            time.sleep(state.delay_s)
            body = state.body(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "image/png")
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")
            state.answered += 1

        def log_message(self, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            """Ignore connections that a killed client resets."""

    httpd = Quiet(("127.0.0.1", 0), Handler)
    state.port = httpd.server_address[1]
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def leaves_under(tile: TileKey) -> list[TileKey]:
    """The covered tiles of the next deeper zoom."""
    return [t for t in covered() if t[0] == tile[0] + 2 and is_under(t, tile)]


@lru_cache(maxsize=512)
def _pattern(z: int, x: int, y: int) -> np.ndarray:
    """Random patches, smoothed: (SIDE, SIDE, 3) float64 around 0."""
    patches = np.random.default_rng((z << 40) + (x << 20) + y).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    smooth = Image.fromarray(patches).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return (np.asarray(smooth, dtype=np.float64) - 128) * 0.6
