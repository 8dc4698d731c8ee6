"""Work for the fetcher: `Feed` chooses the next tile to request, `BatchWriter` writes responses in transactions.

A plan may have millions of tiles: `Feed` holds at most one slice of codes, and `BatchWriter` at most one batch of
responses. Both use the store in threads, so the event loop is not blocked. They share the set `under_way` of tiles that
were given to a worker and are not written yet. They know nothing of HTTP.

A run in which every tile is absent is more likely a wrong address or a broken server than an empty Earth. So absences
are written only when an image has come; without any, none is remembered, and no stored image is deleted.
"""

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from tile_cache.addressing import Tile, code_of_tile, tile_of_code
from tile_cache.errors import SourceError, SourceUnavailableError, StoreError
from tile_cache.fetch.settings import FetchReport, FetchSettings
from tile_cache.mbtiles import NOT_MODIFIED, TileRecord, TileStore
from tile_cache.repeats import Repeats, picture_hash
from tile_cache.source import SourceInfo

__all__ = ["BatchWriter", "Feed"]

Codes = NDArray[np.uint64]
_SLICE = 50_000

_MOST_ABSENT = 100_000
"""Absent tiles that wait for the first image; more of them need too much memory."""


class Feed:
    """The tiles of `chunks`, (zoom, (n,) uint64 codes) each, that the store lacks or (with refresh) have expired."""

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
        self._z, self._codes, self._position = 0, np.empty(0, dtype=np.uint64), 0

    async def next(self) -> Tile | None:
        """The next tile to request; None at the end of the plan."""
        async with self._lock:
            while self._position >= len(self._codes):
                following = await asyncio.to_thread(next, self._slices, None)
                if following is None:
                    return None
                (self._z, self._codes), self._position = following, 0
            tile = tile_of_code(int(self._codes[self._position]), self._z)
            self._position += 1
            self._under_way.add(tile)
            return tile

    def give_up(self, tile: Tile) -> None:
        """Note that nothing will be written for a tile."""
        self._under_way.discard(tile)

    def _sliced(self, chunks: Iterable[tuple[int, Codes]]) -> Iterator[tuple[int, Codes]]:
        for z, codes in chunks:
            self._check_zoom(z)
            for start in range(0, len(codes), _SLICE):
                yield z, self._wanted(z, np.unique(np.asarray(codes[start : start + _SLICE], dtype=np.uint64)))

    def _wanted(self, z: int, codes: Codes) -> Codes:
        # `under_way` is read before the store. A tile that leaves it in between has been written, so the store has it,
        # and no tile that the plan names twice is requested twice.
        under_way = [code_of_tile(t) for t in self._under_way.copy() if t.z == z]
        unknown = self._store.unknown(codes, z)
        absent = self._store.absent(codes, z)
        wanted = unknown
        if self._settings.refresh:
            stale = self._store.stale(codes, z, self._now, self._settings.default_age_s)
            wanted = np.union1d(wanted, np.union1d(stale, absent))
        wanted = np.setdiff1d(wanted, np.array(under_way, dtype=np.uint64), assume_unique=True)
        if len(wanted) and self._store.read_only:
            raise StoreError(
                f"{self._store.path} cannot be written, and {len(wanted):,} tiles of zoom {z} are not in it: copy it to"
                " a folder that can be written, or give another --cache"
            )
        self._report.planned += len(codes)
        self._report.known += len(codes) - len(wanted)
        self._report.stored += len(codes) - len(unknown) - len(absent)
        return wanted

    def _check_zoom(self, z: int) -> None:
        if not self._info.min_zoom <= z <= self._info.max_zoom:
            span = f"{self._info.min_zoom} to {self._info.max_zoom}"
            raise SourceError(f"{self._info.name} has zooms {span}, not {z}: choose zooms in this range")


class BatchWriter:
    """Collects responses, and writes them in one transaction when a batch is full or `flush_s` has passed."""

    def __init__(self, store: TileStore, settings: FetchSettings, report: FetchReport, under_way: set[Tile]) -> None:
        self._store, self._settings, self._report, self._under_way = store, settings, report, under_way
        self._waiting: list[TileRecord] = []
        self._absent: list[TileRecord] = []  # until an image has come
        self._images = 0
        self.repeats = Repeats()
        # One thread, so that transactions do not overlap and closing can wait for the current one.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tile-writer")
        self._error: Exception | None = None

    async def add(self, record: TileRecord) -> None:
        """Add a response, and write the batch if it is full. Raises StoreError or SourceUnavailableError."""
        if record.data is None and record.status != NOT_MODIFIED:
            self._report.miss(record.tile, record.status)
            self._absent.append(record)
            if not self._images:
                self._check_absent()
                return
        else:
            self._images += 1
            self._waiting.append(record)
        self._waiting += self._absent
        self._absent = []
        if len(self._waiting) >= self._settings.batch_tiles:
            await self.flush()

    def _check_absent(self) -> None:
        """Give up if there is no image among very many tiles; but a run that only completes others may go on."""
        if len(self._absent) < _MOST_ABSENT:
            return
        if self._settings.refresh or not self._report.stored:
            raise SourceUnavailableError(f"the first {_MOST_ABSENT:,} tiles are all absent, and none is remembered so")
        self._images += 1

    async def flush(self) -> None:
        """Write the collected responses. Raises StoreError."""
        batch, self._waiting = self._waiting, []
        if batch:
            # Shielded, because cancelling this await would cancel a transaction that has not begun, and lose its tiles.
            await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._thread, self._try_commit, batch))
            self._raise_error()

    async def flush_regularly(self) -> None:
        """Flush every `flush_s` seconds until cancelled."""
        while True:
            await asyncio.sleep(self._settings.flush_s)
            await self.flush()

    def close(self) -> None:
        """Write the rest. This blocks, because a task that is being cancelled must not await. Raises StoreError."""
        self._thread.shutdown(wait=True)
        batch, self._waiting = self._waiting, []
        self._raise_error()  # of a transaction that no task waited for
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
            elif record.data is not None:
                self._report.kept += 1
                self._report.bytes += len(record.data)
                sha256 = picture_hash(record.data)
                self.repeats.add(sha256, record.tile)
                self._report.placeholders += sha256 in self._settings.absent_images
