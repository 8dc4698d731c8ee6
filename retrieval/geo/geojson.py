"""GeoJSON text to the rings of its polygons, in degrees: one reader for files, requests and Python objects.

What cannot be read rightly is refused by name: another coordinate system, positions that are not on Earth, input beyond
`Limits`. What is left out or read in one of two possible ways is stated in `Notes`. Knows nothing of areas and tiles;
`retrieval.geo.polygons` makes polygons of the rings.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import RegionError
from tile_cache.regular_files import read_regular

__all__ = ["Limits", "Notes", "Rings", "document_of", "file_document", "rings_of", "short"]

_OTHER_FORMATS = (
    (b"\x1e", "a GeoJSON text sequence"),
    (b"<", "XML, such as KML or GML"),
    (b"POLYGON", "WKT"),
    (b"MULTIPOLYGON", "WKT"),
    (b"SRID=", "WKT"),
    (b"\x1f\x8b", "gzip data"),
    (b"PK\x03\x04", "a zip file, such as KMZ or a zipped shapefile"),
    (b"SQLITE FORMAT 3\0", "a SQLite file, such as GeoPackage"),
    (b"\0\0\x27\x0a", "a shapefile"),
    (b"FGB", "FlatGeobuf"),
)
_BOM = b"\xef\xbb\xbf"
_MAX_LONGITUDE = 360.0
_SHOWN_NOTES = 4

Rings = list[NDArray[np.float64]]
"""A polygon: its outer ring, then its holes, each (n, 2) float64 of (lng, lat) in degrees."""

_DEGREES = re.compile(
    r"(URN:(X-)?OGC:DEF:CRS:)?(OGC:[\d.]*:?(CRS:?)?84|EPSG:[\d.:]*4326)"
    r"|HTTPS?://WWW\.OPENGIS\.NET/DEF/CRS/(OGC/[\d.]+/CRS84|EPSG/[\d.]+/4326)"
    r"|(OGC:|CRS:)?CRS ?:?84|WGS[ _]?84|4326"
)
"""Names of longitude and latitude on WGS 84, in upper case: the only coordinates that GeoJSON may have."""


@dataclass(frozen=True)
class Limits:
    """How much GeoJSON is read.

    `bytes` of text; polygons; positions of all rings; `crossings` of edges in what is repaired or merged, because their
    number can grow with the square of the positions; `depth` of nested objects.
    """

    bytes: int
    polygons: int
    positions: int
    crossings: int
    depth: int = 16


class Notes:
    """Sentences about what was read in one of two ways, and counts of what was left out."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._sentences: dict[str, None] = {}
        self._left_out: Counter[str] = Counter()

    def add(self, sentence: str) -> None:
        """Add a sentence about the input."""
        self._sentences[f"{self._name}: {sentence}"] = None

    def leave_out(self, what: str) -> None:
        """Count a member that is left out; `what` is plural."""
        self._left_out[what] += 1

    def sentences(self) -> tuple[str, ...]:
        """A few sentences, however much there is to say."""
        shown = list(self._sentences)[:_SHOWN_NOTES]
        if len(self._sentences) > len(shown):
            shown.append(f"{self._name}: {len(self._sentences) - len(shown)} more notes of this kind")
        if self._left_out:
            counts = ", ".join(f"{count} {what}" for what, count in self._left_out.items())
            shown.append(f"{self._name}: left out, as they have no area: {counts}")
        return tuple(shown)


def file_document(path: Path, limits: Limits) -> Any:
    """The JSON value of a GeoJSON file. Raises RegionError that names the file."""
    try:
        data = read_regular(path, limits.bytes)
    except (OSError, ValueError) as exc:
        raise RegionError(f"{path}: {getattr(exc, 'strerror', None) or exc}; give a GeoJSON file") from exc
    return document_of(data, str(path), limits)


def document_of(text: str | bytes, name: str, limits: Limits) -> Any:
    """The JSON value of a text, with or without a byte order mark. Raises RegionError with `name`."""
    if len(text) > limits.bytes:
        raise RegionError(f"{name} is longer than {limits.bytes} bytes, which is the limit: simplify it")
    try:
        data = text.encode() if isinstance(text, str) else text
        return json.loads(data.removeprefix(_BOM))
    except (ValueError, RecursionError) as exc:
        if format_name := _other_format(data):
            raise RegionError(
                f"{name} is not JSON but {format_name}: convert it to GeoJSON, for example with ogr2ogr -f GeoJSON"
            ) from exc
        raise RegionError(f"{name} is not JSON ({exc}): give GeoJSON with polygons") from exc


def _other_format(data: bytes) -> str:
    """The format of a file of polygons that is not JSON, by its beginning; empty if it is none of the usual ones."""
    start = data[:256].removeprefix(_BOM).lstrip().upper()
    for signature, words in _OTHER_FORMATS:
        if start.startswith(signature):
            return words
    try:
        first = json.loads(data[: data.index(b"\n")].removeprefix(_BOM))
    except (ValueError, RecursionError):
        return ""
    return "newline-delimited GeoJSON" if isinstance(first, dict) else ""


def rings_of(document: Any, name: str, limits: Limits, notes: Notes) -> Iterator[Rings]:
    """The rings of every polygon in a GeoJSON object, checked; they may still cross themselves or have no area.

    Raises RegionError with `name`.
    """
    positions = 0
    for number, rings in enumerate(_polygons(document, name, limits.depth, notes), start=1):
        if number > limits.polygons:
            raise RegionError(f"{name} has more than {limits.polygons} polygons: simplify it")
        positions += _positions(rings)
        if positions > limits.positions:
            raise RegionError(f"{name} has more than {limits.positions} positions: simplify it")
        yield [_ring(ring, name, notes) for ring in rings]


def short(value: Any, limit: int = 60) -> str:
    """A JSON value as text, cut off after `limit` characters."""
    text = ""
    for piece in json.JSONEncoder(default=str).iterencode(value):  # in pieces, because the value may be large and deep
        text += piece
        if len(text) > limit:
            return text[:limit] + "..."
    return text


def _polygons(node: Any, name: str, depth: int, notes: Notes) -> Iterator[list[Any]]:
    """The rings, still unchecked, of every polygon under a GeoJSON object that has some."""
    if not isinstance(node, dict) or not isinstance(node.get("type"), str):
        raise RegionError(f"{name} is JSON but not GeoJSON: an object with a 'type' is needed, not {short(node)}")
    if depth <= 0:
        raise RegionError(f"{name} is nested too deeply to be GeoJSON")
    _check_crs(node.get("crs"), name)
    kind = node["type"]
    if kind in ("FeatureCollection", "GeometryCollection"):
        for child in _listed(node, "features" if kind == "FeatureCollection" else "geometries", name):
            yield from _polygons(child, name, depth - 1, notes)
    elif kind == "Feature":
        if node.get("geometry") is None:
            notes.leave_out("features without a geometry")
        else:
            yield from _polygons(node["geometry"], name, depth - 1, notes)
    elif kind in ("Polygon", "MultiPolygon"):
        coordinates = _listed(node, "coordinates", name)
        yield from _with_rings([coordinates] if kind == "Polygon" else coordinates, name, notes)
    elif kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
        notes.leave_out("points and lines")
    else:
        raise RegionError(f"{name}: {short(kind)} is not a GeoJSON type")


def _with_rings(polygons: Sequence[Any], name: str, notes: Notes) -> Iterator[list[Any]]:
    """The polygons without those that have no ring, and without rings that have no position: tools write both."""
    if not polygons:
        notes.leave_out("polygons without coordinates")
    for polygon in polygons:
        if not isinstance(polygon, list | tuple):
            raise RegionError(f"{name}: a polygon must be a list of rings, not {short(polygon)}")
        if not polygon or polygon[0] in ([], ()):
            notes.leave_out("polygons without coordinates")
            continue
        rings = [ring for ring in polygon if ring not in ([], ())]
        for _ in range(len(polygon) - len(rings)):
            notes.leave_out("holes without coordinates")
        yield rings


def _check_crs(crs: Any, name: str) -> None:
    """Refuse every coordinate system but longitude and latitude on WGS 84, even if the numbers would pass for it."""
    if crs is None:
        return
    named: Any = crs
    if isinstance(crs, dict):
        properties = crs.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        named = next((properties[key] for key in ("name", "href", "code") if properties.get(key) is not None), crs)
    if not isinstance(named, str | int) or not _DEGREES.fullmatch(str(named).strip().upper()):
        raise RegionError(
            f"{name} is in the coordinate system {short(named, 120)}: GeoJSON is read in degrees of WGS 84 "
            "(EPSG:4326, CRS84) only; convert it, for example with ogr2ogr -t_srs EPSG:4326"
        )


def _positions(rings: list[Any]) -> int:
    return sum(len(ring) for ring in rings if isinstance(ring, list | tuple))


def _listed(node: dict[str, Any], key: str, name: str) -> list[Any]:
    value = node.get(key)
    if not isinstance(value, list | tuple):
        raise RegionError(f"{name}: a {node['type']} needs a list of {key}, not {short(value)}")
    return list(value)


def _ring(ring: Any, name: str, notes: Notes) -> NDArray[np.float64]:
    """A ring's (lng, lat), (n, 2) float64, altitudes dropped."""
    try:
        xy = np.array([_position(p) for p in ring], dtype=np.float64).reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as exc:
        raise RegionError(f"{name}: a ring must be a list of [lng, lat] pairs, not {short(ring)}") from exc
    if len(xy) < 4:
        raise RegionError(f"{name}: a ring needs 4 positions or more, the last equal to the first; got {len(xy)}")
    outside = ~((np.abs(xy[:, 0]) <= _MAX_LONGITUDE) & (np.abs(xy[:, 1]) <= 90))  # also true of NaN
    if outside.any():
        lng, lat = xy[np.flatnonzero(outside)[0]]
        raise RegionError(f"{name}: [{lng:g}, {lat:g}] is not on Earth; GeoJSON positions are [lng, lat] in degrees")
    if np.ptp(xy[:, 0]) > 360:
        raise RegionError(f"{name}: a ring spans {np.ptp(xy[:, 0]):g} degrees of longitude, more than the Earth has")
    _note_long_edges(xy[:, 0], notes)
    return xy


def _position(value: Any) -> tuple[float, float]:
    if not isinstance(value, list | tuple) or len(value) < 2 or not all(type(v) in (int, float) for v in value[:2]):
        raise ValueError(f"{short(value)} is not a position")
    return float(value[0]), float(value[1])


def _note_long_edges(lng: NDArray[np.float64], notes: Notes) -> None:
    """Note an edge such as 170 to -170: it may be meant to cross the date line, but by RFC 7946 it does not."""
    jump = np.flatnonzero((np.abs(np.diff(lng)) > 180) & (np.abs(np.diff(lng)) < 360))
    if jump.size:
        a, b = lng[jump[0]], lng[jump[0] + 1]
        notes.add(
            f"the edge from longitude {a:g} to {b:g} was read as the long way round (RFC 7946); "
            f"to cross the date line write {b + np.copysign(360, a):g} instead of {b:g}"
        )
