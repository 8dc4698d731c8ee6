"""The MBTiles 1.3 file format without the database engine: schema, metadata rows, header checks.

The table `metadata` uses the standard's names, and names with the prefix `tilebeam:` for Tilebeam's own values. Rows
count from the south in the file and from the north everywhere else (`flip`). Knows nothing of connections and
transactions; `mbtiles` does.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tile_cache.addressing import MAX_LATITUDE, MAX_ZOOM, Bounds, Tile, bounds
from tile_cache.errors import StoreError
from tile_cache.layout.decide import Claims
from tile_cache.layout.folder_claims import add_description
from tile_cache.regular_files import IrregularFileError, open_regular, read_regular
from tile_cache.source import SourceInfo

__all__ = [
    "APPLICATION_ID",
    "SCHEMA",
    "SCHEMA_VERSION",
    "check_header",
    "claims_of",
    "content_identity",
    "flip",
    "grown_extent",
    "info_of",
    "metadata_of",
]

APPLICATION_ID = 0x4D504258
"""`MPBX`: the mark by which SQLite's magic list and GDAL recognise MBTiles."""

SCHEMA_VERSION = 1

# `map` and `images` store equal tiles once; `tiles` is the view that the standard defines and GDAL reads. `fetched` is
# Tilebeam's own: x and y as in URLs, times in unix seconds, `expires` null if the server named no time.
SCHEMA = """
CREATE TABLE IF NOT EXISTS metadata (name TEXT NOT NULL PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS images (tile_id TEXT NOT NULL PRIMARY KEY, tile_data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS map (
    zoom_level INTEGER NOT NULL, tile_column INTEGER NOT NULL, tile_row INTEGER NOT NULL,
    tile_id TEXT NOT NULL REFERENCES images (tile_id),
    PRIMARY KEY (zoom_level, tile_column, tile_row)) WITHOUT ROWID;
CREATE VIEW IF NOT EXISTS tiles AS
    SELECT map.zoom_level AS zoom_level, map.tile_column AS tile_column, map.tile_row AS tile_row,
           images.tile_data AS tile_data
    FROM map JOIN images ON images.tile_id = map.tile_id;
CREATE TABLE IF NOT EXISTS fetched (
    z INTEGER NOT NULL, x INTEGER NOT NULL, y INTEGER NOT NULL, status INTEGER NOT NULL,
    etag TEXT, last_modified TEXT, fetched_at INTEGER NOT NULL, expires INTEGER,
    PRIMARY KEY (z, x, y)) WITHOUT ROWID;
"""

_MAGIC = b"SQLite format 3\0"
_WHOLE_BELOW = 64 << 20
_BLOCK = 64 << 10
_BLOCKS = 256


def flip(y: int, z: int) -> int:
    """Convert a row counted from the north to one counted from the south (TMS), or back."""
    return (1 << z) - 1 - y


def check_header(path: Path) -> None:
    """Raise StoreError unless a regular file begins like a SQLite database and is as long as its header says."""
    try:
        head = read_regular(path, 99)
        size = path.stat().st_size
        for beside in (_log_of(path), path.with_name(path.name + "-shm"), path.with_name(path.name + "-journal")):
            with suppress(FileNotFoundError):  # a process that wrote may have removed it a moment ago
                open_regular(beside).close()  # SQLite opens these too, and would wait for a FIFO
    except IrregularFileError as exc:
        raise StoreError(f"{exc.filename} is not a regular file: give an .mbtiles file") from exc
    except OSError as exc:
        raise StoreError(f"{path} cannot be read ({exc.strerror}): check its permissions") from exc
    if not head.startswith(_MAGIC):
        contents = "it is empty" if not head else f"it begins with {head[:16]!r}"
        raise StoreError(f"{path} is not an MBTiles file (a SQLite database): {contents}")
    page = int.from_bytes(head[16:18], "big")
    pages = int.from_bytes(head[28:32], "big") if head[24:28] == head[92:96] else 0
    expected = pages * (65536 if page == 1 else page)
    # With a write-ahead log beside it, the file may be shorter than its header says; SQLite completes it.
    if size < expected and not _log_of(path).exists():
        raise StoreError(f"{path} is truncated: {size} of {expected} bytes; copy or fetch it again")


def content_identity(path: Path) -> str:
    """A hash of the file's contents; a copy elsewhere has the same.

    Files under 64 MiB are hashed whole. Of larger ones the size and 256 evenly spaced blocks of 64 KiB are hashed, the
    header among them, so that opening a terabyte takes milliseconds. An edit that keeps the size may go unnoticed.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            if size < _WHOLE_BELOW:
                digest.update(file.read())
            else:
                digest.update(size.to_bytes(8, "big"))
                for i in range(_BLOCKS):
                    file.seek(i * (size - _BLOCK) // (_BLOCKS - 1))
                    digest.update(file.read(_BLOCK))
        with suppress(FileNotFoundError), _log_of(path).open("rb") as log:
            while block := log.read(_WHOLE_BELOW):
                digest.update(block)
    except OSError as exc:
        raise StoreError(f"{path} cannot be read ({exc.strerror}): check its permissions") from exc
    return f"mbtiles:{digest.hexdigest()}"


def metadata_of(info: SourceInfo) -> dict[str, str]:
    """The metadata rows of a new cache; zooms, bounds and format are added with its first tiles."""
    return {
        "name": info.name,
        "type": "baselayer",
        "version": "1",
        "description": f"Tiles of {info.name}, kept by Tilebeam",
        "attribution": info.attribution,
        "tilebeam:identity": info.identity,
        "tilebeam:min_zoom": str(info.min_zoom),
        "tilebeam:max_zoom": str(info.max_zoom),
        "tilebeam:tile_size": str(info.tile_size),
    }


def info_of(metadata: Mapping[str, str], path: Path, identity: str, zooms: tuple[int, int], size: int) -> SourceInfo:
    """The description by the metadata; `zooms` and tile `size` are used where the metadata says nothing."""
    return SourceInfo(
        name=metadata.get("name") or path.stem,
        identity=metadata.get("tilebeam:identity", identity),
        attribution=metadata.get("attribution", ""),
        min_zoom=_zoom(metadata, "tilebeam:min_zoom", zooms[0]),
        max_zoom=_zoom(metadata, "tilebeam:max_zoom", zooms[1]),
        tile_size=_number(metadata, "tilebeam:tile_size", size),
    )


def claims_of(rows: Iterable[tuple[str, str]]) -> Claims:
    """What the metadata rows say about rows, projection and bounds, as do the TileJSON keys that some put into `json`.

    A name may stand there twice; then all its values are claims.
    """
    claims = Claims()
    for name, value in rows:
        if not value:
            continue
        add_description(claims, "metadata {!r}", {name: value})
        if name.lower() == "json":
            add_description(claims, "metadata 'json': {}", _json_object(value))
    return claims


def _json_object(text: str) -> dict[str, Any]:
    """The object in a text; empty for anything else, as `json` may hold whatever a program put there."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def grown_extent(metadata: Mapping[str, str], tiles: Iterable[Tile], image_format: str | None) -> dict[str, str]:
    """The metadata rows that change when `tiles` are added: `minzoom`, `maxzoom`, `bounds` and `format`."""
    tiles = list(tiles)
    if not tiles:
        return {}
    zooms = [t.z for t in tiles]
    boxes = [bounds(t) for t in tiles]
    if (stored := _bounds(metadata)) is not None:
        zooms += [_number(metadata, "minzoom", zooms[0]), _number(metadata, "maxzoom", zooms[0])]
        boxes.append(stored)
    west, south = min(b.west for b in boxes), max(min(b.south for b in boxes), -MAX_LATITUDE)
    east, north = max(b.east for b in boxes), min(max(b.north for b in boxes), MAX_LATITUDE)
    grown = {
        "minzoom": str(min(zooms)),
        "maxzoom": str(max(zooms)),
        "bounds": f"{west:.6f},{south:.6f},{east:.6f},{north:.6f}",
        "format": metadata.get("format") or image_format or "png",
    }
    return {name: value for name, value in grown.items() if metadata.get(name) != value}


def _bounds(metadata: Mapping[str, str]) -> Bounds | None:
    try:
        west, south, east, north = (float(v) for v in metadata["bounds"].split(","))
    except (KeyError, ValueError):
        return None
    return Bounds(west, south, east, north)


def _number(metadata: Mapping[str, str], name: str, default: int) -> int:
    value = metadata.get(name) or ""
    return int(value) if value.isascii() and value.isdigit() and len(value) < 6 else default


def _zoom(metadata: Mapping[str, str], name: str, default: int) -> int:
    return min(_number(metadata, name, default), MAX_ZOOM)


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")
