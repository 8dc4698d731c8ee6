"""MBTiles files of strangers: rows from the north, other grids, views that compute, values of any type and size."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from loopback import image, tile_image

from tile_cache.addressing import Tile, bounds
from tile_cache.errors import SourceError, StoreError
from tile_cache.mbtiles import MBTilesSource, TileRecord, TileStore
from tile_cache.source import SourceInfo

INFO = SourceInfo("test tiles", "test:1", "nobody", 2, 20, 256)
NORTH = [Tile(x, y, 4) for x in range(6, 10) for y in range(3, 6)]
BOX = ",".join(
    str(v) for v in (bounds(NORTH[0]).west, bounds(NORTH[2]).south, bounds(NORTH[-1]).east, bounds(NORTH[0]).north)
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "strange.mbtiles"


def made(path: Path, rows: list[tuple[object, ...]], *, index: bool = True, **metadata: str) -> Path:
    """A file with these rows of zoom, column, row and data."""
    with closing(sqlite3.connect(path)) as c:
        c.execute("CREATE TABLE metadata (name text, value text)")
        c.execute("CREATE TABLE tiles (zoom_level, tile_column, tile_row, tile_data)")
        if index:
            c.execute("CREATE UNIQUE INDEX i ON tiles (zoom_level, tile_column, tile_row)")
        c.executemany("INSERT INTO metadata VALUES (?, ?)", metadata.items())
        c.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
        c.commit()
    return path


def view(path: Path, definition: str) -> Path:
    """A file whose tiles are a view."""
    with closing(sqlite3.connect(path)) as c:
        c.execute("CREATE TABLE metadata (name text, value text)")
        c.execute(f"CREATE VIEW tiles AS {definition}")
        c.commit()
    return path


def numbered(tiles: list[Tile], *, south_first: bool) -> list[tuple[object, ...]]:
    return [(t.z, t.x, (1 << t.z) - 1 - t.y if south_first else t.y, tile_image(t)) for t in tiles]


@pytest.mark.parametrize("scheme", ["xyz", "XYZ", "tms", None])
def test_scheme_of_the_metadata_is_honoured(path, scheme):
    south_first = scheme in ("tms", None)
    source = MBTilesSource(
        made(path, numbered(NORTH, south_first=south_first), **({"scheme": scheme} if scheme else {}))
    )
    assert all(source.read(t) == tile_image(t) for t in NORTH)
    assert source.read(Tile(7, 11, 4)) is None
    assert any("rows are read from the north" in note for note in source.notes) is not south_first


def test_identity_tells_how_rows_are_read(path):
    rows = numbered(NORTH, south_first=True)
    assert not MBTilesSource(made(path, rows)).info.identity.endswith("north")
    path.unlink()
    assert MBTilesSource(made(path, rows, scheme="xyz")).info.identity.endswith("rows from the north")


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("scheme", ["xyz", "tms", ""])
def test_scheme_that_contradicts_the_bounds_is_refused(path, scheme, index):
    rows = numbered(NORTH, south_first=scheme == "xyz")
    with pytest.raises(SourceError, match=r"do not fit its metadata 'bounds'.*correct the scheme or the bounds"):
        MBTilesSource(made(path, rows, index=index, scheme=scheme, bounds=BOX))
    path.unlink()
    rows = numbered(NORTH, south_first=scheme != "xyz")
    assert MBTilesSource(made(path, rows, index=index, scheme=scheme, bounds=BOX)).read(NORTH[0]) == tile_image(
        NORTH[0]
    )


def with_rows(path: Path, *metadata: tuple[str, str]) -> Path:
    """A file of tiles counted from the north with these metadata rows, of which names may repeat."""
    made(path, numbered(NORTH, south_first=False))
    with closing(sqlite3.connect(path)) as c:
        c.executemany("INSERT INTO metadata VALUES (?, ?)", metadata)
        c.commit()
    return path


def test_scheme_that_stands_there_twice_is_refused_where_its_values_differ(path):
    with pytest.raises(SourceError, match=r"'scheme' says .*south.*but metadata 'scheme' says .*north"):
        MBTilesSource(with_rows(path, ("scheme", "tms"), ("scheme", "xyz")))
    path.unlink()
    assert MBTilesSource(with_rows(path, ("scheme", "xyz"), ("scheme", "xyz"))).read(NORTH[0]) == tile_image(NORTH[0])


@pytest.mark.parametrize(
    "row", [("Scheme", "xyz"), ("SCHEME", " XYZ"), ("json", '{"scheme": "xyz"}'), ("JSON", '{"Scheme": "xyz"}')]
)
def test_scheme_is_read_in_any_case_and_from_tilejson(path, row):
    assert MBTilesSource(with_rows(path, row)).read(NORTH[0]) == tile_image(NORTH[0])


def test_bounds_and_projection_of_tilejson_are_compared(path):
    box = [float(v) for v in BOX.split(",")]
    with pytest.raises(SourceError, match=r"do not fit its metadata 'json': bounds"):
        MBTilesSource(with_rows(path, ("json", f'{{"bounds": {box}}}')))
    path.unlink()
    with pytest.raises(SourceError, match=r"not in Web Mercator: metadata 'json': crs says"):
        MBTilesSource(with_rows(path, ("json", '{"crs": "EPSG:4326", "scheme": "xyz"}')))
    path.unlink()
    for text in ("[", "7", "[" * 100_000, '{"vector_layers": []}'):
        assert MBTilesSource(with_rows(path, ("scheme", "xyz"), ("json", text))).read(NORTH[0])
        path.unlink()


def test_empty_rows_before_a_tile_do_not_hide_it(path):
    rows = numbered(NORTH, south_first=True)
    empty = [(*row[:3], value) for row in rows for value in (None, b"")]
    source = MBTilesSource(made(path, [*empty, *rows], index=False))
    assert source.read(NORTH[0]) == tile_image(NORTH[0])


def test_different_tiles_at_one_place_are_refused(path):
    rows = numbered(NORTH, south_first=True)
    assert MBTilesSource(made(path, [*rows, *rows], index=False)).read(NORTH[0]) == tile_image(NORTH[0])
    path.unlink()
    with pytest.raises(StoreError, match="holds different tiles at zoom_level 4, tile_column 6, tile_row 12"):
        MBTilesSource(made(path, [*rows, (*rows[0][:3], image(99))], index=False))


@pytest.mark.parametrize("index", [True, False])
def test_whole_numbers_written_with_a_point_are_read(path, index):
    rows = [(*map(float, row[:3]), row[3]) for row in numbered(NORTH, south_first=True)]  # type: ignore[arg-type]
    assert MBTilesSource(made(path, rows, index=index, bounds=BOX)).read(NORTH[0]) == tile_image(NORTH[0])
    path.unlink()
    with pytest.raises(StoreError, match=r"9\.5'?, not a whole number"):
        MBTilesSource(made(path, [*rows, (4.0, 9.5, 12.0, image(1))], index=index))


@pytest.mark.parametrize("name", ["crs", "srs", "profile"])
def test_other_projections_are_refused(path, name):
    with pytest.raises(SourceError, match=f"not in Web Mercator: metadata '{name}' says"):
        MBTilesSource(made(path, numbered(NORTH, south_first=True), **{name: "EPSG:4326"}))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize(("column", "row"), [(16, 3), (3, 16), (-1, 3)])
def test_tiles_beyond_the_grid_are_refused(path, column, row, index):
    with pytest.raises(SourceError, match="where Web Mercator has 16"):
        MBTilesSource(made(path, [(4, column, row, image(1)), (4, 5, 5, image(1))], index=index))


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize(
    "row", [("a", 0, 0), (None, 0, 0), (b"x", 0, 0), (4.5, 0, 0), (4, "b", 0), (4, 0, "c"), (4, 0, 1.5)]
)
def test_values_that_are_not_whole_numbers_are_store_errors(path, row, index):
    with pytest.raises(StoreError, match="not a whole number"):
        MBTilesSource(made(path, [(*row, image(1)), (4, 1, 1, image(1))], index=index))


def test_zooms_beyond_what_is_indexed_are_left_out(path):
    source = MBTilesSource(made(path, [(z, 0, 0, image(1)) for z in (3, 24, 25, 30, 2**40)]))
    assert (source.info.min_zoom, source.info.max_zoom) == (3, 24)


@pytest.mark.parametrize("first", ["text", b"", None, 7, b"<html>"])
def test_first_tile_that_is_not_an_image_does_not_condemn_the_file(path, first):
    rows = [(4, 0, 0, first), *((4, x, 1, image(x)) for x in range(5))]
    source = MBTilesSource(made(path, rows))
    assert source.info.tile_size == 32
    assert any("not images: of those looked at, " in note and "PNG" in note for note in source.notes)
    assert source.read(Tile(0, 14, 4)) == image(0)


def test_file_without_images_says_what_was_found(path):
    rows = [(4, 0, 0, "text"), (4, 1, 0, b"\x1f\x8b\x08"), (4, 2, 0, b"\x1f\x8b\x08"), (4, 3, 0, None)]
    with pytest.raises(StoreError, match=r"of those looked at, .*gzip data, as vector tiles are.*text"):
        _ = MBTilesSource(made(path, rows)).info


def test_tile_of_another_type_is_read_as_bytes_that_are_no_image(path):
    source = MBTilesSource(made(path, [(4, 0, 0, "text"), (4, 1, 0, image(1))]))
    assert source.read(Tile(0, 15, 4)) == b"text"


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"


@pytest.mark.parametrize("deadline_s", [0.3])
@pytest.mark.parametrize(
    "definition",
    [
        f"{ENDLESS} i % 3 AS zoom_level, i AS tile_column, i AS tile_row, x'00' AS tile_data FROM n",
        f"{ENDLESS} 4 AS zoom_level, 1 AS tile_column, 1 AS tile_row, x'00' AS tile_data FROM n WHERE i < 0",
    ],
)
def test_view_that_never_ends_is_interrupted(path, monkeypatch, definition, deadline_s):
    monkeypatch.setattr("tile_cache.mbtiles.QUERY_S", deadline_s)
    with pytest.raises(StoreError, match=r"a query took over 0\.3 s"):
        MBTilesSource(view(path, definition))


def test_value_larger_than_any_tile_is_not_read(path):
    definition = "SELECT 4 AS zoom_level, 1 AS tile_column, 1 AS tile_row, zeroblob(900000000) AS tile_data"
    with pytest.raises(StoreError, match="holds a value over"):
        MBTilesSource(view(path, definition))
    path.unlink()
    made(path, [(4, 0, 0, image(1)), (4, 3, 3, bytes(40 << 20))])
    with pytest.raises(StoreError, match="holds a value over"):
        MBTilesSource(path)


def test_view_that_counts_to_a_large_value_is_stopped(path, monkeypatch):
    monkeypatch.setattr("tile_cache.mbtiles.QUERY_S", 0.3)
    grows = f"{ENDLESS} 4 AS zoom_level, 1 AS tile_column, 1 AS tile_row, group_concat(i) AS tile_data FROM n"
    with pytest.raises(StoreError, match=r"took over|holds a value over"):
        MBTilesSource(view(path, grows))


def test_many_tiles_without_an_index_are_reported_with_the_line_that_mends_it(path, monkeypatch):
    monkeypatch.setattr("tile_cache.mbtiles_survey.MANY_TILES", 20)
    rows = [(6, x, y, image(1)) for x in range(6) for y in range(6)]
    (note,) = MBTilesSource(made(path, rows, index=False)).notes
    line = "CREATE UNIQUE INDEX tiles_index ON tiles (zoom_level, tile_column, tile_row);"
    assert f'sqlite3 {path} "{line}"' in note
    with closing(sqlite3.connect(path)) as c:
        c.execute(line)
    assert MBTilesSource(path).notes == ()


def test_missing_index_behind_a_view_is_reported_too(path, monkeypatch):
    monkeypatch.setattr("tile_cache.mbtiles_survey.MANY_TILES", 20)
    with closing(sqlite3.connect(path)) as c:
        c.execute("CREATE TABLE metadata (name text, value text)")
        c.execute("CREATE TABLE map (zoom_level, tile_column, tile_row, tile_id)")
        c.execute("CREATE TABLE images (tile_id text primary key, tile_data)")
        c.execute(
            "CREATE VIEW tiles AS SELECT zoom_level, tile_column, tile_row, tile_data"
            " FROM map JOIN images USING (tile_id)"
        )
        c.executemany("INSERT INTO map VALUES (6, ?, ?, 'a')", [(x, y) for x in range(6) for y in range(6)])
        c.execute("INSERT INTO images VALUES ('a', ?)", (image(1),))
        c.commit()
    (note,) = MBTilesSource(path).notes
    assert "CREATE UNIQUE INDEX map_index ON map (zoom_level, tile_column, tile_row);" in note


@pytest.mark.parametrize("suffix", ["", "-wal", "-journal"])
def test_fifo_in_place_of_a_file_is_refused_at_once(path, suffix):
    if suffix:
        made(path, numbered(NORTH, south_first=True))
    os.mkfifo(f"{path}{suffix}")
    with pytest.raises(StoreError, match="is not a regular file"):
        MBTilesSource(path)


def test_copy_without_its_log_is_explained(tmp_path):
    with TileStore.open(tmp_path / "live.mbtiles", INFO) as store:
        store.put([TileRecord(Tile(1, 2, 3), image(1))])
        shutil.copy(tmp_path / "live.mbtiles", tmp_path / "copy.mbtiles")
    for opener in (MBTilesSource, TileStore.open):
        with pytest.raises(StoreError, match=r"copy\.mbtiles-wal was left behind"):
            opener(tmp_path / "copy.mbtiles")


_READ_ONLY = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tile_cache.addressing import Tile
from tile_cache.errors import StoreError
from tile_cache.mbtiles import TileRecord, TileStore
from tile_cache.source import SourceInfo
if os.geteuid() == 0:  # root may write anywhere
    os.setgid(65534)
    os.setuid(65534)
info = SourceInfo("test tiles", "test:1", "nobody", 2, 20, 256)
try:
    TileStore.open(Path({path!r}), info).put([TileRecord(Tile(1, 2, 3), b"x")])
except StoreError as exc:
    print(exc)
"""


def test_writing_on_a_read_only_disk_is_not_called_damage():
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, whose parents nobody else may enter
        path = Path(folder) / "s.mbtiles"
        TileStore.open(path, INFO).close()
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        script = _READ_ONLY.format(root=str(Path(__file__).parents[2]), path=str(path))
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        Path(folder).chmod(0o755)
    assert "is read-only" in done.stdout, done.stderr
    assert "damaged" not in done.stdout
