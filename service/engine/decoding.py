"""Decodes pictures: most in a pool of threads, large and risky ones one at a time in a process that can be ended.

Callers take turns before both. A picture waits for the process without its bytes: they are read again when it is its
turn. It knows nothing of the encoder's queue.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from retrieval.decoding.decoder import Abandoning, PictureDecoder
from retrieval.errors import DecodeMemoryError, DecoderError
from retrieval.locator import Locator
from retrieval.pictures.limits import PhotoLimits
from retrieval.pictures.photo import decode as decode_here
from retrieval.pictures.work import inspect
from retrieval.pipeline import DecodedPicture, decode, prepared, views_for
from retrieval.search.plan import SearchPlan
from retrieval.search.query import LocateQuery
from service.engine.shares import Turns
from service.engine.watch import Watch
from service.errors import DecoderEndedError, OutOfMemoryError
from service.settings import Settings

__all__ = ["Decoders"]


class Decoders:
    """The threads and the process. `recent_s`: recent average of decoding time per picture, in seconds."""

    def __init__(self, settings: Settings, watch: Watch) -> None:
        self.threads, self.recent_s = settings.decode_threads, 0.0
        self._limits = PhotoLimits(
            settings.max_image_bytes, settings.max_image_pixels, settings.accepted_formats(), settings.decode_memory
        )
        self._watch, self._timeout_s = watch, settings.decode_timeout_s
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="tilebeam-decode")
        # Pictures wait for a turn before they enter the pool's own queue, where the first would be served first. One
        # more than there are threads, so that no thread is idle.
        self._turns = Turns(self.threads + 1)
        self._decoder = PictureDecoder(settings.decode_memory, settings.decode_timeout_s)
        self._apart = ThreadPoolExecutor(1, thread_name_prefix="tilebeam-large")
        self._turns_apart = Turns(1)

    async def decode(self, locator: Locator, read: Callable[[], bytes], plan: SearchPlan, turn: str) -> DecodedPicture:
        """Read and decode a picture for a plan of this locator; those with the same `turn` wait for each other.

        Raises PhotoError, OutOfMemoryError, DecoderEndedError. If the caller is cancelled, a picture in the
        process is given up.
        """
        loop = asyncio.get_running_loop()
        async with self._turns.taken(turn):
            photo = await loop.run_in_executor(self._pool, self._ordinary, locator, read, plan)
        if photo is None:
            async with self._turns_apart.taken(turn):
                abandon = Abandoning()
                try:
                    photo = await loop.run_in_executor(self._apart, self._large, locator, read, plan, abandon)
                except asyncio.CancelledError:
                    abandon()
                    raise
        self.recent_s = 0.9 * self.recent_s + 0.1 * photo.decode_ms / 1000
        return photo

    async def decode_sample(self, locator: Locator, data: bytes) -> DecodedPicture:
        """Decode a picture of this program's own, whatever the operator's limits are."""

        def work() -> DecodedPicture:
            with self._watch.running("the decoding of a picture", self._timeout_s):
                return decode(locator, data, LocateQuery(register="off"))

        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """Finish running work but what is in the process, drop queued work, and stop threads and process."""
        self._apart.shutdown(wait=False, cancel_futures=True)
        self._decoder.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._apart.shutdown(wait=True)

    def _ordinary(self, locator: Locator, read: Callable[[], bytes], plan: SearchPlan) -> DecodedPicture | None:
        """In a thread of the pool: the picture, or None if it is for the process."""
        started = time.perf_counter()
        with self._watch.running("the decoding of a picture", self._timeout_s):
            data = read()
            views = views_for(locator, plan)
            work = inspect(data, self._limits, views)
            if not work.is_ordinary:
                return None
            try:
                return prepared(locator, plan, decode_here(data, work, views), started)
            except DecodeMemoryError as exc:
                raise OutOfMemoryError(str(exc)) from exc

    def _large(
        self, locator: Locator, read: Callable[[], bytes], plan: SearchPlan, abandoning: Abandoning
    ) -> DecodedPicture:
        """In the thread beside the process."""
        started = time.perf_counter()
        # A start of the process takes a while, too, on a machine that is busy.
        with self._watch.running("the decoding of a large picture", 2 * self._timeout_s):
            try:
                photo = self._decoder.read_apart(read(), self._limits, views_for(locator, plan), abandoning)
            except DecodeMemoryError as exc:
                raise OutOfMemoryError(str(exc)) from exc
            except DecoderError as exc:
                raise DecoderEndedError(str(exc)) from exc
            return prepared(locator, plan, photo, started)
