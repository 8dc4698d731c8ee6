"""The queue before the encoder. Groups form while the encoder is busy; a picture that finds it idle enters at once.

Used on the event loop only. Groups run in one engine thread: PyTorch and FAISS spread each call over all cores
themselves, so two calls at a time would only compete. Pictures with an expensive search have a thread and a lane of
their own, one at a time, so that no other picture waits for them. It knows nothing of HTTP.
"""

import asyncio
import math
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from retrieval.encoders.threads import available_threads, limited_threads, threads_beside_decoding
from retrieval.errors import SearchTimeoutError
from retrieval.locator import Locator
from retrieval.pipeline import DecodedPicture, Outcome, locate
from service.engine.shares import TurnQueue
from service.errors import NotReadyError, TooSlowError
from service.ops.metrics import Metrics

Lane = Literal["single", "batch"]
"""Whether a picture was sent alone or in a batch."""

_BATCH_EVERY = 4
"""If pictures of both lanes wait, every fourth one is taken from a batch: batches progress, and single ones hardly
notice."""
_GROUP_S = 0.25
"""A group has as many pictures as the encoder processes in this time, so a new picture waits no longer than that."""
_MIN_GROUP = 8
"""Groups may always have this many pictures: smaller ones lose the advantage of groups."""
_BESIDE_BATCH = 2
"""Pictures in a group while single ones come and batches wait: each single one waits for the group that runs to end,
and for its own. Batches then take some tenths longer."""
_SINGLE_S = 1.0
"""Single pictures come as long as the last one was queued less than this ago."""


@dataclass(eq=False)
class _Queued:
    photo: DecodedPicture
    caller: str
    outcome: "asyncio.Future[Outcome]"
    since: float = field(default_factory=time.perf_counter)


class ImageQueue:
    """Locates decoded pictures, group by group. `on_outcomes` is called with each group's outcomes first.

    `image_s`: recent average of engine time per picture, in seconds; 0 before the first. `decoding`: returns decoding
    time per picture, in seconds, and the number of decoding threads. `search_timeout_s`: a longer search is ended.
    `watched`: a context in which a group of so many pictures is located.
    """

    def __init__(
        self,
        metrics: Metrics,
        on_outcomes: Callable[[list[Outcome]], None],
        decoding: Callable[[], tuple[float, int]],
        search_timeout_s: float,
        watched: Callable[[int], AbstractContextManager[None]],
    ) -> None:
        self.image_s = 0.0
        self._decoding = decoding
        self._metrics = metrics
        self._on_outcomes = on_outcomes
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="tilebeam-engine")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="tilebeam-expensive")
        self._search_timeout_s, self._watched = search_timeout_s, watched
        self._lanes: dict[Lane, TurnQueue[_Queued]] = {"single": TurnQueue(), "batch": TurnQueue()}
        self._expensive: TurnQueue[_Queued] = TurnQueue()
        self._taken = 0
        self._last_single_s = -math.inf
        self._busy = self._is_aside_busy = False
        self._used_threads = available_threads()
        # A weak reference, so that an index is freed after it was replaced.
        self._tuned_locator: Callable[[], Locator | None] = lambda: None

    def submit(self, photos: Sequence[DecodedPicture], caller: str, lane: Lane) -> "list[asyncio.Future[Outcome]]":
        """Queue pictures; a future for each outcome. Cancelling a future removes its picture unless it is encoded.

        Callers take turns; the pictures of one caller keep their order.
        """
        loop = asyncio.get_running_loop()
        if lane == "single":
            self._last_single_s = time.monotonic()
        added = [_Queued(photo, caller, loop.create_future()) for photo in photos]
        for item in added:
            queue = self._expensive if item.photo.plan.is_expensive else self._lanes[lane]
            queue.add(item, caller)
            item.outcome.add_done_callback(partial(self._remove, item, queue))
        self._start_group()
        self._start_expensive()
        return [item.outcome for item in added]

    def close(self) -> None:
        """Finish the running groups, drop queued pictures, and stop the threads."""
        self._busy = self._is_aside_busy = True
        self._engine.shutdown(wait=True, cancel_futures=True)
        self._aside.shutdown(wait=True, cancel_futures=True)

    def _remove(self, item: _Queued, queue: TurnQueue[_Queued], outcome: "asyncio.Future[Outcome]") -> None:
        queue.remove(item, item.caller)

    def _start_expensive(self) -> None:
        """Give the thread beside the engine the next picture with an expensive search, if it is idle."""
        while self._expensive and not self._is_aside_busy:
            item = self._expensive.take()
            if item.outcome.done():
                continue
            self._is_aside_busy = True
            self._metrics.count_group([time.perf_counter() - item.since])
            done = asyncio.get_running_loop().run_in_executor(self._aside, self._locate_aside, [item.photo])
            done.add_done_callback(partial(self._finish_expensive, item))

    def _locate_aside(self, pictures: list[DecodedPicture]) -> tuple[list[Outcome], float]:
        """In the thread beside the engine: the outcome of one picture, on one core, as the engine goes on."""
        started = time.perf_counter()
        with self._watched(len(pictures)), limited_threads(1):
            return locate(pictures, self._search_timeout_s), time.perf_counter() - started

    def _finish_expensive(self, item: _Queued, done: "asyncio.Future[tuple[list[Outcome], float]]") -> None:
        if not done.cancelled():
            self._is_aside_busy = False
            self._start_expensive()
        self._deliver([item], done)

    def _start_group(self) -> None:
        """Give the engine the next group, if it is idle."""
        if self._busy or not (group := self._next_group()):
            return
        self._busy, now = True, time.perf_counter()
        self._metrics.count_group([now - item.since for item in group])
        pictures = [item.photo for item in group]
        done = asyncio.get_running_loop().run_in_executor(self._engine, self._locate, pictures)
        done.add_done_callback(partial(self._finish_group, group))

    def _locate(self, pictures: list[DecodedPicture]) -> tuple[list[Outcome], float]:
        """In the engine thread: the outcomes of a group, and the seconds per picture."""
        with self._watched(len(pictures)):
            return self._located(pictures)

    def _located(self, pictures: list[DecodedPicture]) -> tuple[list[Outcome], float]:
        locator = pictures[0].locator
        if locator is not self._tuned_locator():
            tune = getattr(locator.encoder, "tune_for_single", None)  # not every encoder has a choice
            if tune is not None:
                tune()
            self._tuned_locator = weakref.ref(locator)
        started = time.perf_counter()
        with limited_threads(self._encoder_threads() if len(pictures) > 1 else None):
            outcomes = locate(pictures, self._search_timeout_s)
        return outcomes, (time.perf_counter() - started) / len(pictures)

    def _encoder_threads(self) -> int | None:
        """Number of threads to encode a group with; None: all. See `retrieval.encoders.threads`."""
        decode_s, decode_threads = self._decoding()
        if not (self.image_s and decode_s):
            return None
        encode_s = self.image_s * self._used_threads
        self._used_threads = threads_beside_decoding(encode_s, decode_s, decode_threads)
        return self._used_threads

    def _next_group(self) -> list[_Queued]:
        """Take the next pictures from the lanes, all of one index: a reload may have changed it in between.

        While single pictures come and batches wait, groups are small.
        """
        group: list[_Queued] = []
        while (lane := self._next_lane()) and (not group or len(group) < self._group_limit(group[0])):
            item = lane.first()
            if group and item.photo.locator is not group[0].photo.locator:
                break
            lane.take()
            if not item.outcome.done():
                group.append(item)
                self._taken += 1
        return group

    def _next_lane(self) -> TurnQueue[_Queued]:
        """The lane to take the next picture from; empty only if both are."""
        preferred, other = self._lanes["single"], self._lanes["batch"]
        if self._taken % _BATCH_EVERY == _BATCH_EVERY - 1:
            preferred, other = other, preferred
        return preferred or other

    def _group_limit(self, item: _Queued) -> int:
        if self._lanes["batch"] and time.monotonic() - self._last_single_s < _SINGLE_S:
            return _BESIDE_BATCH
        size = item.photo.locator.encoder.batch_size
        return min(size, max(_MIN_GROUP, int(_GROUP_S / self.image_s))) if self.image_s else size

    def _finish_group(self, group: list[_Queued], done: "asyncio.Future[tuple[list[Outcome], float]]") -> None:
        if not done.cancelled():
            if done.exception() is None:
                image_s = done.result()[1]
                self.image_s = 0.8 * self.image_s + 0.2 * image_s if self.image_s else image_s
            self._busy = False
            self._start_group()  # before anything else, so that the encoder does not wait
        self._deliver(group, done)

    def _deliver(self, group: list[_Queued], done: "asyncio.Future[tuple[list[Outcome], float]]") -> None:
        """Give each picture of a group that ended its outcome."""
        if done.cancelled():  # by `close`
            outcomes: list[Outcome] = [NotReadyError("the service is stopping") for _ in group]
        else:
            if (error := done.exception()) is None:
                outcomes = [_as_too_slow(o) if isinstance(o, SearchTimeoutError) else o for o in done.result()[0]]
            else:  # a failure of the engine itself: answer with it, so that no request waits forever
                outcomes = [_as_exception(error) for _ in group]
            self._on_outcomes(outcomes)
        for item, outcome in zip(group, outcomes, strict=True):
            if not item.outcome.done():
                item.outcome.set_result(outcome)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(f"the engine thread ended with {error!r}")


def _as_too_slow(error: SearchTimeoutError) -> TooSlowError:
    too_slow = TooSlowError(str(error))
    too_slow.__cause__ = error
    return too_slow
