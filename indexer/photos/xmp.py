"""The place in XMP, the XML that programs write into pictures and beside them (`exif:GPSLatitude="24,40.65N"`).

The XML may come from anyone: its bytes are bounded, a document type (and with it every entity) is refused, and nothing
outside it is read. Knows nothing of pictures.
"""

from typing import Any
from xml.parsers import expat

from indexer.photos.angles import degrees_of_xmp

__all__ = ["MAX_XMP", "place_in_xmp"]

MAX_XMP = 1 << 22
"""Bytes. A packet inside a JPEG has at most 65,502; a sidecar with a history of edits may have 300,000."""

_EXIF = "http://ns.adobe.com/exif/1.0/"
_NAMES = {f"{_EXIF} GPSLatitude": "latitude", f"{_EXIF} GPSLongitude": "longitude"}
_LONGEST = 100


def place_in_xmp(data: bytes) -> tuple[float, float] | None:
    """(lng, lat) in degrees, of any size; None if the XMP names no place.

    Raises ValueError, which says what is wrong, for XMP that cannot be read and for half a place.
    """
    if len(data) > MAX_XMP:
        raise ValueError(f"its XMP has {len(data):,} bytes, at most {MAX_XMP:,} are read")
    texts = _texts(data)
    if not texts:
        return None
    if missing := {"latitude", "longitude"} - texts.keys():
        raise ValueError(f"its XMP has no {missing.pop()}")
    return degrees_of_xmp(texts["longitude"], "longitude"), degrees_of_xmp(texts["latitude"], "latitude")


def _texts(data: bytes) -> dict[str, str]:
    """The texts of the two properties, which are attributes or elements; the first of each."""
    texts: dict[str, str] = {}
    open_property: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        for attribute, value in attributes.items():
            if attribute in _NAMES:
                texts.setdefault(_NAMES[attribute], value[:_LONGEST])
        open_property[:] = [_NAMES[name]] if name in _NAMES and _NAMES[name] not in texts else []

    def text(content: str) -> None:
        if open_property:
            name = open_property[0]
            texts[name] = (texts.get(name, "") + content)[:_LONGEST]

    def end(name: str) -> None:
        open_property.clear()

    parser: Any = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(data.strip(b"\0 \t\r\n"), True)
    except expat.ExpatError as exc:
        if len(texts) < len(_NAMES):  # junk behind the packet does no harm
            raise ValueError(f"its XMP is no XML ({exc})") from exc
    return {name: value for name, value in texts.items() if value.strip()}


def _refuse_doctype(*_: object) -> None:
    raise ValueError("its XMP has a document type, which XMP never has")
