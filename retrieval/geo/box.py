"""A bounding box in degrees: its checks and its spans of longitude. The same rules for queries and for coverages."""

import math

from retrieval.errors import RegionError
from tile_cache.addressing import MAX_LATITUDE

__all__ = ["CLIPPED", "check_box", "spans_of"]

CLIPPED = f"the Web-Mercator square ends at {MAX_LATITUDE:.4f} degrees; areas nearer to a pole have no tiles"
_LIMITS = (("west", 180), ("south", 90), ("east", 180), ("north", 90))


def check_box(west: float, south: float, east: float, north: float) -> None:
    """Raise RegionError, which names the wrong edge, unless four numbers are a box with tiles in it.

    West > east crosses the date line. A box needs an area: a line or a point covers no share of any tile.
    """
    for (name, limit), value in zip(_LIMITS, (west, south, east, north), strict=True):
        if not math.isfinite(value) or abs(value) > limit:
            raise RegionError(f"bbox {name} is {value:g}: give degrees from -{limit} to {limit}, in the order W S E N")
    text = f"bbox {west:g},{south:g},{east:g},{north:g}"
    if south > north:
        raise RegionError(f"{text}: south {south:g} is greater than north {north:g}: the order is W S E N")
    if south == north:
        raise RegionError(f"{text} has no height: give a north that is greater than south {south:g}")
    if not spans_of(west, east):
        raise RegionError(f"{text} has no width: give another east, or -180 and 180 for the whole circle")
    if south >= MAX_LATITUDE or north <= -MAX_LATITUDE:
        raise RegionError(f"{text} covers no tile: {CLIPPED}")


def spans_of(west: float, east: float) -> tuple[tuple[float, float], ...]:
    """The longitudes of a box as (west, east) with west < east: one span, or two where it crosses the date line.

    None for a box without width, also one from 180 to -180, which are the same meridian.
    """
    spans = ((west, east),) if west <= east else ((west, 180.0), (-180.0, east))
    return tuple((w, e) for w, e in spans if w < e)
