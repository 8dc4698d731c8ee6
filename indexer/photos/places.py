"""Is this a place on the map? Words and numbers to degrees, or to what is wrong with them."""

import math

from indexer.photos.photo_set import Fault, Reason
from tile_cache.addressing import MAX_LATITUDE

__all__ = ["Place", "check_place", "parse_place"]

Place = tuple[float, float]
"""(lng, lat) in degrees; (nan, nan) where none is known."""

NOWHERE: Place = (math.nan, math.nan)

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "nil", "-", "?"})


def parse_place(longitude: str, latitude: str, *, need_place: bool, decimal_comma: bool = False) -> Place | Fault:
    """Two cells of a table as a place. Where both are empty and no place is needed, it is NOWHERE."""
    lng, lat = longitude.strip(), latitude.strip()
    missing = [name for name, text in (("latitude", lat), ("longitude", lng)) if text.lower() in _MISSING]
    if missing:
        if len(missing) == 2 and not need_place:
            return NOWHERE
        return Fault(Reason.COORDINATES_MISSING, f"no {' and no '.join(missing)}")
    if decimal_comma:
        lng, lat = lng.replace(",", "."), lat.replace(",", ".")
    try:
        return check_place(_number(lng), _number(lat))
    except ValueError:
        return Fault(Reason.NOT_A_NUMBER, f"latitude {lat!r}, longitude {lng!r}: decimal degrees are expected")


def check_place(lng: float, lat: float) -> Place | Fault:
    """The place itself, or why no photo can have been taken there (or be found on a Web-Mercator map)."""
    here = f"latitude {lat:.7g}, longitude {lng:.7g}"
    if not -90 <= lat <= 90 or not -180 <= lng <= 180:
        if 90 < abs(lat) <= 180 and abs(lng) <= 90:
            return Fault(Reason.SWAPPED, f"{here}: as though the two had been swapped")
        return Fault(Reason.OUT_OF_RANGE, f"{here}: latitudes end at 90 degrees, longitudes at 180")
    if abs(lat) > MAX_LATITUDE:
        return Fault(Reason.BEYOND_MERCATOR, f"{here}: Web-Mercator maps end at latitude {MAX_LATITUDE:.4f}")
    if lng == 0 and lat == 0:
        return Fault(Reason.NULL_ISLAND, "latitude 0, longitude 0: what devices and tables write for no place")
    return lng, lat


def _number(text: str) -> float:
    value = float(text)
    if "_" in text or not math.isfinite(value):  # float() takes 1_000 and inf
        raise ValueError(text)
    return value
