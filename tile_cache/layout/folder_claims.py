"""What a folder of tiles says about itself: `claims_of` reads the files that tools write beside the tiles.

`tilemapresource.xml` (gdal2tiles and other TMS writers), `metadata.json` (mb-util, MapTiler) and TileJSON files, MapML,
gdal2tiles' `openlayers.html` and `leaflet.html`, and the KML file beside a tile. Names are compared without case. Only
what the files say is read, never a tile.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tile_cache.addressing import Bounds, Tile
from tile_cache.errors import SourceError
from tile_cache.layout.decide import Claim, Claims, TileBox
from tile_cache.regular_files import read_regular

__all__ = ["add_description", "claims_of", "numbers", "read_descriptions"]

_MAX_BYTES = 16 << 20
_DESCRIPTIONS = ("metadata.json", "tilejson.json", "tile.json", "tiles.json")
"""JSON files that describe the tiles beside them, the one that wins for name and attribution first."""
_EARTH_M = 20037508.342789244
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_MAPML_GRID = re.compile(r"projection=(\w+)|<(?:map-)?(?:extent|input)\b[^>]*?\bunits=\"(\w+TILE|WGS84)\"")
_VIEWER_PROJECTION = re.compile(r"(?<![A-Za-z])projection:\s*'(EPSG:\d+)'")
_VIEWER_URL = re.compile(r"url:\s*'[^']*\{z\}/\{x\}/(\{-y\}|\{y\})\.")
_VIEWER_TMS = re.compile(r"\btms:\s*(true|false|1|0)\b")


def claims_of(root: Path, descriptions: Mapping[str, Mapping[str, Any]], column: Path) -> Claims:
    """What the folder says; `descriptions`: from `read_descriptions`; `column`: a folder ROOT/z/x with tiles.

    Raises SourceError for a file that cannot be read as what it is.
    """
    claims = Claims()
    for path in _named(root, "tilemapresource.xml"):
        _add_resource(claims, path)
    for name, described in descriptions.items():
        add_description(claims, f"{name}: {{}}", described)
    _add_mapml(claims, root)
    if not claims.projections:
        _add_viewers(claims, root)
    _add_kml(claims, column)
    return claims


def read_descriptions(root: Path) -> dict[str, dict[str, Any]]:
    """The JSON objects that describe a folder's tiles, by file name; empty if there is none.

    Raises SourceError for a file that is not JSON.
    """
    return {path.name: _read_json(path) for name in _DESCRIPTIONS for path in _named(root, name)}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        described = json.loads((_read(path) or b"{}").decode("utf-8-sig"))
    except (ValueError, RecursionError) as exc:
        raise SourceError(f"{path} is not readable JSON: repair or remove it") from exc
    return described if isinstance(described, dict) else {}


def _named(root: Path, name: str) -> list[Path]:
    """The entries of a folder with this name, in any case, sorted."""
    try:
        return sorted(path for path in root.iterdir() if path.name.lower() == name)
    except OSError:  # the reading of tiles says why
        return []


def numbers(value: Any) -> list[float]:
    """The numbers of bounds that are a list, or text with commas; empty for anything else."""
    if isinstance(value, str):
        value = _NUMBER.findall(value)
    try:
        return [float(v) for v in value] if isinstance(value, list) else []
    except (TypeError, ValueError, OverflowError):
        return []


def _add_resource(claims: Claims, path: Path) -> None:
    data = _read(path)
    if data is None:
        return
    try:
        plain = data.replace(b"\0", b"")  # UTF-16 writes the same with zero bytes between
        if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:  # entities can make a small file a large one
            raise ValueError("it has a document type")
        root = ElementTree.fromstring(data)
    except (ValueError, ElementTree.ParseError) as exc:
        raise SourceError(f"{path} is not readable XML ({exc}): repair or remove it") from exc
    for element in root.iter():  # some writers put all into a namespace
        element.tag = element.tag.rpartition("}")[2]
    claims.schemes.append(Claim(path.name, "tms"))
    claims.projections.append(Claim(f"{path.name}: SRS", root.findtext("SRS") or ""))
    sets = root.find("TileSets")
    claims.projections.append(Claim(f"{path.name}: profile", "" if sets is None else sets.get("profile", "")))
    box = root.find("BoundingBox")
    if box is not None:
        text = " ".join(box.get(side, "") for side in ("minx", "miny", "maxx", "maxy"))
        values = numbers(text)
        if len(values) == 4:
            west, south, east, north = values
            # GDAL before version 2 wrote latitudes as x; in Mercator, both may be in metres.
            readings = [_degrees(west, south, east, north), _degrees(south, west, north, east)]
            claims.add_bounds(f"{path.name}: BoundingBox", text, *readings)


def _degrees(west: float, south: float, east: float, north: float) -> tuple[float, float, float, float]:
    """Bounds in degrees, of degrees or of Mercator metres."""
    if max(abs(v) for v in (west, south, east, north)) <= 360:
        return west, south, east, north
    lats = (math.degrees(2 * math.atan(math.exp(min(max(v / _EARTH_M, -2), 2) * math.pi))) - 90 for v in (south, north))
    low, high = lats
    return west / _EARTH_M * 180, low, east / _EARTH_M * 180, high


def add_description(claims: Claims, where: str, described: Mapping[str, Any]) -> None:
    """Add what a JSON object says of rows, projection and bounds; `where`: a key in messages, by `format`."""
    for key, value in described.items():
        match key.lower():
            case "scheme" if value is not None:
                claims.schemes.append(Claim(where.format(key), str(value)))
            case "crs" | "srs" | "projection" | "profile" if isinstance(value, str | int):
                claims.projections.append(Claim(where.format(key), str(value)))
            case "bounds" if value is not None:
                claims.add_bounds(where.format(key), str(value), numbers(value))


def _add_viewers(claims: Claims, root: Path) -> None:
    """gdal2tiles' pages say how they read the tiles; with --xyz they are all that it writes beside them."""
    path = root / "openlayers.html"
    text = (_read(path) or b"").decode("utf-8", "replace")
    if "gdal2tiles" in text.lower():
        if match := _VIEWER_PROJECTION.search(text):
            claims.projections.append(Claim(path.name, match[1]))
        elif "new ol.tilegrid.TileGrid(" in text:
            claims.projections.append(Claim(path.name, "a grid of its own (profile raster)"))
        if match := _VIEWER_URL.search(text):
            claims.schemes.append(Claim(path.name, "tms" if match[1] == "{-y}" else "xyz"))
    path = root / "leaflet.html"
    text = (_read(path) or b"").decode("utf-8", "replace")
    if "gdal2tiles" in text.lower() and (match := _VIEWER_TMS.search(text)):
        claims.schemes.append(Claim(path.name, "tms" if match[1] in ("true", "1") else "xyz"))


def _add_mapml(claims: Claims, root: Path) -> None:
    """A MapML document names its grid, such as OSMTILE, which is Web Mercator's; its rows count from the north."""
    for path in sorted(root.glob("*.mapml")):
        text = _COMMENT.sub("", (_read(path) or b"").decode("utf-8", "replace"))
        if match := _MAPML_GRID.search(text):
            claims.projections.append(Claim(path.name, match[1] or match[2]))
            claims.schemes.append(Claim(path.name, "xyz"))


def _add_kml(claims: Claims, column: Path) -> None:
    """The edges of a tile, from the KML file beside it."""
    z, x = int(column.parent.name), int(column.name)
    for path in sorted(column.glob("*.kml"))[:1]:
        text = (_read(path) or b"").decode("utf-8", "replace")
        found = re.search(r"<LatLonBox>(.*?)</LatLonBox>", text, re.DOTALL)
        sides = dict(re.findall(r"<(west|south|east|north)>\s*([^<\s]+)\s*<", found[1])) if found else {}
        values = numbers([sides.get(side) for side in ("west", "south", "east", "north")])
        if len(values) == 4 and all(map(math.isfinite, values)) and path.stem.isdecimal() and int(path.stem) < 1 << z:
            claims.boxes.append(TileBox(path.name, Tile(x, int(path.stem), z), Bounds(*values)))


def _read(path: Path) -> bytes | None:
    try:
        data = read_regular(path, _MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise SourceError(f"{path} cannot be read ({exc.strerror}): repair or remove it") from exc
    if len(data) > _MAX_BYTES:
        raise SourceError(f"{path} is over {_MAX_BYTES:,} bytes: repair or remove it")
    return data
