"""Runs the slow work of a request in threads: a pool that decodes pictures, and the queue before the encoder.

Queued work is bounded twice: a request acquires a slot before its body is read, and each picture acquires a slot
before it is decoded. If no slot is free, a request is rejected at once with 503 and `Retry-After`.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from typing import Any

from PIL import Image

from retrieval.encoders.photo import PhotoLimits
from retrieval.errors import QueryError
from retrieval.locator import Locator
from retrieval.pipeline import DecodedPicture, Outcome, decode
from retrieval.search.query import LocateQuery
from service.engine.limits import Gate, Slots
from service.engine.queue import ImageQueue, Lane
from service.errors import NotReadyError, OverloadedError
from service.ops.metrics import Metrics
from service.settings import Settings

_MAX_RETRY_AFTER_S = 60
_log = logging.getLogger("tilebeam.service")


class Inference:
    """The locator behind threads. `ready`: whether the last inference with the loaded index succeeded."""

    def __init__(self, locator: Locator, settings: Settings, metrics: Metrics) -> None:
        self.locator = locator
        self._limits = PhotoLimits(settings.max_image_bytes, settings.max_image_pixels, settings.accepted_formats())
        self.requests = Gate(settings.max_in_flight, "requests", partial(self._overload, "requests"))
        self.batches = Gate(settings.max_batches, "batch requests", partial(self._overload, "batches"))
        self.slots = Slots(settings.max_queued_images, partial(self._overload, "images"))
        self.ready = False
        self._min_retry_after_s = settings.retry_after_s
        self._metrics = metrics
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="tilebeam-decode")
        self._decode_threads, self._decode_s = settings.decode_threads, 0.0
        # Bounds the batch pictures in the pool's queue, so that a single picture never waits behind a whole batch. One
        # more than there are threads, so that no thread is idle.
        self._batch_decodes = asyncio.Semaphore(settings.decode_threads + 1)
        self._queue = ImageQueue(metrics, self._update_ready, lambda: (self._decode_s, self._decode_threads))
        self._checking = asyncio.Lock()
        metrics.read_queue_from(lambda: self.slots.single, lambda: self.slots.batch)
        self._export_index()

    async def decode(self, read: Callable[[], bytes], query: LocateQuery, lane: Lane = "single") -> DecodedPicture:
        """Read and decode a picture in a decoding thread; raises PhotoError, QueryError."""
        locator, loop = self.locator, asyncio.get_running_loop()

        def work() -> DecodedPicture:
            return decode(locator, read(), query, self._limits)

        if lane == "single":
            photo = await loop.run_in_executor(self._decoders, work)
        else:
            async with self._batch_decodes:
                photo = await loop.run_in_executor(self._decoders, work)
        self._decode_s = 0.9 * self._decode_s + 0.1 * photo.decode_ms / 1000
        return photo

    async def locate(self, photo: DecodedPicture) -> dict[str, Any]:
        """The answer for a single picture; raises the error that prevented it."""
        outcome = await self.submit([photo], "single")[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def submit(self, photos: Sequence[DecodedPicture], lane: Lane) -> "list[asyncio.Future[Outcome]]":
        """Queue decoded pictures; see `ImageQueue.submit`."""
        return self._queue.submit(photos, lane)

    async def check(self) -> None:
        """Run an inference unless the last one succeeded; raises NotReadyError if it fails."""
        async with self._checking:
            if self.ready:
                return
            try:
                # With default limits: the operator's may be smaller than the test picture.
                locator = self.locator
                loop = asyncio.get_running_loop()
                photo = await loop.run_in_executor(self._decoders, lambda: decode(locator, sample_picture()))
                await self.locate(photo)
            except Exception as error:
                _log.exception("the readiness inference failed")
                raise NotReadyError(
                    "an inference with the loaded index failed; the service's log has the reason"
                ) from error

    def adopt(self, locator: Locator) -> None:
        """Use this locator, which has located a picture, from now on. Pictures in progress finish with the old one."""
        self.locator, self.ready = locator, True
        self._export_index()

    def close(self) -> None:
        """Finish running work, drop queued work, and stop the threads."""
        self._decoders.shutdown(wait=True, cancel_futures=True)
        self._queue.close()

    def _export_index(self) -> None:
        about = self.locator.describe()
        self._metrics.set_index(about["id"], about["calibration_id"])

    def _update_ready(self, outcomes: list[Outcome]) -> None:
        """Count a group's answers, and set `ready`: QueryErrors are the client's fault, other errors are not."""
        for outcome in outcomes:
            if not isinstance(outcome, Exception):
                self.ready = True
                self._metrics.count_answer(outcome)
        if any(isinstance(outcome, Exception) and not isinstance(outcome, QueryError) for outcome in outcomes):
            self.ready = False

    def _overload(self, limit: str, count: str) -> OverloadedError:
        """The error for a reached limit. `Retry-After` is the expected time until all pictures in progress are done."""
        self._metrics.count_overload(limit)
        image_s = max(self._queue.image_s, self._decode_s / self._decode_threads)
        expected_s = math.ceil((self.slots.single + self.slots.batch) * image_s)
        retry_after_s = max(self._min_retry_after_s, min(expected_s, _MAX_RETRY_AFTER_S))
        message = f"{count} are in progress, which is the limit; try again in {retry_after_s} s"
        return OverloadedError(message, retry_after_s)


def sample_picture() -> bytes:
    """A picture to test an index with."""
    out = BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "JPEG")
    return out.getvalue()
