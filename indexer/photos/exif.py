"""The place where a picture says that it was taken: in an XMP file beside it, in its EXIF, or in its XMP.

The first of these that holds a usable place counts: the sidecars `NAME.jpg.xmp` and `NAME.xmp`, into which programs
write corrections; a GPS block in EXIF (in a PNG also as ImageMagick's `Raw profile type`); embedded XMP. Pillow reads
them from the picture's header, so a file of any size
costs a few small reads. Only a PNG without EXIF ahead of its pixels is decoded, because a PNG may carry it behind them.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from indexer.photos.angles import Axis, degrees_of_parts, hemisphere_of
from indexer.photos.files import file_fault, os_fault, read_picture
from indexer.photos.photo_set import Fault, Place, Reason, check_place
from indexer.photos.xmp import MAX_XMP, place_in_xmp
from retrieval.files import open_regular, read_whole
from retrieval.pictures.limits import PhotoLimits
from retrieval.pictures.photo import open_photo

__all__ = ["place_of"]

_NO_GPS = Fault(Reason.NO_GPS, "no GPS in its EXIF or XMP, and none in a sidecar: give the places in a table")
_GPS = ExifTags.GPS
_EXIF_HEAD, _XMP_HEAD = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"


def place_of(path: str, limits: PhotoLimits) -> Place | Fault:
    """The place in a picture's sidecar, EXIF or XMP, or what is wrong; never raises, whatever lies at `path`."""
    fault = file_fault(path)
    if fault is not None:
        return fault
    faults: list[Fault] = []
    for place in _beside(path):
        if not isinstance(place, Fault):
            return place
        faults.append(place)
    beside = len(faults)
    try:
        with open_regular(Path(path)) as stream, open_photo(stream, limits) as image:
            for place in _embedded(image):
                if not isinstance(place, Fault):
                    return place
                faults.append(place)
    except OSError as exc:
        if exc.errno is not None:
            return os_fault(path, exc)
        faults.append(_broken("EXIF", "its parts contradict each other"))
    except Exception:  # Pillow's parsers raise almost anything on damaged bytes
        faults.append(_broken("EXIF", "its parts contradict each other"))
    if len(faults) > beside:
        picture = read_picture(path, limits)
        if isinstance(picture, Fault):
            return picture
    return faults[0] if faults else _NO_GPS


def _embedded(image: Image.Image) -> Iterator[Place | Fault]:
    """The places that a picture carries, best first, and faults where it carries something unusable."""
    yield from _of_exif(image.getexif())  # loads a PNG whose texts may follow its pixels
    for data in _profiles(image):
        if data.startswith(_EXIF_HEAD):
            exif = Image.Exif()
            exif.load(data)
            yield from _of_exif(exif)
        else:
            yield from _of_xmp(data.removeprefix(_XMP_HEAD))
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    if isinstance(xmp, tuple):  # a TIFF's tag of single bytes
        xmp = bytes(xmp)
    if xmp:
        yield from _of_xmp(xmp.encode() if isinstance(xmp, str) else xmp)


def _profiles(image: Image.Image) -> Iterator[bytes]:
    """The blocks that ImageMagick and older programs write into a PNG's texts as hexadecimal digits."""
    for kind in ("APP1", "xmp"):
        text = image.info.get(f"Raw profile type {kind}")
        if isinstance(text, str) and len(text) <= 2 * MAX_XMP:
            try:
                yield bytes.fromhex("".join(text.split("\n")[3:]))
            except ValueError:
                continue


def _beside(path: str) -> Iterator[Place | Fault]:
    """The places in sidecars."""
    stem = os.path.splitext(path)[0]
    for name in dict.fromkeys((f"{path}.xmp", f"{path}.XMP", f"{stem}.xmp", f"{stem}.XMP")):
        if os.path.lexists(name):
            try:
                yield from _of_xmp(read_whole(Path(name), MAX_XMP))
            except OSError as exc:
                yield _broken("sidecar", f"{os.path.basename(name)}: {exc.strerror}")


def _of_exif(exif: Image.Exif) -> Iterator[Place | Fault]:
    gps = exif.get_ifd(ExifTags.IFD.GPSInfo)
    if not {_GPS.GPSLatitude, _GPS.GPSLongitude} & gps.keys():
        return
    try:
        lat = _degrees(gps, _GPS.GPSLatitude, _GPS.GPSLatitudeRef, "latitude")
        lng = _degrees(gps, _GPS.GPSLongitude, _GPS.GPSLongitudeRef, "longitude")
    except ValueError as exc:
        yield _broken("EXIF", str(exc))
    else:
        yield check_place(lng, lat)


def _of_xmp(data: bytes) -> Iterator[Place | Fault]:
    try:
        place = place_in_xmp(data)
    except ValueError as exc:
        yield _broken("XMP", str(exc))
    else:
        if place is not None:
            yield check_place(*place)


def _broken(block: str, why: str) -> Fault:
    return Fault(Reason.BROKEN_GPS, f"the GPS in its {block} cannot be read: {why}")


def _degrees(gps: Mapping[int, Any], angle: int, hemisphere: int, axis: Axis) -> float:
    """Degrees, minutes and seconds with their hemisphere as signed degrees; raises ValueError, in words."""
    if angle not in gps:
        raise ValueError(f"it has no {axis}")
    if hemisphere not in gps:
        raise ValueError(f"its {axis} has no hemisphere")
    side = gps[hemisphere]
    parts = gps[angle] if isinstance(gps[angle], tuple) else (gps[angle],)
    if any(getattr(part, "denominator", 1) == 0 for part in parts):
        raise ValueError(f"a number of its {axis} is divided by 0")
    try:
        numbers = [float(part) for part in parts]
    except (ArithmeticError, TypeError, ValueError) as exc:
        raise ValueError(f"its {axis} is no number") from exc
    sign = hemisphere_of(side.decode("latin-1") if isinstance(side, bytes) else str(side), axis)
    return sign * degrees_of_parts(numbers)
