"""What a command line names, opened: the area as a coverage, sources, and the caches that stand in for servers.

It knows how a source's own knowledge (zooms, land) bounds a coverage; it knows nothing of encoders and indexes.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.build.coverage import Coverage, Land, check_zooms
from indexer.errors import CoverageError
from retrieval.files import cache_folder
from retrieval.geo.region import Region
from tile_cache.errors import SourceError
from tile_cache.mbtiles import TileStore
from tile_cache.source import LandAware, SourceInfo, TileSource
from tile_cache.xyz import XyzSource

__all__ = ["DEFAULT_LAND", "Area", "cache_file", "coverage_of", "open_cache", "reach_of"]

DEFAULT_LAND = 0.01
"""Share of land from which a tile is indexed, where the source knows it."""

LAND_LATITUDES = (-60.0, 78.0)
"""Degrees; beyond them land is ice without features, and no tile is indexed for the land it has."""


@dataclass(frozen=True)
class Area:
    """What to cover: `bbox` (W S E N, degrees), or `geojson`, or, with neither, the world.

    `deep_geojson` thins zooms from 10 on to its polygons. `land` is the least share of land in a tile; None takes 0.01
    where the source knows land, 0 takes every tile.
    """

    bbox: tuple[float, float, float, float] | None = None
    geojson: Path | None = None
    deep_geojson: Path | None = None
    land: float | None = None

    def region(self) -> Region:
        """The region itself. Raises CoverageError or RegionError."""
        if self.bbox is not None and self.geojson is not None:
            raise CoverageError("a bbox and a GeoJSON file were both given: choose one")
        if self.bbox is not None:
            return Region.from_bbox(*self.bbox)
        return Region.world() if self.geojson is None else Region.from_file(self.geojson)


def coverage_of(area: Area, zooms: Sequence[int], source: TileSource | XyzSource | None) -> Coverage:
    """The tiles that an index of this source over this area holds; None: of no source.

    Raises CoverageError or RegionError.
    """
    zooms = check_zooms(zooms)
    land = _land_of(area, source)
    deep = None if area.deep_geojson is None else Region.from_file(area.deep_geojson)
    if source is None:
        return Coverage.of(zooms, area.region(), deep=deep)
    if zooms[-1] > source.info.max_zoom:
        raise CoverageError(f"{source.info.name} ends at zoom {source.info.max_zoom}; zoom {zooms[-1]} was asked for")
    if zooms[-1] < source.info.min_zoom:
        raise CoverageError(
            f"{source.info.name} begins at zoom {source.info.min_zoom}; the deepest asked is {zooms[-1]}"
        )
    region = area.region()
    if land is not None:
        south, north = LAND_LATITUDES
        name = (
            f"{source.info.name} is indexed for land from {south:g} to {north:g} degrees (--land 0 lifts that), which"
        )
        region = region.intersection(Region.from_bbox(-180, south, 180, north), name)
    return Coverage.of(zooms, region, deep=deep, land=land)


def reach_of(context: float) -> int:
    """How many tiles away a margin of `context` tile widths reaches."""
    return math.ceil(context - 1e-9)


def cache_file(cache: Path | None, info: SourceInfo, *, overlay: bool = False) -> Path:
    """Where the tiles of a source are kept: `cache` itself if it ends in .mbtiles, else a file in that folder.

    An overlay's lie beside such a file, as NAME.overlay.mbtiles. None: in the user's cache folder
    (`retrieval.files.cache_folder`).
    """
    if cache is not None and cache.suffix == ".mbtiles":
        return cache.with_suffix(".overlay.mbtiles") if overlay else cache
    folder = cache if cache is not None else cache_folder() / "tiles"
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", info.name).strip("-.")[:40] or "tiles"
    return folder / f"{slug}-{hashlib.sha256(info.identity.encode()).hexdigest()[:10]}.mbtiles"


def open_cache(path: Path, info: SourceInfo) -> TileStore:
    """The store at `path`, its folder made where it is missing. Raises StoreError or SourceError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SourceError(f"the tile cache cannot lie in {path.parent} ({exc.strerror}): give another --cache") from exc
    return TileStore.open(path, info)


def _land_of(area: Area, source: TileSource | XyzSource | None) -> Land | None:
    if source is None and area.land:
        raise CoverageError("to keep land only, name a source that knows where it is: --source bluemarble")
    if isinstance(source, LandAware):
        fraction = DEFAULT_LAND if area.land is None else area.land
        return None if fraction == 0 else Land(source, fraction, source.info.identity)
    if source is not None and area.land:
        raise CoverageError(f"{source.info.name} does not know where land is: leave --land out")
    return None
