"""Runs the slow work of a request: the decoders, and the queue before the encoder.

Everything that a request holds is bounded, in all and per caller: uploads and their bytes while they arrive, a request
once its picture is there, each picture before it is decoded. What is beyond a limit is rejected at once with 503 and
`Retry-After`. Callers take turns before the decoders and before the encoder.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from io import BytesIO
from typing import Any

from PIL import Image

from retrieval.errors import QueryError
from retrieval.locator import Locator
from retrieval.pipeline import DecodedPicture, Outcome, Searched
from retrieval.search.plan import SearchPlan
from retrieval.search.query import LocateQuery
from service.engine.decoding import Decoders
from service.engine.limits import Slots
from service.engine.queue import ImageQueue, Lane
from service.engine.registering import Registering
from service.engine.shares import Shares
from service.engine.watch import Watch
from service.errors import NotReadyError, OverloadedError, TooSlowError
from service.ops.metrics import Metrics
from service.settings import Settings

_MAX_RETRY_AFTER_S = 60
_log = logging.getLogger("tilebeam.service")


class Inference:
    """The locator behind threads. `ready`: whether the last inference with the loaded index succeeded."""

    def __init__(self, locator: Locator, settings: Settings, metrics: Metrics) -> None:
        self.locator = locator
        self._settings, self._metrics = settings, metrics
        self.uploads = self._shares(settings.max_uploads, "uploads", "uploads")
        self.upload_bytes = self._shares(settings.max_upload_bytes, "bytes of pictures", "upload_bytes")
        self.requests = self._shares(settings.max_in_flight, "requests", "requests")
        self.batches = self._shares(settings.max_batches, "batch requests", "batches")
        self.spool_bytes = self._shares(settings.max_spool_bytes, "bytes of batches", "spool_bytes")
        self.slots = Slots(settings.max_queued_images, settings.caller_share, partial(self._overload, "images"))
        self.ready = False
        self._watch = Watch()
        self._decoders = decoders = Decoders(settings, self._watch)
        self._queue = ImageQueue(
            metrics,
            self._update_ready,
            lambda: (decoders.recent_s, decoders.threads),
            settings.search_timeout_s,
            lambda pictures: self._watch.running("a call of the engine", self._longest_s(pictures)),
        )
        self.registering = Registering(
            locator, settings, metrics, self._watch, partial(self._overload, "registrations"), self.submit
        )
        self._checking = asyncio.Lock()
        metrics.read_queue_from(lambda: self.slots.single, lambda: self.slots.batch)
        self._export_index()

    def plan(self, query: LocateQuery) -> SearchPlan:
        """Resolve a query against the loaded index; see `Locator.plan`."""
        return self.locator.plan(query, self.registering.registrar)

    async def decode(
        self, read: Callable[[], bytes], query: LocateQuery, caller: str, lane: Lane = "single"
    ) -> DecodedPicture:
        """Read and decode a picture, see `Decoders.decode`. `read` is called in another thread, and may be again."""
        return await self._decoders.decode(self.locator, read, self.plan(query), f"{lane} {caller}")

    async def locate(self, photo: DecodedPicture, caller: str) -> dict[str, Any]:
        """The answer for a single picture; raises the error that prevented it."""
        outcome = await self.submit([photo], caller, "single")[0]
        if isinstance(outcome, Exception):
            raise outcome
        return await self.registered(outcome, caller, "single") if isinstance(outcome, Searched) else outcome

    async def registered(self, searched: Searched, caller: str, lane: Lane, *, in_time: bool = True) -> dict[str, Any]:
        """The answer after registration; see `Registering.answer`."""
        answer = await self.registering.answer(searched, caller, lane, in_time=in_time)
        self._metrics.count_answer(answer)
        return answer

    def submit(self, photos: Sequence[DecodedPicture], caller: str, lane: Lane) -> "list[asyncio.Future[Outcome]]":
        """Queue decoded pictures; see `ImageQueue.submit`."""
        return self._queue.submit(photos, caller, lane)

    async def check(self) -> None:
        """Run an inference unless the last one succeeded; raises NotReadyError if it fails, or if a call is stuck."""
        if (overdue := self._watch.overdue()) is not None:
            raise NotReadyError(f"{overdue}: restart the service if this does not pass")
        async with self._checking:
            if self.ready:
                return
            try:
                async with asyncio.timeout(self._settings.request_timeout_s):
                    photo = await self._decoders.decode_sample(self.locator, sample_picture())
                    await self.locate(photo, "readiness")
            except Exception as error:
                _log.exception("the readiness inference failed")
                raise NotReadyError(
                    "an inference with the loaded index failed; the service's log has the reason"
                ) from error

    def adopt(self, locator: Locator) -> None:
        """Use this locator, which has located a picture, from now on. Pictures in progress finish with the old one."""
        self.locator, self.ready = locator, True
        self.registering.adopt(locator)
        self._export_index()

    def close(self) -> None:
        """Finish running work, drop queued work, and stop the threads."""
        self._decoders.close()
        self._queue.close()
        self.registering.close()

    def _export_index(self) -> None:
        about = self.locator.describe()
        self._metrics.set_index(about["id"], about["calibration_id"])

    def _longest_s(self, pictures: int) -> float:
        """How long a group of so many pictures may take."""
        return max(self._settings.request_timeout_s, self._settings.search_timeout_s * pictures)

    def _shares(self, limit: int, unit: str, bound: str) -> Shares:
        return Shares(limit, self._settings.caller_share, unit, partial(self._overload, bound))

    def _update_ready(self, outcomes: list[Outcome]) -> None:
        """Count a group's answers, and set `ready`: what a query causes is the client's fault, other errors are not."""
        for outcome in outcomes:
            if not isinstance(outcome, Exception):
                self.ready = True
            if isinstance(outcome, dict):  # the others are counted once they are registered
                self._metrics.count_answer(outcome)
        if any(isinstance(each, Exception) and not isinstance(each, QueryError | TooSlowError) for each in outcomes):
            self.ready = False

    def _overload(self, bound: str, reached: str) -> OverloadedError:
        """The error for a reached limit. `Retry-After` is the expected time until all pictures in progress are done."""
        self._metrics.count_overload(bound)
        image_s = max(self._queue.image_s, self._decoders.recent_s / self._decoders.threads)
        expected_s = math.ceil((self.slots.single + self.slots.batch) * image_s)
        retry_after_s = max(self._settings.retry_after_s, min(expected_s, _MAX_RETRY_AFTER_S))
        return OverloadedError(f"{reached}; try again in {retry_after_s} s", retry_after_s)


def sample_picture() -> bytes:
    """A picture to test an index with."""
    out = BytesIO()
    Image.linear_gradient("L").convert("RGB").save(out, "JPEG")
    return out.getvalue()
