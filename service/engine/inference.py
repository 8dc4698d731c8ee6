"""Everything slow, off the event loop: a pool of threads that decode, and the queue before the one that encodes.

What waits is bounded: a request passes a gate before its body is read, and each picture takes a place before it is
decoded; who finds none is told at once when to ask again.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from typing import Any, TypeVar

from PIL import Image

from retrieval.encoders.photo import PhotoLimits
from retrieval.errors import QueryError
from retrieval.locator import Locator
from retrieval.pipeline import Outcome, Prepared, prepare
from retrieval.search.query import LocateQuery
from service.engine.limits import Gate, Slots
from service.engine.queue import ImageQueue, Lane
from service.errors import NotReadyError, OverloadedError
from service.ops.metrics import Metrics
from service.settings import Settings

_LONGEST_RETRY_S = 60
_log = logging.getLogger("tilebeam.service")
_T = TypeVar("_T")


class Inference:
    """The locator behind threads. `ready` tells whether the last inference on what is loaded succeeded."""

    def __init__(self, locator: Locator, settings: Settings, metrics: Metrics) -> None:
        self.locator = locator
        self._limits = PhotoLimits(settings.max_image_bytes, settings.max_image_pixels, settings.accepted_formats())
        self.requests = Gate(settings.max_in_flight, "requests", partial(self._overload, "requests"))
        self.batches = Gate(settings.max_batches, "batch requests", partial(self._overload, "batches"))
        self.slots = Slots(settings.max_queued_images, partial(self._overload, "images"))
        self.ready = False
        self._least_retry_s = settings.retry_after_s
        self._metrics = metrics
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="tilebeam-decode")
        self._decode_threads, self._decode_s = settings.decode_threads, 0.0
        # One more than the threads, for none to wait; a single picture never stands behind a whole batch.
        self._of_batches = asyncio.Semaphore(settings.decode_threads + 1)
        self._queue = ImageQueue(metrics, self._judge, lambda: (self._decode_s, self._decode_threads))
        self._checking = asyncio.Lock()
        metrics.read_queue_from(lambda: self.slots.single, lambda: self.slots.batch)
        about = locator.describe()
        metrics.set_index(about["id"], about["calibration_id"])

    async def prepare(self, read: Callable[[], bytes], query: LocateQuery, lane: Lane = "single") -> Prepared:
        """Decode what `read` returns, to be asked this, both in a decoding thread; raises PhotoError, QueryError."""
        locator = self.locator
        work = partial(self._in, self._decoders, lambda: prepare(locator, read(), self._limits, query))
        if lane == "single":
            photo = await work()
        else:
            async with self._of_batches:
                photo = await work()
        self._decode_s = 0.9 * self._decode_s + 0.1 * photo.decode_ms / 1000
        return photo

    async def locate(self, photo: Prepared, query: LocateQuery) -> dict[str, Any]:
        """The answer's JSON for one picture, encoded with whatever else waits; raises what its outcome is."""
        outcome = await self.submit([photo], query, "single")[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def submit(self, photos: Sequence[Prepared], query: LocateQuery, lane: Lane) -> "list[asyncio.Future[Outcome]]":
        """An outcome to come for each picture. Cancelling one takes its picture out, unless the encoder has it."""
        return self._queue.submit(photos, query, lane)

    def _judge(self, outcomes: list[Outcome]) -> None:
        """Learn from a group's outcomes whether what is loaded works."""
        for outcome in outcomes:
            if not isinstance(outcome, Exception):
                self.ready = True
                self._metrics.count_answer(outcome)
        if any(isinstance(outcome, Exception) and not isinstance(outcome, QueryError) for outcome in outcomes):
            self.ready = False

    async def check(self) -> None:
        """Run a real inference unless the last one succeeded; raises NotReadyError if it fails."""
        async with self._checking:
            if self.ready:
                return
            try:
                # The operator's limits are not asked: they may be smaller than the test picture.
                locator = self.locator
                photo = await self._in(self._decoders, lambda: prepare(locator, proof_picture(), PhotoLimits()))
                await self.locate(photo, LocateQuery())
            except Exception as error:
                _log.exception("the readiness inference failed")
                raise NotReadyError(
                    "an inference with the loaded index failed; the service's log has the reason"
                ) from error

    def adopt(self, locator: Locator) -> None:
        """Answer with this one, which has located a picture, from now on; what is in work ends on the one before."""
        self.locator, self.ready = locator, True
        about = locator.describe()
        self._metrics.set_index(about["id"], about["calibration_id"])

    def close(self) -> None:
        """Let what runs end, drop what waits, and stop the threads."""
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self._queue.close()

    def _overload(self, limit: str, count: str) -> OverloadedError:
        """The error of who finds no room; it says when what is in work will be done, by what was measured."""
        self._metrics.count_overload(limit)
        image_s = max(self._queue.image_s, self._decode_s / self._decode_threads)
        expected_s = math.ceil((self.slots.single + self.slots.batch) * image_s)
        retry_after_s = max(self._least_retry_s, min(expected_s, _LONGEST_RETRY_S))
        return OverloadedError(
            f"{count} are in progress, which is the limit; try again in {retry_after_s} s", retry_after_s
        )

    @staticmethod
    def _in(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> Awaitable[_T]:
        return asyncio.get_running_loop().run_in_executor(pool, work)


def proof_picture() -> bytes:
    """A picture to prove by that what is loaded works."""
    out = BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "JPEG")
    return out.getvalue()
