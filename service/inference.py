"""Everything slow, off the event loop: a pool of threads that decode, and one thread that encodes and searches.

One engine thread, because PyTorch and FAISS spread each call over the cores themselves; two calls at once would only
fight. What waits is bounded by the gates: a request passes one before its body is read, or is refused at once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from typing import Any, TypeVar

from PIL import Image

from indexer.retrieval.errors import QueryError
from indexer.retrieval.locator import Locator
from indexer.retrieval.photo import PhotoLimits
from indexer.retrieval.query import LocateQuery
from service.errors import NotReadyError, OverloadedError
from service.metrics import Metrics
from service.pipeline import Prepared, locate_group, prepare
from service.settings import Settings

__all__ = ["Gate", "Inference", "Outcome"]

Outcome = dict[str, Any] | Exception
"""What became of one photo of a group: the answer's JSON, or why there is none."""

_log = logging.getLogger("tilebeam.service")
_T = TypeVar("_T")


class Gate:
    """At most `limit` inside at once; whoever comes then is refused at once instead of waiting."""

    def __init__(self, limit: int, what: str, retry_after_s: int) -> None:
        self._limit = limit
        self._what = what
        self._retry_after_s = retry_after_s
        self.inside = 0

    def enter(self) -> None:
        """Take a place, or raise OverloadedError; `leave` gives it back."""
        if self.inside >= self._limit:
            raise OverloadedError(
                f"{self.inside} {self._what} are in work, the most allowed; ask again in {self._retry_after_s} s",
                self._retry_after_s,
            )
        self.inside += 1

    def leave(self) -> None:
        """Give a place back."""
        self.inside -= 1

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place while the block runs."""
        self.enter()
        try:
            yield
        finally:
            self.leave()


class Inference:
    """The locator behind threads. `ready` tells whether the last inference on what is loaded succeeded."""

    def __init__(self, locator: Locator, settings: Settings, metrics: Metrics) -> None:
        self.locator = locator
        self._limits = PhotoLimits(settings.max_image_bytes, settings.max_image_pixels)
        self.requests = Gate(settings.max_in_flight, "requests", settings.retry_after_s)
        self.batches = Gate(settings.max_batches, "batch requests", settings.retry_after_s)
        self.ready = False
        self._metrics = metrics
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="tilebeam-decode")
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="tilebeam-engine")
        self._checking = asyncio.Lock()

    async def prepare(self, read: Callable[[], bytes]) -> Prepared:
        """Decode what `read` returns, both in a decoding thread; raises PhotoError."""
        return await self._in(self._decoders, lambda: prepare(self.locator, read(), self._limits))

    async def locate(self, photos: Sequence[Prepared], query: LocateQuery) -> list[dict[str, Any]]:
        """Encode and search in the engine thread: a JSON answer each. The seam where micro-batching will go."""
        try:
            found = await self._in(self._engine, lambda: locate_group(self.locator, photos, query))
        except QueryError:
            raise
        except Exception:
            self.ready = False
            raise
        self.ready = True
        for answer in found:
            self._metrics.located(answer["timing_ms"])
        return found

    async def locate_each(self, photos: Sequence[Prepared], query: LocateQuery) -> list[Outcome]:
        """Like `locate`, but a photo that breaks the group is found out and the others are answered."""
        if not photos:
            return []
        try:
            return list(await self.locate(photos, query))
        except Exception as error:
            if len(photos) == 1:
                return [error]
        return [outcome for photo in photos for outcome in await self.locate_each([photo], query)]

    async def check(self) -> None:
        """Run a real inference unless the last one succeeded; raises NotReadyError if it fails."""
        async with self._checking:
            if self.ready:
                return
            try:
                # The operator's limits are not asked: they may be smaller than the test picture.
                photo = await self._in(self._decoders, lambda: prepare(self.locator, _test_picture(), PhotoLimits()))
                await self.locate([photo], LocateQuery())
            except Exception as error:
                _log.exception("the readiness inference failed")
                raise NotReadyError(
                    "an inference on what is loaded has failed; the service's log has the reason"
                ) from error

    def close(self) -> None:
        """Let what runs end, drop what waits, and stop the threads."""
        for pool in (self._decoders, self._engine):
            pool.shutdown(wait=True, cancel_futures=True)

    @staticmethod
    def _in(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> Awaitable[_T]:
        return asyncio.get_running_loop().run_in_executor(pool, work)


def _test_picture() -> bytes:
    out = BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "JPEG")
    return out.getvalue()
