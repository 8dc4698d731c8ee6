"""What an MBTiles file of any origin holds, before tiles are read: zooms, columns and rows, kinds of data, an index.

Nothing about the file is trusted: `tiles` may be a view that computes anything, and any column may hold any type. Each
query is bounded by the caller's `Database`. Knows nothing of sources.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from tile_cache.addressing import MAX_ZOOM
from tile_cache.database import Connection
from tile_cache.errors import StoreError
from tile_cache.images import kind_in_words, sniff
from tile_cache.layout.decide import Extent

__all__ = ["Survey", "as_bytes", "survey"]

Lend = Callable[[], AbstractContextManager[Connection]]

MANY_TILES = 10_000
"""Tiles from which reading a file without an index is slow enough to say so."""

_COLUMNS = 32  # columns of a zoom whose rows are compared with the bounds
_COMPARED = 200_000  # tiles up to which the whole file is searched for two of one place: half a second
_LOOKED_AT = 64  # tiles whose kind is looked at, and as many from the end of the deepest zoom


class Survey(NamedTuple):
    """What a file holds. `image`: one of its images; `kinds`: kinds of the tiles that were looked at, in words.

    `slow`: what to say of a file with many tiles and no index, so that each tile is sought in the whole file; or empty.
    """

    extents: tuple[Extent, ...]
    image: bytes | None
    kinds: Counter[str]
    slow: str


def survey(name: str, lend: Lend) -> Survey:
    """Look over a file's tiles; `lend` lends a connection for one query. Raises StoreError."""
    unindexed = _unindexed(lend)
    _check_zooms(name, lend)
    _check_twice(name, lend)
    extents = _scanned(name, lend) if unindexed else _sought(name, lend)
    if not extents:
        raise StoreError(f"{name} holds no tile: give another file")
    image, kinds = _sample(lend, extents, indexed=unindexed is None)
    slow = ""
    if unindexed and len(_rows(lend, f"SELECT 1 FROM tiles LIMIT {MANY_TILES + 1}")) > MANY_TILES:
        line = _index_line(lend, unindexed)
        way_out = f'run once: sqlite3 {name} "{line}"' if line else "copy its tiles into a plain table with an index"
        slow = f"{name} has over {MANY_TILES:,} tiles and no index, so each tile is sought in the whole file; {way_out}"
    return Survey(extents, image, kinds, slow)


def _rows(lend: Lend, query: str, *values: object) -> list[tuple[Any, ...]]:
    with lend() as connection:
        return connection.execute(query, values).fetchall()


def _unindexed(lend: Lend) -> str | None:
    """The table that SQLite reads from end to end to find a tile; None if indexes lead there."""
    query = "EXPLAIN QUERY PLAN SELECT tile_data FROM tiles WHERE zoom_level = 1 AND tile_column = 1 AND tile_row = 1"
    steps = [str(row[-1]).replace(" TABLE ", " ") for row in _rows(lend, query)]
    for step in steps:
        words = step.split()
        if words[:1] == ["SCAN"] or "AUTOMATIC" in words:
            return words[1]
    return None if any(step.startswith("SEARCH") and step.count("=?") > 1 for step in steps) else "tiles"


def _index_line(lend: Lend, table: str) -> str:
    """The SQL that gives a table the index that it lacks; empty for what is not a plain table of tiles."""
    columns = {row[0] for row in _rows(lend, "SELECT name FROM pragma_table_info(?)", table)}
    if not _rows(lend, "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", table):
        return ""
    for wanted in (("zoom_level", "tile_column", "tile_row"), ("tile_id",)):
        if columns.issuperset(wanted):
            return f"CREATE UNIQUE INDEX {table}_index ON {table} ({', '.join(wanted)});"
    return ""


def _check_zooms(name: str, lend: Lend) -> None:
    """Raise StoreError if the first or last zoom, in SQLite's order of all values, is not a whole number."""
    for order in ("", " DESC"):
        for (zoom,) in _rows(lend, f"SELECT zoom_level FROM tiles ORDER BY zoom_level{order} LIMIT 1"):
            if not _is_whole(zoom):
                raise StoreError(
                    f"{name} has a tile whose zoom_level is {str(zoom)[:20]!r}, not a whole number: repair the file, or"
                    " delete that row"
                )


def _check_twice(name: str, lend: Lend) -> None:
    """Raise StoreError if a file without a unique index holds different data for one tile: either may be wrong."""
    if len(_rows(lend, f"SELECT 1 FROM tiles LIMIT {_COMPARED + 1}")) > _COMPARED:
        return
    where = "zoom_level = ? AND tile_column = ? AND tile_row = ? AND length(tile_data) > 0"
    for address in _rows(
        lend, "SELECT zoom_level, tile_column, tile_row FROM tiles WHERE length(tile_data) > 0"
        f" GROUP BY zoom_level, tile_column, tile_row HAVING count(*) > 1 LIMIT {_COLUMNS}",
    ):  # fmt: skip
        ((differ,),) = _rows(lend, f"SELECT min(tile_data) <> max(tile_data) FROM tiles WHERE {where}", *address)
        if differ:
            raise StoreError(
                f"{name} holds different tiles at zoom_level {address[0]}, tile_column {address[1]}, tile_row"
                f" {address[2]}: delete the rows that are not wanted"
            )


def _scanned(name: str, lend: Lend) -> tuple[Extent, ...]:
    """Every zoom's columns and rows, by reading the whole table once."""
    query = (
        "SELECT zoom_level, min(tile_column), max(tile_column), min(tile_row), max(tile_row) FROM tiles"
        f" WHERE zoom_level BETWEEN 0 AND {MAX_ZOOM} GROUP BY zoom_level ORDER BY zoom_level"
    )
    return tuple(_extent(name, int(zoom), *edges) for zoom, *edges in _rows(lend, query))


def _sought(name: str, lend: Lend) -> tuple[Extent, ...]:
    """Every zoom's columns, and the rows of some columns spread over it, by an index."""
    extents = []
    zooms = _rows(lend, "SELECT zoom_level FROM tiles WHERE zoom_level >= 0 ORDER BY zoom_level LIMIT 1")
    while zooms and zooms[0][0] <= MAX_ZOOM:
        zoom = int(zooms[0][0])
        first, last = _whole(name, "tile_column", [_edge(lend, "tile_column", order, zoom) for order in ("", " DESC")])
        edges: list[Any] = []
        for n in range(_COLUMNS):
            wanted = first + (last - first) * n // (_COLUMNS - 1)
            columns = _rows(
                lend, "SELECT tile_column FROM tiles WHERE zoom_level = ? AND tile_column >= ?"
                " ORDER BY tile_column LIMIT 1", zoom, wanted,
            )  # fmt: skip
            for (column,) in columns:
                edges += [_edge(lend, "tile_row", order, zoom, column) for order in ("", " DESC")]
        rows = _whole(name, "tile_row", edges)
        extents.append(_extent(name, zoom, first, last, min(rows), max(rows)))
        zooms = _rows(lend, "SELECT zoom_level FROM tiles WHERE zoom_level > ? ORDER BY zoom_level LIMIT 1", zoom)
    return tuple(extents)


def _edge(lend: Lend, what: str, order: str, zoom: int, column: int | None = None) -> Any:
    """The first or last column of a zoom, or row of a column."""
    where = "" if column is None else " AND tile_column = ?"
    query = f"SELECT {what} FROM tiles WHERE zoom_level = ?{where} ORDER BY {what}{order} LIMIT 1"
    found = _rows(lend, query, zoom, *([] if column is None else [column]))
    return found[0][0] if found else None


def _extent(name: str, zoom: int, *edges: Any) -> Extent:
    return Extent(zoom, *_whole(name, f"tile_column or tile_row at zoom {zoom}", edges))


def _whole(name: str, what: str, values: Iterable[Any]) -> list[int]:
    checked = []
    for value in values:
        if not _is_whole(value):
            raise StoreError(f"{name} has a {what} of {str(value)[:20]!r}, not a whole number: repair the file")
        checked.append(int(value))
    return checked


def _is_whole(value: object) -> bool:
    """Whether SQLite finds the value when it looks for a whole number: 4 or 4.0, but not text."""
    return isinstance(value, int) or (isinstance(value, float) and value.is_integer())


def _sample(lend: Lend, extents: Iterable[Extent], *, indexed: bool) -> tuple[bytes | None, Counter[str]]:
    """An image of the file, and the kinds of some tiles of each zoom."""
    kinds: Counter[str] = Counter()
    image = None
    # Bytes of one tile at a time are in memory, and none of a value larger than the connection's limit.
    queries = [(f"SELECT tile_data FROM tiles LIMIT {_LOOKED_AT}", ())]
    if indexed:
        at_zoom = f"SELECT tile_data FROM tiles WHERE zoom_level = ? ORDER BY tile_column DESC LIMIT {_LOOKED_AT // 4}"
        queries += [(at_zoom, (e.zoom,)) for e in extents]  # type: ignore[misc]
    for query, values in queries:
        with lend() as connection:
            for (value,) in connection.execute(query, values):
                data = as_bytes(value)
                kinds[kind_in_words(data)] += 1
                if image is None and sniff(data):
                    image = data
    return image, kinds


def as_bytes(value: object) -> bytes:
    """A value of the column `tile_data` as bytes; SQLite allows any type in any column."""
    if isinstance(value, bytes):
        return value
    return b"" if value is None else str(value).encode(errors="replace")
