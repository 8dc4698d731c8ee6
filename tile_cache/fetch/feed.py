"""From a plan of millions of tiles to one tile at a time, and from one answer at a time to transactions.

`Feed` holds at most one slice of codes, as an array; `BatchWriter` at most one batch of answers. Both talk to the
store in threads, so the event loop stays free. They share the set of tiles `under_way`: handed out and not yet
written. They know nothing of HTTP.
"""

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tile_cache.addressing import Tile, code_of_tile, tile_of_code
from tile_cache.errors import SourceError
from tile_cache.fetch.settings import FetchReport, FetchSettings
from tile_cache.mbtiles import NOT_MODIFIED, TileRecord, TileStore
from tile_cache.source import SourceInfo

__all__ = ["BatchWriter", "Feed"]

Codes = NDArray[np.uint64]
_SLICE = 50_000


class Feed:
    """Tiles of `chunks`, (zoom, (n,) uint64 codes) each, that the store does not know, or (refresh) not freshly."""

    def __init__(
        self,
        chunks: Iterable[tuple[int, Codes]],
        store: TileStore,
        info: SourceInfo,
        settings: FetchSettings,
        report: FetchReport,
        under_way: set[Tile],
        now: int,
    ) -> None:
        self._under_way = under_way
        self._store, self._info, self._settings, self._report, self._now = store, info, settings, report, now
        self._slices = self._sliced(chunks)
        self._lock = asyncio.Lock()
        self._z, self._codes, self._at = 0, np.empty(0, dtype=np.uint64), 0

    async def next(self) -> Tile | None:
        """The next tile to ask for; None when the plan is done."""
        async with self._lock:
            while self._at >= len(self._codes):
                found = await asyncio.to_thread(next, self._slices, None)
                if found is None:
                    return None
                (self._z, self._codes), self._at = found, 0
            tile = tile_of_code(int(self._codes[self._at]), self._z)
            self._at += 1
            self._under_way.add(tile)
            return tile

    def let_go(self, tile: Tile) -> None:
        """The tile was given up: nothing will be written for it."""
        self._under_way.discard(tile)

    def _sliced(self, chunks: Iterable[tuple[int, Codes]]) -> Iterator[tuple[int, Codes]]:
        for z, codes in chunks:
            self._check_zoom(z)
            for start in range(0, len(codes), _SLICE):
                yield z, self._wanted(z, np.unique(np.asarray(codes[start : start + _SLICE], dtype=np.uint64)))

    def _wanted(self, z: int, codes: Codes) -> Codes:
        # Read before the store is: a tile that leaves the set meanwhile has been written, and one that was planned
        # twice is not asked for twice.
        under_way = [code_of_tile(t) for t in self._under_way.copy() if t.z == z]
        wanted = self._store.unknown(codes, z)
        if self._settings.refresh:
            stale = self._store.stale(codes, z, self._now, self._settings.default_age_s)
            wanted = np.union1d(wanted, stale)
        wanted = np.setdiff1d(wanted, np.array(under_way, dtype=np.uint64), assume_unique=True)
        self._report.planned += len(codes)
        self._report.known += len(codes) - len(wanted)
        return wanted

    def _check_zoom(self, z: int) -> None:
        if not self._info.min_zoom <= z <= self._info.max_zoom:
            span = f"{self._info.min_zoom} to {self._info.max_zoom}"
            raise SourceError(f"{self._info.name} has zooms {span}, not {z}: choose zooms within them")


class BatchWriter:
    """Collects answers and writes them in one transaction when there are enough or the oldest has waited enough."""

    def __init__(self, store: TileStore, settings: FetchSettings, report: FetchReport, under_way: set[Tile]) -> None:
        self._store, self._settings, self._report, self._under_way = store, settings, report, under_way
        self._waiting: list[TileRecord] = []
        # One thread: transactions follow each other, and closing can wait for the one under way.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tile-writer")
        self._error: Exception | None = None

    async def add(self, record: TileRecord) -> None:
        self._waiting.append(record)
        if len(self._waiting) >= self._settings.batch_tiles:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits. Raises StoreError."""
        batch, self._waiting = self._waiting, []
        if batch:
            # Shielded: cancelling whoever waits here would cancel a transaction that has not begun, and lose its tiles.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._try_commit, batch))
            self._raise_error()

    async def flush_regularly(self) -> None:
        """Runs until cancelled."""
        while True:
            await asyncio.sleep(self._settings.flush_s)
            await self.flush()

    def close(self) -> None:
        """Write the rest; blocks, as a task that is being cancelled must not await here. Raises StoreError."""
        self._thread.shutdown(wait=True)
        batch, self._waiting = self._waiting, []
        self._raise_error()  # of a transaction that nobody was left to wait for
        self._commit(batch)

    def _try_commit(self, batch: list[TileRecord]) -> None:
        try:
            self._commit(batch)
        except Exception as exc:
            self._error = exc

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _commit(self, batch: list[TileRecord]) -> None:
        self._store.put(batch)
        self._under_way.difference_update([record.tile for record in batch])
        for record in batch:
            if record.status == NOT_MODIFIED:
                self._report.not_modified += 1
            elif record.data is None:
                self._report.absent += 1
            else:
                self._report.kept += 1
                self._report.bytes += len(record.data)
