"""Decode a tile's untrusted bytes to RGB pixels of a given size, with an overlay on top.

Resizing is bicubic with Pillow's antialiasing (the filter widens when an image shrinks). Source and overlay are
resized first and composited then. The module knows nothing of neighbours, margins or encoders.
"""

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.pictures.pillow_source import plain
from tile_cache.addressing import Tile
from tile_cache.images import MAX_SIDE, MAX_TILE_BYTES, BadImageError, check_whole, sniff
from tile_cache.repeats import picture_hash
from tile_cache.source import RasterSource, TileSource

__all__ = ["NO_IMAGERY", "Decoded", "TileProblem", "decode_tile", "resized"]

Pixels = NDArray[np.uint8]

NO_IMAGERY = "no imagery"
"""The reason of a problem that is a missing tile."""


class TileProblem(NamedTuple):
    """A tile that cannot be used. `layer` is `source` or `overlay`."""

    z: int
    x: int
    y: int
    layer: str
    reason: str


class Decoded(NamedTuple):
    """A tile's pixels, (t, t, 3) uint8, or None without imagery; and the problems on the way.

    `opacity`: (t, t) uint8, or None if every pixel is opaque; transparent pixels lie on black. `sha256`: that of the
    tile's bytes; empty if the source draws pixels, or has no tile.
    """

    pixels: Pixels | None
    problems: tuple[TileProblem, ...]
    opacity: Pixels | None = None
    sha256: str = ""


def decode_tile(
    tile: Tile, source: TileSource, overlay: TileSource | None, side: int, absent: frozenset[str] = frozenset()
) -> Decoded:
    """Read and decode a tile to (side, side, 3) uint8, overlay included.

    Bytes that are not an image count as missing imagery and are returned as a problem; pictures whose SHA-256 is in
    `absent` count as missing imagery. Errors of the source pass through.
    """
    problems: list[TileProblem] = []
    if isinstance(source, RasterSource):
        base = Decoded(source.render(tile, side), ())
    else:
        base = _base(tile, source, side, absent, problems)
    pixels = base.pixels
    if pixels is not None and overlay is not None:
        label = _read(tile, overlay, absent)[0]
        pixels = _with_overlay(pixels, _image(tile, label, "overlay", problems))
    return base._replace(pixels=pixels, problems=tuple(problems))


def resized(pixels: Pixels, side: int) -> Pixels:
    """Resize (h, w, 3) to (side, side, 3) uint8; returns the same array if it has that size."""
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def _base(tile: Tile, source: TileSource, side: int, absent: frozenset[str], problems: list[TileProblem]) -> Decoded:
    data, sha256 = _read(tile, source, absent)
    image = _image(tile, data, "source", problems)
    opacity = None
    if image is not None and image.mode == "RGBA":
        alpha = image.getchannel("A")
        if alpha.getextrema() == (0, 0):
            return Decoded(None, (), sha256=sha256)  # many servers send a transparent tile where they have no imagery
        if alpha.getextrema() != (255, 255):
            opacity = np.asarray(alpha.resize((side, side), Image.Resampling.BICUBIC))
        # Composited onto black, which mosaics show at their edges.
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return Decoded(None if image is None else resized(np.asarray(image), side), (), opacity, sha256)


def _read(tile: Tile, source: TileSource, absent: frozenset[str]) -> tuple[bytes | None, str]:
    """A tile's bytes, None without a tile or if its picture is in `absent`; and their SHA-256."""
    data = source.read(tile)
    if data is None:
        return None, ""
    sha256 = picture_hash(data)
    return None if sha256 in absent else data, sha256


def _with_overlay(pixels: Pixels, overlay: Image.Image | None) -> Pixels:
    if overlay is None:
        return pixels
    side = pixels.shape[0]
    top = overlay.convert("RGBA")
    if top.size != (side, side):
        top = top.resize((side, side), Image.Resampling.BICUBIC)  # Pillow resizes RGBA premultiplied
    base = Image.fromarray(pixels).convert("RGBA")
    return np.asarray(Image.alpha_composite(base, top).convert("RGB"))


def _image(tile: Tile, data: bytes | None, layer: str, problems: list[TileProblem]) -> Image.Image | None:
    if data is None:
        return None
    try:
        return _decoded(data)
    except BadImageError as exc:
        problems.append(TileProblem(tile.z, tile.x, tile.y, layer, str(exc)))
        return None


def _decoded(data: bytes) -> Image.Image:
    """Bytes to an RGB image, or RGBA where there is transparency; raises BadImageError with a short reason."""
    kind = sniff(data)
    if kind is None or len(data) > MAX_TILE_BYTES:
        check_whole(data)  # raises and says what the bytes are instead
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))  # reads the header only
        if max(image.size) > MAX_SIDE:
            raise BadImageError(f"image over {MAX_SIDE} pixels wide")
        return plain(image)
    except BadImageError:
        raise
    except Exception as exc:  # a decoder may raise anything for hostile bytes, and one tile must not stop a build
        raise BadImageError(f"image does not decode ({kind}): {str(exc)[:80] or type(exc).__name__}") from exc
