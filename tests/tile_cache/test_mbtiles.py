"""The tile store and other MBTiles files: as seen by SQL and GDAL, equal tiles, damage, several writers."""

import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback import image, tile_image
from PIL import Image

from tile_cache.addressing import Tile, code_of_tile, tile_of_code
from tile_cache.errors import StoreError, TileAddressError
from tile_cache.mbtiles import MBTilesSource, TileRecord, TileStore, Validators
from tile_cache.open import open_source
from tile_cache.source import SourceInfo, TileSource

INFO = SourceInfo("test tiles", "test:1", "nobody", 2, 20, 256)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache.mbtiles"


@pytest.fixture
def store(path: Path):
    with TileStore.open(path, INFO) as opened:
        yield opened


def records(z: int, codes) -> list[TileRecord]:
    tiles = [tile_of_code(int(c), z) for c in codes]
    return [TileRecord(t, tile_image(t), 200, f'"{t.x}"', None, 1000, 2000) for t in tiles]


def sql(path: Path, query: str, *values):
    with closing(sqlite3.connect(path)) as c:
        return c.execute(query, values).fetchall()


def foreign(path: Path, tiles: dict[Tile, bytes], **metadata: str) -> Path:
    """An MBTiles file as other programs write it: a plain `tiles` table, no application id."""
    with sqlite3.connect(path) as c:
        c.execute("CREATE TABLE metadata (name text, value text)")
        c.execute("CREATE TABLE tiles (zoom_level integer, tile_column integer, tile_row integer, tile_data blob)")
        c.executemany("INSERT INTO metadata VALUES (?, ?)", metadata.items())
        rows = [(t.z, t.x, 2**t.z - 1 - t.y, data) for t, data in tiles.items()]
        c.executemany("INSERT INTO tiles VALUES (?, ?, ?, ?)", rows)
    c.close()
    return path


@pytest.mark.filterwarnings("ignore:Mercantile 2.0")
def test_store_is_a_tile_source(store):
    source: TileSource = store
    assert source.info == INFO
    assert source.read(Tile(0, 0, 3)) is None
    with pytest.raises(TileAddressError):
        source.read(Tile(0, 9, 3))


def test_reopened_store_has_all_tiles(store, path):
    store.put(records(6, range(50)))
    store.close()
    with TileStore.open(path) as again:
        assert again.info == INFO
        assert again.counts() == {6: 50}
        assert all(again.read(tile_of_code(c, 6)) == tile_image(tile_of_code(c, 6)) for c in range(50))


def test_store_has_the_tables_of_mbtiles(store, path):
    north = Tile(5, 0, 4)
    store.put([TileRecord(north, tile_image(north)), TileRecord(Tile(6, 1, 4), image(1))])
    store.close()
    assert sql(path, "PRAGMA application_id") == [(0x4D504258,)]
    assert sql(path, "SELECT tile_data FROM tiles WHERE zoom_level = 4 AND tile_column = 5 AND tile_row = 15") == [
        (tile_image(north),)
    ], "the northernmost row is the highest one in the file"
    metadata = dict(sql(path, "SELECT name, value FROM metadata"))
    shown = {"name": "test tiles", "attribution": "nobody", "format": "png", "type": "baselayer"}
    assert metadata.items() >= (shown | {"minzoom": "4", "maxzoom": "4"}).items()
    west, south, east, north_edge = (float(v) for v in metadata["bounds"].split(","))
    assert (west, east, north_edge) == pytest.approx((-67.5, -22.5, 85.051129))
    assert south == pytest.approx(79.171335)
    assert not list(path.parent.glob("*-wal")), "closed, the store is one file"


def test_extent_grows_with_the_tiles(store, path):
    store.put(records(8, [0]))
    store.put(records(5, [4**5 - 1]))
    store.close()
    metadata = dict(sql(path, "SELECT name, value FROM metadata"))
    assert (metadata["minzoom"], metadata["maxzoom"]) == ("5", "8")
    assert [float(v) for v in metadata["bounds"].split(",")] == pytest.approx(
        [-180, -85.051129, 180, 85.051129], abs=1e-5
    )


@pytest.mark.skipif(not shutil.which("gdalinfo"), reason="gdal-bin is not installed")
def test_gdal_reads_the_store(store, path, tmp_path):
    size = 256
    store.put([TileRecord(Tile(x, y, 3), image(8 * y + x, size=size)) for x in range(8) for y in range(8)])
    store.close()
    info = subprocess.run(["gdalinfo", "-json", str(path)], capture_output=True, check=True, text=True)
    described = json.loads(info.stdout)
    assert described["driverShortName"] == "MBTiles"
    assert described["size"] == [2048, 2048]
    # One pixel of the north-western tile: were rows mirrored, this would be another tile's.
    values = subprocess.run(["gdallocationinfo", "-valonly", str(path), "300", "10"], capture_output=True, text=True)
    expected = Image.open(io.BytesIO(image(1, size=size))).getpixel((300 - 256, 10))
    assert [int(v) for v in values.stdout.split()][:3] == list(expected)


def test_equal_tiles_are_stored_once(store, path):
    ocean = image(7)
    store.put([TileRecord(tile_of_code(c, 7), ocean) for c in range(500)])
    store.put(records(8, range(3)))
    assert sql(path, "SELECT count(*) FROM images") == [(4,)]
    assert sql(path, "SELECT count(*) FROM tiles") == [(503,)]
    assert store.read(tile_of_code(499, 7)) == ocean


def test_other_bytes_with_an_equal_hash_are_stored_apart(store, path):
    store.put([TileRecord(Tile(0, 0, 3), image(1))])
    with sqlite3.connect(path) as c:
        c.execute("UPDATE images SET tile_data = ?", (image(2),))  # as damage, or a collision, would
    c.close()
    store.put([TileRecord(Tile(1, 0, 3), image(1)), TileRecord(Tile(2, 0, 3), image(1))])
    assert store.read(Tile(1, 0, 3)) == image(1)
    assert store.read(Tile(2, 0, 3)) == image(1)
    assert sql(path, "SELECT count(*) FROM images") == [(2,)]


def test_unknown_omits_stored_and_absent_tiles_in_order(store):
    store.put([*records(9, [3, 5]), TileRecord(tile_of_code(7, 9), None, 404)])
    codes = np.array([9, 7, 5, 4, 3, 1], dtype=np.uint64)
    assert store.unknown(codes, 9).tolist() == [9, 4, 1]
    assert store.unknown(codes, 10).tolist() == codes.tolist(), "tiles of another zoom do not count"
    assert store.unknown(codes[:0], 9).dtype == np.uint64


@settings(max_examples=40)
@given(st.sets(st.integers(0, 4**12 - 1), max_size=30), st.sets(st.integers(0, 4**12 - 1), max_size=30))
def test_unknown_is_set_difference(tmp_path_factory, stored, wanted):
    path = tmp_path_factory.mktemp("store") / "s.mbtiles"
    with TileStore.open(path, INFO) as store:
        store.put([TileRecord(tile_of_code(c, 12), b"\xff\xd8\xff") for c in stored])
        unknown = store.unknown(np.array(sorted(wanted), dtype=np.uint64), 12)
    path.unlink()
    assert unknown.tolist() == sorted(wanted - stored)


def test_unknown_handles_a_million_tiles(store):
    """One query a tile would take minutes."""
    store.put([TileRecord(tile_of_code(c, 16), b"\xff\xd8\xff") for c in range(0, 1_000_000, 500)])
    codes = np.arange(1_000_000, dtype=np.uint64)
    assert len(store.unknown(codes, 16)) == 998_000


def test_stale_uses_the_expiry_or_else_the_age(store):
    z = 6
    known = [
        TileRecord(tile_of_code(0, z), image(), 200, fetched_at=1000, expires=1500),
        TileRecord(tile_of_code(1, z), image(), 200, fetched_at=1000, expires=5000),
        TileRecord(tile_of_code(2, z), image(), 200, fetched_at=1000),
        TileRecord(tile_of_code(3, z), None, 404, fetched_at=1900),
    ]
    store.put(known)
    codes = np.arange(5, dtype=np.uint64)
    assert store.stale(codes, z, now=2000, default_age=500).tolist() == [0, 2]
    assert store.stale(codes, z, now=2000, default_age=100).tolist() == [0, 2, 3]
    assert store.stale(codes, z, now=9000, default_age=10**9).tolist() == [0, 1]


def test_later_response_replaces_the_earlier_one(store, path):
    tile = Tile(1, 2, 3)
    store.put([TileRecord(tile, image(1), 200, '"a"', "Mon", 10, 20)])
    assert store.validators(tile) == Validators('"a"', "Mon")
    store.put([TileRecord(tile, None, 304, None, None, 30, 40)])
    assert store.read(tile) == image(1)
    assert store.validators(tile) == Validators('"a"', "Mon")
    assert sql(path, "SELECT status, fetched_at, expires FROM fetched") == [(200, 30, 40)]
    store.put([TileRecord(tile, image(2), 200, '"b"', None, 50, 60)])
    assert store.read(tile) == image(2)
    store.put([TileRecord(tile, None, 404, fetched_at=70)])
    assert store.read(tile) is None
    assert store.validators(tile) is None
    assert store.drop_orphans() == 2


@pytest.mark.filterwarnings("ignore:Mercantile 2.0")
def test_put_is_all_or_nothing(store):
    with pytest.raises(TileAddressError):
        store.put([*records(3, [1, 2]), TileRecord(Tile(0, 8, 3), image())])
    assert store.counts() == {}


def test_threads_read_and_write_concurrently(store):
    errors: list[Tile] = []

    def write(part: int) -> None:
        for start in range(part * 100, part * 100 + 100, 10):
            store.put(records(9, range(start, start + 10)))

    def read() -> None:
        tiles = [tile_of_code(c, 9) for c in range(0, 400, 20)] * 20
        errors.extend(t for t in tiles if store.read(t) not in (None, tile_image(t)))

    threads = [threading.Thread(target=write, args=(i,)) for i in range(4)]
    threads += [threading.Thread(target=read) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    assert store.counts() == {9: 400}


_WRITER = """
import sys
from pathlib import Path
sys.path[:0] = [{root!r}, {here!r}, {support!r}]
from test_mbtiles import INFO, records
from tile_cache.mbtiles import TileStore
first = int(sys.argv[1])
with TileStore.open(Path({path!r}), INFO) as store:
    for start in range(first, first + 200, 5):
        store.put(records(9, range(start, start + 5)))
"""


def test_several_processes_create_and_fill_one_store(path):
    root = Path(__file__).parents[2]
    here, support = str(root / "tests/tile_cache"), str(root / "tests/support")
    script = _WRITER.format(root=str(root), here=here, support=support, path=str(path))
    # Overlapping ranges, and nobody made the file before: all four lay it out at once.
    writers = [subprocess.Popen([sys.executable, "-c", script, str(first)]) for first in (0, 100, 200, 300)]
    assert [w.wait(600) for w in writers] == [0, 0, 0, 0]
    with TileStore.open(path) as store:
        assert store.counts() == {9: 500}
        assert len(store.unknown(np.arange(500, dtype=np.uint64), 9)) == 0
        assert store.read(tile_of_code(321, 9)) == tile_image(tile_of_code(321, 9))
    assert sql(path, "PRAGMA integrity_check") == [("ok",)]


def test_forked_child_opens_its_own_connection(store):
    store.put(records(5, range(10)))
    child = os.fork()
    if child == 0:
        os._exit(0 if store.read(tile_of_code(3, 5)) == tile_image(tile_of_code(3, 5)) else 1)
    assert os.waitpid(child, 0)[1] == 0
    store.put(records(6, range(10)))
    assert store.counts() == {5: 10, 6: 10}


def test_read_only_store_refuses_writes(store, path):
    store.put(records(5, range(10)))
    with TileStore.open(path, read_only=True) as reader:
        assert reader.read(tile_of_code(3, 5)) is not None
        with pytest.raises(StoreError, match="reading only"):
            reader.put(records(5, [11]))
        store.put(records(5, [11]))
        assert reader.read(tile_of_code(11, 5)) is not None, "readers see what writers add"


_READER = """
import os, sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tile_cache.mbtiles import TileStore
if os.geteuid() == 0:  # root may write anywhere
    os.setgid(65534)
    os.setuid(65534)
print(TileStore.open(Path({path!r}), read_only=True).counts())
"""


def test_store_in_a_read_only_folder_is_readable():
    # Not tmp_path, whose parents nobody else may enter.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s.mbtiles"
        with TileStore.open(path, INFO) as store:
            store.put(records(5, range(10)))
        Path(folder).chmod(0o555)
        script = _READER.format(root=str(Path(__file__).parents[2]), path=str(path))
        reader = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        Path(folder).chmod(0o755)
    assert reader.stdout.strip() == "{5: 10}", reader.stderr


def test_store_belongs_to_one_source(store, path):
    other = SourceInfo("other tiles", "test:2", "", 0, 20, 256)
    with pytest.raises(StoreError, match="is the cache of 'test tiles', not of 'other tiles'"):
        TileStore.open(path, other)


def test_new_description_of_the_same_source_is_stored(store, path):
    store.put(records(5, range(3)))
    better = replace(INFO, attribution="© somebody", max_zoom=14)
    with TileStore.open(path, better) as again:
        assert again.info == better
    with TileStore.open(path) as again:
        assert again.info == better
        assert again.counts() == {5: 3}


def test_closed_store_is_refused(store):
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.read(Tile(0, 0, 0))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>not found</html>", "not an MBTiles file .*<html>"),
        (b"SQLite format 3", "not an MBTiles file"),
        (b"SQLite format 3\0" + b"\0" * 84, "damaged|not laid out"),
        (b"SQLite format 3\0" + b"\x10\0" + os.urandom(5000), "damaged|truncated"),
    ],
)
@pytest.mark.parametrize("opener", [TileStore.open, MBTilesSource, lambda p: TileStore.open(p, INFO)])
def test_other_files_are_refused_with_the_reason(path, content, reason, opener):
    path.write_bytes(content)
    with pytest.raises(StoreError, match=reason) as caught:
        opener(path)
    assert path.name in str(caught.value)
    assert path.read_bytes() == content, "another program's file is not changed"


def test_other_database_is_not_a_store(path):
    with sqlite3.connect(path) as c:
        c.execute("CREATE TABLE people (name TEXT)")
    c.close()
    with pytest.raises(StoreError, match="not a tile store"):
        TileStore.open(path, INFO)
    with pytest.raises(StoreError, match="not laid out as MBTiles"):
        MBTilesSource(path)


def test_other_mbtiles_file_is_not_written(path):
    foreign(path, {Tile(0, 0, 0): image()})
    with pytest.raises(StoreError, match="can be used as a source"):
        TileStore.open(path, INFO)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_file_is_named(store, path, share):
    store.put(records(7, range(300)))
    store.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    for opener in (TileStore.open, MBTilesSource):
        with pytest.raises(StoreError, match=r"truncated: .* bytes"):
            opener(path)


@settings(max_examples=60)
@given(st.data())
def test_damaged_file_gives_bytes_or_store_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "s.mbtiles"
    with TileStore.open(path, INFO) as store:
        store.put(records(7, range(20)))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 20))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with suppress(StoreError), TileStore.open(path, INFO) as store:
        store.unknown(np.arange(30, dtype=np.uint64), 7)
        for c in range(20):
            store.read(tile_of_code(c, 7))
        store.put(records(7, range(20, 30)))


def test_missing_file_or_folder_is_refused(tmp_path):
    with pytest.raises(StoreError, match="does not exist: make a tile store with `tilebeam fetch`"):
        TileStore.open(tmp_path / "none.mbtiles")
    with pytest.raises(StoreError, match="folder that exists"):
        TileStore.open(tmp_path / "no" / "none.mbtiles", INFO)
    with pytest.raises(StoreError, match="folder that exists"):
        TileStore.open(tmp_path, INFO)


def test_empty_file_becomes_a_store(path):
    path.touch()
    with pytest.raises(StoreError, match="empty"):
        TileStore.open(path, read_only=True)
    with TileStore.open(path, INFO) as store:
        store.put(records(3, [1]))
        assert store.counts() == {3: 1}


def test_rows_of_other_files_are_flipped(path):
    tiles = {Tile(x, y, 3): tile_image(Tile(x, y, 3)) for x in range(8) for y in range(3)}
    foreign(path, tiles, name="elsewhere", attribution="them")
    source = open_source(str(path))
    assert (source.info.name, source.info.attribution) == ("elsewhere", "them")
    assert (source.info.min_zoom, source.info.max_zoom, source.info.tile_size) == (3, 3, 32)
    assert all(source.read(t) == data for t, data in tiles.items())
    assert source.read(Tile(0, 7, 3)) is None
    source.close()


def test_identity_depends_on_contents_not_on_path(tmp_path):
    one = MBTilesSource(foreign(tmp_path / "one.mbtiles", {Tile(0, 0, 1): image(1)}, name="n"))
    shutil.copy(one.path, tmp_path / "copy.mbtiles")
    same = MBTilesSource(tmp_path / "copy.mbtiles")
    other = MBTilesSource(foreign(tmp_path / "two.mbtiles", {Tile(0, 0, 1): image(2)}, name="n"))
    assert one.info.identity == same.info.identity != other.info.identity


def test_store_can_be_opened_as_a_source(store, path):
    store.put(records(4, range(16)))
    store.close()
    source = open_source(str(path))
    assert source.read(tile_of_code(9, 4)) == tile_image(tile_of_code(9, 4))
    assert (source.info.name, source.info.attribution, source.info.max_zoom) == ("test tiles", "nobody", 4)
    assert source.info.identity != INFO.identity, "the part that was fetched is not the whole source"


@pytest.mark.parametrize(
    ("tiles", "reason"), [({}, "holds no tile"), ({Tile(0, 0, 0): b"\x1f\x8b\x08vector"}, "vector tiles")]
)
def test_mbtiles_without_imagery_is_refused(path, tiles, reason):
    foreign(path, tiles, name="n")
    with pytest.raises(StoreError, match=reason):
        _ = MBTilesSource(path).info


def test_corner_codes_of_the_deepest_zoom_are_found(store):
    corners = [Tile(0, 0, 20), Tile(2**20 - 1, 0, 20), Tile(0, 2**20 - 1, 20), Tile(2**20 - 1, 2**20 - 1, 20)]
    store.put([TileRecord(t, tile_image(t)) for t in corners])
    codes = np.array([code_of_tile(t) for t in corners], dtype=np.uint64)
    assert len(store.unknown(codes, 20)) == 0
    assert all(store.read(t) == tile_image(t) for t in corners)


def test_full_disk_fails_one_transaction(store, path):
    store.put(records(6, range(10)))
    with store._database.connection() as c:  # SQLite's own limit gives the error that a full disk does
        pages = c.execute("PRAGMA page_count").fetchone()[0]
        c.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match="disk is full; stored tiles are kept"):
        store.put([TileRecord(tile_of_code(99, 6), image(99, size=300) + bytes(100_000))])
    assert store.counts() == {6: 10}
    store.put(records(6, range(10, 20)))
    assert store.counts() == {6: 20}


def test_store_locked_by_another_process_is_reported(store, path, monkeypatch):
    monkeypatch.setattr("tile_cache.database.BUSY_S", 0.1)
    with TileStore.open(path, INFO) as second, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked by another process"):
            second.put(records(6, [1]))
        other.execute("ROLLBACK")
        second.put(records(6, [1]))


def test_large_files_are_identified_by_samples(tmp_path, monkeypatch):
    monkeypatch.setattr("tile_cache.mbtiles_format._WHOLE_BELOW", 1 << 17)
    one = foreign(tmp_path / "one.mbtiles", {Tile(x, 0, 3): image(x) + bytes(60_000) for x in range(8)}, name="n")
    shutil.copy(one, tmp_path / "copy.mbtiles")
    identity = MBTilesSource(one).info.identity
    assert MBTilesSource(tmp_path / "copy.mbtiles").info.identity == identity
    with closing(sqlite3.connect(one)) as c:
        c.execute("UPDATE tiles SET tile_data = ? WHERE tile_column = 7", (image(9) + bytes(60_000),))
        c.commit()
    assert MBTilesSource(one).info.identity != identity
