"""MBTiles files: `MBTilesSource` reads any of them; `TileStore` is Tilebeam's tile cache in the same format.

A store uses write-ahead logging: readers and several writing processes block each other for at most one transaction,
and a killed writer loses only its uncommitted transaction. Both classes are thread-safe. This module knows nothing of
where tiles come from; `mbtiles_format` knows the layout of the file.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from tile_cache import mbtiles_format as fmt
from tile_cache.addressing import MAX_ZOOM, Tile, check_tile, check_zoom, morton_decode
from tile_cache.database import Connection, Database, enter_wal_mode, lost_log
from tile_cache.errors import StoreError
from tile_cache.images import BadImageError, image_size, sniff
from tile_cache.layout.decide import check_grid, decide
from tile_cache.mbtiles_survey import as_bytes, survey
from tile_cache.source import SourceInfo

__all__ = ["MBTilesSource", "TileRecord", "TileStore", "Validators"]

Codes = NDArray[np.uint64]

_ROWS = 100_000
_METADATA_ROWS = 10_000
_IMAGES = ("PNG", "JPEG", "WebP")
NOT_MODIFIED = 304

QUERY_S = 20.0
"""Longest time of a query of a file that others made, in seconds; the slowest honest ones take a few."""


@dataclass(frozen=True, slots=True)
class Validators:
    """The ETag and Last-Modified headers of a stored response, verbatim, for conditional requests."""

    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True)
class TileRecord:
    """One response of a server, to be stored.

    `data` is None if there is no tile, or if the stored bytes are still valid (status 304). `fetched_at` and `expires`
    are unix seconds; `expires` is None if the server named no time.
    """

    tile: Tile
    data: bytes | None
    status: int = 200
    etag: str | None = None
    last_modified: str | None = None
    fetched_at: int = 0
    expires: int | None = None


class MBTilesSource:
    """An MBTiles file of any origin, read-only; `tiles` may be a table or a view.

    Rows count from the south, as the standard has it, unless the metadata say `scheme` xyz. Raises StoreError for other
    files and SourceError for tiles that are not in Web Mercator or do not fit what the metadata say.
    """

    def __init__(self, path: Path) -> None:
        fmt.check_header(path)
        self.path = path
        self._database = Database(path, read_only=True, deadline_s=QUERY_S)
        try:
            with self._database.connection() as c:
                rows = _metadata_rows(c)
            self._metadata = dict(rows)
            self._survey = survey(str(path), self._database.connection)
            for extent in self._survey.extents:
                check_grid(str(path), extent)
            claims = fmt.claims_of(rows)
            self._layout = decide(str(path), claims, lambda: self._survey.extents, south_first=True)
        except BaseException:
            self._database.close()
            raise

    @cached_property
    def info(self) -> SourceInfo:
        """The description by the metadata rows or, where they lack, the tiles. Its identity is `content_identity`."""
        # In a tile store these rows describe its whole source, but the file may hold only some of the tiles.
        described = {k: v for k, v in self._metadata.items() if not k.startswith("tilebeam:")}
        identity = fmt.content_identity(self.path) + ("" if self._layout.south_first else ":rows from the north")
        zooms = self._survey.extents[0].zoom, self._survey.extents[-1].zoom
        return fmt.info_of(described, self.path, identity, zooms, self._tile_size())

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know: rows from the north, tiles that are not images, a missing index."""
        notes = [self._survey.slow] if self._survey.slow else []
        if not self._layout.south_first:
            notes.append(f"{self.path}: rows are read from the north, as its metadata say (scheme xyz)")
        kinds = self._survey.kinds
        if others := [kind for kind in kinds if kind not in _IMAGES]:
            looked_at = ", ".join(f"{kinds[kind]} {kind}" for kind in [k for k in kinds if k in _IMAGES] + others)
            notes.append(f"{self.path} holds tiles that are not images: of those looked at, {looked_at}")
        return tuple(notes)

    def read(self, tile: Tile) -> bytes | None:
        """The tile's bytes, or None if the file does not have it."""
        return _read(self._database, tile, south_first=self._layout.south_first)

    def close(self) -> None:
        self._database.close()

    def _tile_size(self) -> int:
        if self._survey.image is None:
            looked_at = ", ".join(f"{n} {kind}" for kind, n in self._survey.kinds.most_common())
            raise StoreError(f"{self.path} holds no PNG, JPEG or WebP tiles: of those looked at, {looked_at}")
        try:
            return image_size(self._survey.image)[0]
        except BadImageError:
            return 256


class TileStore:
    """The tile cache. It is also a TileSource of the tiles that it holds."""

    def __init__(self, database: Database, info: SourceInfo) -> None:
        self._database = database
        self.path = database.path
        self.info = info

    @classmethod
    def open(cls, path: Path, info: SourceInfo | None = None, *, read_only: bool = False) -> "TileStore":
        """Open the cache at `path`; with `info`, create it if it does not exist.

        Raises StoreError for a file that is damaged, of another kind, missing (without `info`), or the cache of another
        source than `info`.
        """
        path = Path(path)
        if path.is_dir() or not path.parent.is_dir():
            raise StoreError(f"{path} cannot hold a tile store: give a file name in a folder that exists")
        # A killed process may have left an empty file, which SQLite reads as an empty database.
        if path.exists() and (read_only or path.stat().st_size):
            fmt.check_header(path)
        elif info is None or read_only:
            raise StoreError(f"{path} does not exist: make a tile store with `tilebeam fetch`")
        database = Database(path, read_only=read_only)
        try:
            if not read_only:
                _lay_out(database, info)
            stored = _stored_info(database, info)
            if info is not None and info != stored and not read_only:
                # The tiles are the same, but the description may have changed, for example a new attribution.
                with database.transaction() as c:
                    c.executemany("INSERT OR REPLACE INTO metadata VALUES (?, ?)", fmt.metadata_of(info).items())
            return cls(database, info or stored)
        except BaseException:
            database.close()
            raise

    @property
    def read_only(self) -> bool:
        """Whether the store was opened for reading only."""
        return self._database.read_only

    def __enter__(self) -> "TileStore":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def read(self, tile: Tile) -> bytes | None:
        """The tile's bytes; None if the source has no such tile or it was not fetched yet."""
        return _read(self._database, tile)

    def unknown(self, codes: Codes, z: int) -> Codes:
        """The codes, (n,) uint64 in the order of `codes`, of tiles that are neither stored nor known to be absent.

        Makes one query per 100,000 codes.
        """
        return self._selected(codes, z, _UNKNOWN)

    def absent(self, codes: Codes, z: int) -> Codes:
        """Those of `codes`, (n,) uint64 in their order, of tiles that are known to be absent."""
        return self._selected(codes, z, _ABSENT)

    def stale(self, codes: Codes, z: int, now: int, default_age: int) -> Codes:
        """Those of `codes`, (n,) uint64 in their order, that are known and past their time at unix second `now`.

        An answer that came without a time of its own lasts `default_age` seconds.
        """
        return self._selected(codes, z, _STALE, now=now, age=default_age)

    def validators(self, tile: Tile) -> Validators | None:
        """The validators of the stored response; None if no bytes are stored that could be renewed."""
        with self._database.connection() as c:
            row = c.execute(
                "SELECT etag, last_modified FROM fetched JOIN map"
                " ON zoom_level = z AND tile_column = x AND tile_row = (1 << z) - 1 - y"
                " WHERE z = ? AND x = ? AND y = ?",
                (tile.z, tile.x, tile.y),
            ).fetchone()
        return Validators(*row) if row else None

    def put(self, records: Sequence[TileRecord]) -> None:
        """Store responses in one transaction. A later response for a tile replaces the earlier one."""
        if not records:
            return
        with self._database.transaction() as c:
            for record in records:
                _put(c, record)
            images = [r for r in records if r.data is not None]
            image_format = sniff(images[0].data or b"") if images else None
            grown = fmt.grown_extent(_metadata(c), (r.tile for r in images), image_format)
            c.executemany("INSERT OR REPLACE INTO metadata VALUES (?, ?)", grown.items())

    def drop_orphans(self) -> int:
        """Delete images that no tile uses any more, as refreshing leaves them; return how many."""
        with self._database.transaction() as c:
            return c.execute("DELETE FROM images WHERE tile_id NOT IN (SELECT tile_id FROM map)").rowcount

    def counts(self) -> dict[int, int]:
        """The number of stored tiles by zoom."""
        with self._database.connection() as c:
            return dict(c.execute("SELECT zoom_level, count(*) FROM map GROUP BY zoom_level").fetchall())

    def close(self) -> None:
        self._database.close()

    def _selected(self, codes: Codes, z: int, query: str, **values: int) -> Codes:
        """The codes whose positions in the list `query` returns."""
        codes = np.asarray(codes, dtype=np.uint64)
        values |= {"z": check_zoom(z), "top": (1 << z) - 1}
        selected = [codes[:0]]
        for start in range(0, len(codes), _ROWS):
            batch = codes[start : start + _ROWS]
            x, y = morton_decode(batch)
            tiles = json.dumps((x.astype(np.int64) << 32 | y).tolist())
            with self._database.connection() as c:
                rows = c.execute(query, {**values, "tiles": tiles})
                selected.append(batch[np.fromiter((row[0] for row in rows), dtype=np.int64)])
        return np.concatenate(selected)


# The tiles go in as one JSON array of x << 32 | y, and positions in it come out. So the cost depends on the number of
# tiles in the query, not on the number in the file.
_TILES = "WITH wanted AS (SELECT key AS i, value >> 32 AS x, value & 4294967295 AS y FROM json_each(:tiles)) "
_UNKNOWN = (
    _TILES + "SELECT i FROM wanted"
    " WHERE NOT EXISTS (SELECT 1 FROM map WHERE zoom_level = :z AND tile_column = x AND tile_row = :top - y)"
    " AND NOT EXISTS (SELECT 1 FROM fetched AS f WHERE f.z = :z AND f.x = wanted.x AND f.y = wanted.y)"
)
_ABSENT = (
    _TILES + "SELECT i FROM wanted CROSS JOIN fetched AS f ON f.z = :z AND f.x = wanted.x AND f.y = wanted.y"
    " WHERE NOT EXISTS"
    " (SELECT 1 FROM map WHERE zoom_level = :z AND tile_column = wanted.x AND tile_row = :top - wanted.y)"
)
_STALE = (
    _TILES + "SELECT i FROM wanted CROSS JOIN fetched AS f ON f.z = :z AND f.x = wanted.x AND f.y = wanted.y"
    " WHERE coalesce(f.expires, f.fetched_at + :age) <= :now"
)


def _read(database: Database, tile: Tile, *, south_first: bool = True) -> bytes | None:
    check_tile(tile)
    with database.connection() as c:
        row = c.execute(
            "SELECT tile_data FROM tiles WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?"
            " AND length(tile_data) > 0",  # some exporters write an empty row before the tile's
            (tile.z, tile.x, fmt.flip(tile.y, tile.z) if south_first else tile.y),
        ).fetchone()
    return as_bytes(row[0]) or None if row else None


def _put(c: Connection, record: TileRecord) -> None:
    tile = check_tile(record.tile)
    address = (tile.z, tile.x, tile.y)
    if record.status == NOT_MODIFIED:
        c.execute(
            "UPDATE fetched SET fetched_at = ?, expires = ?, etag = coalesce(?, etag),"
            " last_modified = coalesce(?, last_modified) WHERE z = ? AND x = ? AND y = ?",
            (record.fetched_at, record.expires, record.etag, record.last_modified, *address),
        )
        return
    row = (tile.z, tile.x, fmt.flip(tile.y, tile.z))
    if record.data is None:
        c.execute("DELETE FROM map WHERE zoom_level = ? AND tile_column = ? AND tile_row = ?", row)
    else:
        c.execute("INSERT OR REPLACE INTO map VALUES (?, ?, ?, ?)", (*row, _image_id(c, record.data)))
    c.execute(
        "INSERT OR REPLACE INTO fetched VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*address, record.status, record.etag, record.last_modified, record.fetched_at, record.expires),
    )


def _image_id(c: Connection, data: bytes) -> str:
    """The id of a row with exactly these bytes, which is inserted if there is none.

    The id is the SHA-256 in hex. If other bytes have that id (a damaged row, or a collision), suffixes are tried, so
    that a tile never shows another tile's image.
    """
    digest = hashlib.sha256(data).hexdigest()
    for n in itertools.count():
        tile_id = f"{digest}.{n}" if n else digest
        row = c.execute("SELECT tile_data FROM images WHERE tile_id = ?", (tile_id,)).fetchone()
        if row is None:
            c.execute("INSERT INTO images VALUES (?, ?)", (tile_id, data))
        if row is None or row[0] == data:
            return tile_id
    raise AssertionError("unreachable: count() has no end")


def _metadata(c: Connection) -> dict[str, str]:
    return dict(_metadata_rows(c))


def _metadata_rows(c: Connection) -> list[tuple[str, str]]:
    """The metadata, where others may have given a name twice."""
    rows = c.execute(f"SELECT name, value FROM metadata LIMIT {_METADATA_ROWS}")
    return [(str(name), str(value)) for name, value in rows if value is not None]


def _lay_out(database: Database, info: SourceInfo | None) -> None:
    """Create the tables of a new store. Leave an existing store unchanged, and refuse any other file."""
    with database.connection() as c:
        tables = {row[0] for row in c.execute("SELECT name FROM sqlite_master")}
        if {"map", "images", "fetched", "metadata"} <= tables:
            return
        if tables or info is None:
            raise StoreError(
                f"{database.path} is not a tile store of Tilebeam (no tables map, images and fetched):"
                " choose another file name for the cache; an MBTiles file can be used as a source"
                f"{lost_log(database.path)}"
            )
        enter_wal_mode(c)
    with database.transaction() as c:
        for statement in fmt.SCHEMA.split(";\n"):
            c.execute(statement)
        c.execute(f"PRAGMA application_id = {fmt.APPLICATION_ID}")
        c.execute(f"PRAGMA user_version = {fmt.SCHEMA_VERSION}")
        c.executemany("INSERT OR IGNORE INTO metadata VALUES (?, ?)", fmt.metadata_of(info).items())


def _stored_info(database: Database, wanted: SourceInfo | None) -> SourceInfo:
    """The description that the store was created with. Raises StoreError if it is the cache of another source."""
    with database.connection() as c:
        version = c.execute("PRAGMA user_version").fetchone()[0]
        metadata = _metadata(c)
        c.execute("SELECT 1 FROM map, images, fetched LIMIT 0")
    if version != fmt.SCHEMA_VERSION or "tilebeam:identity" not in metadata:
        raise StoreError(
            f"{database.path} is a tile store of another version of Tilebeam (version {version},"
            f" {fmt.SCHEMA_VERSION} expected): choose another file name for the cache"
        )
    stored = fmt.info_of(metadata, database.path, "", (0, MAX_ZOOM), 256)
    if wanted is not None and stored.identity != wanted.identity:
        raise StoreError(
            f"{database.path} is the cache of {stored.name!r}, not of {wanted.name!r}: give each source its own file"
        )
    return stored
