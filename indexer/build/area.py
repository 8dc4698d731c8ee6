"""From an area of the Earth to the tiles that an index covers.

The module knows how a source's zooms and its knowledge of land bound a coverage. It knows nothing of encoders and
indexes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.build.coverage import DEEP_ZOOM, Coverage, Land, check_zooms
from indexer.errors import CoverageError
from retrieval.geo.region import Region
from tile_cache.source import LandAware, TileSource
from tile_cache.xyz import XyzSource

__all__ = ["DEFAULT_LAND", "Area", "coverage_of", "reach_of"]

DEFAULT_LAND = 0.01
"""Minimum share of land in a tile, where the source knows land."""

LAND_LATITUDES = (-60.0, 78.0)
"""South and north in degrees. Beyond them land is ice without features, and only --land 0 covers it."""


@dataclass(frozen=True)
class Area:
    """The area to cover: `bbox` or `geojson`, or the world without either."""

    bbox: tuple[float, float, float, float] | None = None
    """West, south, east and north in degrees; W > E crosses the date line."""
    geojson: Path | None = None
    """Polygons, as a GeoJSON file."""
    deep_geojson: Path | None = None
    """Zooms from 10 on only in these polygons."""
    land: float | None = None
    """Minimum share of land in a tile, by default 0.01 where the source knows land; 0: all tiles."""

    def region(self) -> Region:
        """The area as a region. Raises CoverageError or RegionError."""
        if self.bbox is not None and self.geojson is not None:
            raise CoverageError("a bbox and a GeoJSON file were both given: choose one")
        if self.bbox is not None:
            return Region.from_bbox(*self.bbox)
        return Region.world() if self.geojson is None else Region.from_file(self.geojson)


def coverage_of(area: Area, zooms: Sequence[int], source: TileSource | XyzSource | None) -> Coverage:
    """The tiles of an index over this area; `source`: None for rows only without --land.

    Raises CoverageError or RegionError.
    """
    zooms = check_zooms(zooms)
    land = _land_of(area, source)
    if area.deep_geojson is not None and zooms[-1] < DEEP_ZOOM:
        raise CoverageError(
            f"--deep-geojson thins out the zooms from {DEEP_ZOOM} on, but the deepest is {zooms[-1]}: leave it out, or"
            " add zooms"
        )
    deep = None if area.deep_geojson is None else Region.from_file(area.deep_geojson)
    if source is None:
        return Coverage.of(zooms, area.region(), deep=deep)
    if zooms[-1] > source.info.max_zoom:
        raise CoverageError(f"{source.info.name} ends at zoom {source.info.max_zoom}; zoom {zooms[-1]} does not exist")
    if zooms[-1] < source.info.min_zoom:
        raise CoverageError(
            f"{source.info.name} begins at zoom {source.info.min_zoom}; the deepest requested zoom is {zooms[-1]}"
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
    """How many tiles away a margin of `context` tile widths reaches: 0.5 reaches the next tile."""
    return math.ceil(context - 1e-9)


def _land_of(area: Area, source: TileSource | XyzSource | None) -> Land | None:
    if source is None and area.land:
        raise CoverageError("--land needs a source that knows where land is: give --source bluemarble")
    if isinstance(source, LandAware):
        fraction = DEFAULT_LAND if area.land is None else area.land
        return None if fraction == 0 else Land(source, fraction, source.info.identity)
    if source is not None and area.land:
        raise CoverageError(f"{source.info.name} does not know where land is: leave --land out")
    return None
