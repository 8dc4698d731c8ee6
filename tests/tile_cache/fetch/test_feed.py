"""The batch writer loses no response, whatever task is cancelled."""

import asyncio
import contextlib
import threading

import numpy as np
import pytest

from tile_cache.addressing import Tile
from tile_cache.errors import StoreError
from tile_cache.fetch.feed import BatchWriter
from tile_cache.fetch.settings import FetchReport, FetchSettings
from tile_cache.mbtiles import TileRecord, TileStore


def test_queued_batch_is_written_after_its_flush_is_cancelled(store: TileStore) -> None:
    report = FetchReport()

    async def cancelled_while_queued() -> None:
        writer = BatchWriter(store, FetchSettings(), report, set())
        busy = threading.Event()
        writer._thread.submit(busy.wait, 10)  # the thread has something else to do, as under load
        await writer.add(TileRecord(Tile(1, 2, 3), b"tile"))
        flushing = asyncio.create_task(writer.flush())
        await asyncio.sleep(0.01)
        flushing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flushing
        busy.set()
        writer.close()

    asyncio.run(cancelled_while_queued())
    assert report.kept == 1
    assert store.read(Tile(1, 2, 3)) == b"tile"
    assert len(store.unknown(np.arange(64, dtype=np.uint64), 3)) == 63


def test_failed_batch_is_reported_on_close(store: TileStore) -> None:
    async def cancelled_then_failing() -> None:
        writer = BatchWriter(store, FetchSettings(), FetchReport(), set())
        busy = threading.Event()
        writer._thread.submit(busy.wait, 10)
        await writer.add(TileRecord(Tile(1, 2, 3), b"tile"))
        flushing = asyncio.create_task(writer.flush())
        await asyncio.sleep(0.01)
        flushing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await flushing
        store.close()
        busy.set()
        writer.close()

    with pytest.raises(StoreError):
        asyncio.run(cancelled_then_failing())
