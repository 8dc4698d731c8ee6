"""The place where a camera says that a picture was taken: the GPS block of its EXIF.

Pillow reads it from the picture's header, so a file of any size costs a few small reads. Only a PNG without EXIF ahead
of its pixels is decoded, because a PNG may carry its EXIF behind them.
"""

import math
from collections.abc import Mapping
from typing import Any

from PIL import ExifTags

from indexer.photos.files import file_fault, read_picture
from indexer.photos.photo_set import Fault, Place, Reason, check_place
from retrieval.pictures.limits import PhotoLimits
from retrieval.pictures.photo import open_photo

__all__ = ["place_of"]

_NO_GPS = Fault(Reason.NO_GPS, "no GPS in its EXIF: give the places in a table")
_GPS = ExifTags.GPS


def place_of(path: str, limits: PhotoLimits) -> Place | Fault:
    """The place in a picture's EXIF, or what is wrong; never raises, whatever lies at `path`."""
    fault = file_fault(path)
    if fault is not None:
        return fault
    try:
        with open(path, "rb") as stream, open_photo(stream, limits) as image:
            gps = image.getexif().get_ifd(ExifTags.IFD.GPSInfo)
    except Exception as exc:  # Pillow's parsers raise almost anything on damaged bytes
        picture = read_picture(path, limits)
        return picture if isinstance(picture, Fault) else _broken(exc)
    if not {_GPS.GPSLatitude, _GPS.GPSLongitude} & gps.keys():
        return _NO_GPS
    try:
        lat = _degrees(gps, _GPS.GPSLatitude, _GPS.GPSLatitudeRef, "NS")
        lng = _degrees(gps, _GPS.GPSLongitude, _GPS.GPSLongitudeRef, "EW")
    except (ArithmeticError, KeyError, TypeError, ValueError) as exc:
        return _broken(exc)
    return check_place(lng, lat)


def _broken(exc: Exception) -> Fault:
    return Fault(Reason.BROKEN_GPS, f"its EXIF GPS cannot be read ({type(exc).__name__}: {exc})")


def _degrees(gps: Mapping[int, Any], angle: int, hemisphere: int, signs: str) -> float:
    """Degrees, minutes and seconds with their hemisphere as signed degrees; raises for anything else.

    `signs`: the two hemispheres, the positive one first.
    """
    side = str(gps[hemisphere]).strip("\0 ").upper()
    if len(side) != 1 or side not in signs:
        raise ValueError(f"hemisphere {side!r} is neither {signs[0]} nor {signs[1]}")
    parts = gps[angle] if isinstance(gps[angle], tuple) else (gps[angle],)
    degrees, minutes, seconds = (*map(float, parts), 0.0, 0.0)[:3]
    total = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(total) or minutes >= 60 or seconds > 60:
        raise ValueError(f"{degrees:g} degrees, {minutes:g} minutes, {seconds:g} seconds")
    return -total if side == signs[1] else total
