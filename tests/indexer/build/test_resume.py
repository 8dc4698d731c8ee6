"""Builds in separate processes that are killed, interrupted or run out of disk, and then resume."""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from workbench import Server, contents, run_worker, start_worker, tile_bytes, write_folder

from indexer.build.coverage import Coverage
from retrieval.geo.region import Region
from tile_cache.addressing import Tile, tile_of_code
from tile_cache.errors import StoreError
from tile_cache.mbtiles import TileStore

BOX = (160.0, -40.0, -170.0, 20.0)
ZOOMS = (3, 5, 6)


def request(tmp_path: Path, name: str, source: str, **changes: Any) -> dict[str, Any]:
    """A build with a margin, several units and several shards a zoom."""
    options: dict[str, Any] = {"contexts": {6: 1.0}, "unit_rows": 16, "shard_rows": 24, "threads": 2}
    options |= {"source": source, "out": tmp_path / name, "cache": tmp_path / f"{name}-cache", "zooms": ZOOMS}
    return options | {"bbox": BOX} | changes


def cached_tiles(cache: Path) -> set[Tile]:
    """The tiles in a cache, perhaps half-written, read in the way that a later run reads them."""
    files = list(cache.glob("*.mbtiles"))
    if not files or not files[0].stat().st_size:
        return set()
    tiles = set()
    try:
        with TileStore.open(files[0]) as store:
            for z in store.counts():
                every = np.arange(4**z, dtype=np.uint64)
                tiles |= {tile_of_code(int(c), z) for c in np.setdiff1d(every, store.unknown(every, z))}
    except StoreError:  # killed before its tables were laid out
        return set()
    return tiles


def folder(tmp_path: Path) -> str:
    coverage = Coverage.of(ZOOMS, Region.from_bbox(*BOX))
    tiles = [tile_of_code(int(c), z) for z in ZOOMS for codes in coverage.chunks(z, 1) for c in codes]
    return str(write_folder(tmp_path / "tiles", {t: tile_bytes(t) for t in tiles}))


@pytest.mark.slow
def test_ten_kills_change_no_byte_and_refetch_no_cached_tile(tmp_path: Path, server: Server) -> None:
    code, out, err = run_worker(**request(tmp_path, "whole", server.url, unit_rows=8))
    assert code == 0, err
    whole = json.loads(out)
    assert whole["fetches"][0]["failed"] == 0
    server.delay_s = 0.01
    options = request(tmp_path, "killed", server.url, unit_rows=8, slow_s=0.02)
    rng, work = random.Random(16), tmp_path / "killed.partial"

    def begun(stage: str) -> int:
        """The progress of a stage: requests answered, units on disk, or whether shards are being written."""
        if stage == "fetch":
            return len(server.log)
        return len(list(work.glob("units/*/*/*.unit" if stage == "embed" else "index")))

    for stage in ["fetch"] * 5 + ["embed"] * 4 + ["write"]:
        server.log.clear()
        before = cached_tiles(tmp_path / "killed-cache")
        process = start_worker(**options)
        enough = begun(stage) + {"fetch": rng.randint(1, 25), "embed": rng.randint(0, 1), "write": 1}[stage]
        while begun(stage) < enough and process.poll() is None:
            time.sleep(rng.uniform(0.001, 0.01))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not before & set(server.log)
        assert stage == "write" or not (tmp_path / "killed").exists()
    assert begun("embed") or (tmp_path / "killed").exists()
    before = cached_tiles(tmp_path / "killed-cache")
    server.log.clear()
    code, out, err = run_worker(**options)
    assert code == 0, err
    assert not before & set(server.log)
    differing = {
        n for n, data in contents(tmp_path / "killed").items() if (tmp_path / "whole" / n).read_bytes() != data
    }
    assert not differing
    assert json.loads(out)["index_id"] == whole["index_id"]
    assert json.loads(out)["already"] or json.loads(out)["kept"] > 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not (tmp_path / "killed.partial").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["fetch", "embed"])
def test_interrupt_ends_with_one_line_and_exit_130(
    tmp_path: Path, server: Server, number: signal.Signals, stage: str
) -> None:
    source = server.url if stage == "fetch" else folder(tmp_path)
    server.delay_s = 0.05
    options = request(tmp_path, "index", source, slow_s=0.1)
    process = start_worker(**options)
    plan = tmp_path / "index.partial" / "plan.json"
    while not plan.exists() and process.poll() is None:  # pytest's own time limit ends a worker that hangs
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert err.strip().splitlines() == ["tilebeam: interrupted; the same command goes on from here"]
    assert not out
    assert not (tmp_path / "index").exists()
    assert plan.exists()


def test_full_disk_ends_with_one_line_and_the_build_resumes_with_space(tmp_path: Path) -> None:
    # A limit on a file's size stands in for a full disk. Nothing fits; then some units; then units but no shard
    # (FAISS writes those); then shards but no manifest.
    options = request(tmp_path, "index", folder(tmp_path), contexts={})
    for limit in (1, 800, 1400, 2300):
        code, _, err = run_worker(**options, limit_bytes=limit)
        assert code == 1, err
        assert len(err.strip().splitlines()) == 1
        assert err.startswith("tilebeam: ")
        assert "free some space" in err
        assert not (tmp_path / "index").exists()
    code, out, err = run_worker(**options)
    assert code == 0, err
    assert json.loads(out)["encoded"] == 0, "every unit was there already"
    code, _, err = run_worker(**options | {"out": tmp_path / "whole"})
    assert code == 0, err
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")
