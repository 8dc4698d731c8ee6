"""Fetching in processes that are killed, in several processes at once, and with plans of a million tiles."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from loopback import TileServer, http, tile_image

from tile_cache.addressing import tile_of_code
from tile_cache.errors import SourceUnavailableError
from tile_cache.fetch.client import fetch
from tile_cache.mbtiles import TileRecord, TileStore

Z = 9
TILES = 240
FLUSH_S = 0.1
CONCURRENCY = 4

_FETCH = """
import asyncio, sys
sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np
from tile_cache.fetch.client import FetchSettings, fetch
from tile_cache.mbtiles import TileStore
from tile_cache.open import open_source
source = open_source({template!r})
settings = FetchSettings(rate_per_s=400, concurrency={concurrency}, flush_s={flush_s})
with TileStore.open(Path({path!r}), source.info) as store:
    report = asyncio.run(fetch(source, store, [({z}, np.arange({tiles}, dtype=np.uint64))], settings))
print(report.known, report.kept)
"""


def start(server: TileServer, path: Path) -> subprocess.Popen[str]:
    script = _FETCH.format(
        root=str(Path(__file__).parents[3]),
        template=server.template,
        path=str(path),
        concurrency=CONCURRENCY,
        flush_s=FLUSH_S,
        z=Z,
        tiles=TILES,
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)


def kept_paths(path: Path) -> set[str]:
    """The stored tiles as another process sees them, as URL paths."""
    with closing(sqlite3.connect(path)) as c:
        return {
            f"/{z}/{x}/{2**z - 1 - y}.png" for z, x, y in c.execute("SELECT zoom_level, tile_column, tile_row FROM map")
        }


def all_right(path: Path, server: TileServer) -> bool:
    with TileStore.open(path, server.source.info) as store:
        tiles = [tile_of_code(c, Z) for c in range(TILES)]
        return store.counts() == {Z: TILES} and all(store.read(t) == tile_image(t) for t in tiles)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_stored_tiles_are_not_fetched_again_after_kill_9(server, tmp_path):
    path = tmp_path / "cache.mbtiles"
    at_kills: list[tuple[set[str], Counter[str]]] = []
    for share in (0.0, 0.2, 0.5, 0.8):
        child = start(server, path)
        wait_for(lambda share=share: len(server.log) > TILES * share)
        child.send_signal(signal.SIGKILL)
        child.wait()
        at_kills.append((kept_paths(path), Counter(server.counts)))
    assert start(server, path).wait(600) == 0
    for paths, counts in at_kills:
        assert {p: server.counts[p] for p in paths} == {p: counts[p] for p in paths}
    assert len(at_kills[-1][0]) > TILES / 4, "most tiles that arrived before the last kill are stored"
    assert all_right(path, server)
    with closing(sqlite3.connect(path)) as c:
        assert c.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("signal_sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_leaves_a_resumable_store(server, tmp_path, signal_sent):
    path = tmp_path / "cache.mbtiles"
    child = start(server, path)
    wait_for(lambda: len(server.log) > 60)
    child.send_signal(signal_sent)
    assert child.wait(600) != 0
    stored = kept_paths(path)
    if signal_sent == signal.SIGINT:
        assert len(stored) >= len(server.log) - 2 * CONCURRENCY, "an interrupt writes what has arrived"
    child = start(server, path)
    assert child.wait(600) == 0
    assert child.stdout.read().split() == [str(len(stored)), str(TILES - len(stored))]
    assert all_right(path, server)


def test_several_processes_fill_one_store(server, tmp_path):
    path = tmp_path / "cache.mbtiles"
    children = [start(server, path) for _ in range(3)]
    assert [c.wait(600) for c in children] == [0, 0, 0]
    assert all_right(path, server)


def test_plan_of_a_million_tiles_needs_little_memory(server, store, hasty):
    store.put([TileRecord(tile_of_code(c, 16), b"\xff\xd8\xff") for c in range(20_000)])
    process = psutil.Process()
    used: list[int] = []

    def chunks():
        for _ in range(50):
            used.append(process.memory_info().rss)
            yield 16, np.arange(20_003, dtype=np.uint64)

    report = asyncio.run(fetch(server.source, store, chunks(), hasty))
    assert (report.planned, report.kept) == (50 * 20_003, 3)
    # A task or even a tuple for each would take over 100 MB.
    assert max(used) - used[1] < 40 << 20


def test_refusing_server_ends_a_plan_of_a_million_tiles_quickly(server, store, hasty):
    server.answer = lambda r: http(503)
    tracemalloc.start()
    try:
        with pytest.raises(SourceUnavailableError, match="HTTP 503"):
            asyncio.run(
                fetch(
                    server.source,
                    store,
                    ((16, np.arange(s, s + 250_000, dtype=np.uint64)) for s in range(0, 10**6, 250_000)),
                    replace(hasty, give_up_after=5),
                )
            )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert len(server.log) <= 5 * 3 + CONCURRENCY * 3
