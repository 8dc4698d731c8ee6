"""Decode a tile's untrusted bytes to RGB pixels of a given size, with an overlay on top.

Resizing is bicubic with Pillow's antialiasing (the filter widens when an image shrinks). Source and overlay are
resized first and composited then. The module knows nothing of neighbours, margins or encoders.
"""

import io
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tile_cache.addressing import Tile
from tile_cache.images import MAX_SIDE, BadImageError, check_whole, sniff
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
    """A tile's pixels, (t, t, 3) uint8, or None without imagery; and the problems on the way."""

    pixels: Pixels | None
    problems: tuple[TileProblem, ...]


def decode_tile(tile: Tile, source: TileSource, overlay: TileSource | None, side: int) -> Decoded:
    """Read and decode a tile to (side, side, 3) uint8, overlay included.

    Bytes that are not an image count as missing imagery and are returned as a problem. Errors of the source pass
    through.
    """
    problems: list[TileProblem] = []
    pixels = _base(tile, source, side, problems)
    if pixels is not None and overlay is not None:
        pixels = _with_overlay(pixels, _image(tile, overlay, "overlay", problems))
    return Decoded(pixels, tuple(problems))


def resized(pixels: Pixels, side: int) -> Pixels:
    """Resize (h, w, 3) to (side, side, 3) uint8; returns the same array if it has that size."""
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


def _base(tile: Tile, source: TileSource, side: int, problems: list[TileProblem]) -> Pixels | None:
    if isinstance(source, RasterSource):
        return source.render(tile, side)
    image = _image(tile, source, "source", problems)
    if image is None:
        return None
    if image.mode == "RGBA":
        if image.getchannel("A").getextrema() == (0, 0):
            return None  # many servers send a transparent tile where they have no imagery
        # Composited onto black, which mosaics show at their edges.
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("RGB")
    return resized(np.asarray(image), side)


def _with_overlay(pixels: Pixels, overlay: Image.Image | None) -> Pixels:
    if overlay is None:
        return pixels
    side = pixels.shape[0]
    top = overlay.convert("RGBA")
    if top.size != (side, side):
        top = top.resize((side, side), Image.Resampling.BICUBIC)  # Pillow resizes RGBA premultiplied
    base = Image.fromarray(pixels).convert("RGBA")
    return np.asarray(Image.alpha_composite(base, top).convert("RGB"))


def _image(tile: Tile, source: TileSource, layer: str, problems: list[TileProblem]) -> Image.Image | None:
    data = source.read(tile)
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
    if kind is None:
        check_whole(data)  # raises and says what the bytes are instead
    try:
        image = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP"))  # reads the header only
        if max(image.size) > MAX_SIDE:
            raise BadImageError(f"image over {MAX_SIDE} pixels wide")
        return _plain(image)
    except BadImageError:
        raise
    except Exception as exc:  # a decoder may raise anything for hostile bytes, and one tile must not stop a build
        raise BadImageError(f"image does not decode ({kind}): {str(exc)[:80] or type(exc).__name__}") from exc


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        return Image.fromarray((np.asarray(image, dtype=np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        return image.convert("RGBA")
    return image.convert("RGB")
