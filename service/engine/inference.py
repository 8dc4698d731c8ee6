"""Runs the slow work of a request in threads: a pool that decodes pictures, and the queue before the encoder.

Everything that a request holds is bounded, in all and per caller: uploads and their bytes while they arrive, a request
once its picture is there, each picture before it is decoded. What is beyond a limit is rejected at once with 503 and
`Retry-After`. Callers take turns before the decoders and before the encoder.
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

from retrieval.errors import DecodeMemoryError, QueryError
from retrieval.locator import Locator
from retrieval.pictures.limits import PhotoLimits
from retrieval.pipeline import DecodedPicture, Outcome, decode
from retrieval.search.query import LocateQuery
from service.engine.limits import Slots
from service.engine.queue import ImageQueue, Lane
from service.engine.shares import Shares, Turns
from service.errors import NotReadyError, OutOfMemoryError, OverloadedError, TooSlowError
from service.ops.metrics import Metrics
from service.settings import Settings

_MAX_RETRY_AFTER_S = 60
_log = logging.getLogger("tilebeam.service")


class Inference:
    """The locator behind threads. `ready`: whether the last inference with the loaded index succeeded."""

    def __init__(self, locator: Locator, settings: Settings, metrics: Metrics) -> None:
        self.locator = locator
        self._settings, self._metrics = settings, metrics
        self._limits = PhotoLimits(settings.max_image_bytes, settings.max_image_pixels, settings.accepted_formats())
        self.uploads = self._shares(settings.max_uploads, "uploads", "uploads")
        self.upload_bytes = self._shares(settings.max_upload_bytes, "bytes of pictures", "upload_bytes")
        self.requests = self._shares(settings.max_in_flight, "requests", "requests")
        self.batches = self._shares(settings.max_batches, "batch requests", "batches")
        self.spool_bytes = self._shares(settings.max_spool_bytes, "bytes of batches", "spool_bytes")
        self.slots = Slots(settings.max_queued_images, settings.caller_share, partial(self._overload, "images"))
        self.ready = False
        self._decoders = ThreadPoolExecutor(settings.decode_threads, thread_name_prefix="tilebeam-decode")
        self._decode_threads, self._decode_s = settings.decode_threads, 0.0
        # Pictures wait for a turn before they enter the pool's own queue, where the first would be served first. One
        # more than there are threads, so that no thread is idle.
        self._turns = Turns(settings.decode_threads + 1)
        self._queue = ImageQueue(
            metrics, self._update_ready, lambda: (self._decode_s, self._decode_threads), settings.search_timeout_s
        )
        self._checking = asyncio.Lock()
        metrics.read_queue_from(lambda: self.slots.single, lambda: self.slots.batch)
        self._export_index()

    async def decode(
        self, read: Callable[[], bytes], query: LocateQuery, caller: str, lane: Lane = "single"
    ) -> DecodedPicture:
        """Read and decode a picture in a decoding thread; raises PhotoError, QueryError, OutOfMemoryError."""
        locator, loop = self.locator, asyncio.get_running_loop()

        def work() -> DecodedPicture:
            try:
                return decode(locator, read(), query, self._limits)
            except DecodeMemoryError as exc:
                raise OutOfMemoryError(str(exc)) from exc

        async with self._turns.taken(f"{lane} {caller}"):
            photo = await loop.run_in_executor(self._decoders, work)
        self._decode_s = 0.9 * self._decode_s + 0.1 * photo.decode_ms / 1000
        return photo

    async def locate(self, photo: DecodedPicture, caller: str) -> dict[str, Any]:
        """The answer for a single picture; raises the error that prevented it."""
        outcome = await self.submit([photo], caller, "single")[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def submit(self, photos: Sequence[DecodedPicture], caller: str, lane: Lane) -> "list[asyncio.Future[Outcome]]":
        """Queue decoded pictures; see `ImageQueue.submit`."""
        return self._queue.submit(photos, caller, lane)

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
                await self.locate(photo, "readiness")
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

    def _shares(self, limit: int, unit: str, bound: str) -> Shares:
        return Shares(limit, self._settings.caller_share, unit, partial(self._overload, bound))

    def _update_ready(self, outcomes: list[Outcome]) -> None:
        """Count a group's answers, and set `ready`: what a query causes is the client's fault, other errors are not."""
        for outcome in outcomes:
            if not isinstance(outcome, Exception):
                self.ready = True
                self._metrics.count_answer(outcome)
        if any(isinstance(each, Exception) and not isinstance(each, QueryError | TooSlowError) for each in outcomes):
            self.ready = False

    def _overload(self, bound: str, reached: str) -> OverloadedError:
        """The error for a reached limit. `Retry-After` is the expected time until all pictures in progress are done."""
        self._metrics.count_overload(bound)
        image_s = max(self._queue.image_s, self._decode_s / self._decode_threads)
        expected_s = math.ceil((self.slots.single + self.slots.batch) * image_s)
        retry_after_s = max(self._settings.retry_after_s, min(expected_s, _MAX_RETRY_AFTER_S))
        return OverloadedError(f"{reached}; try again in {retry_after_s} s", retry_after_s)


def sample_picture() -> bytes:
    """A picture to test an index with."""
    out = BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "JPEG")
    return out.getvalue()
