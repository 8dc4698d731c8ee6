"""What a tile source is: `SourceInfo`, and the protocols that the rest of the package and its callers depend on.

A source of tiles that are already on this machine (a folder, an MBTiles file, the built-in Earth) is a `TileSource`.
Tiles on a server are an `XyzSource` (`tile_cache.xyz`); fetching copies them into a `TileStore`, which is a
`TileSource` again. `tile_cache.open` turns the text of `--source` into one of these.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tile_cache.addressing import Tile

__all__ = ["LandAware", "RasterSource", "SourceInfo", "TileSource", "notes_of"]


@dataclass(frozen=True)
class SourceInfo:
    """The description of a source, known without reading a tile.

    `name` is shown to people and never holds an API key. `identity` becomes part of the index id: sources with equal
    identity have equal tiles. `tile_size` is in pixels.
    """

    name: str
    identity: str
    attribution: str
    min_zoom: int
    max_zoom: int
    tile_size: int


class TileSource(Protocol):
    """A source of tiles on this machine.

    `read` may be called from several threads. It returns an encoded image, or None if there is no imagery.
    """

    @property
    def info(self) -> SourceInfo: ...

    def read(self, tile: Tile) -> bytes | None: ...

    def close(self) -> None: ...


@runtime_checkable
class RasterSource(TileSource, Protocol):
    """A source that can draw a tile's pixels without encoding them: (size, size, 3) uint8 RGB, or None."""

    def render(self, tile: Tile, size: int) -> NDArray[np.uint8] | None: ...


@runtime_checkable
class LandAware(Protocol):
    """A source that knows how much of a tile is land: (n,) uint64 codes of zoom `z` to (n,) float32 from 0 to 1."""

    def land_fraction(self, codes: NDArray[np.uint64], z: int) -> NDArray[np.float32]: ...


def notes_of(source: object) -> tuple[str, ...]:
    """What people should know of how a source is read, a sentence each; most sources have nothing to say."""
    return tuple(getattr(source, "notes", ()))
