"""The one queue before the encoder: groups form while it is busy, and whoever comes while it is idle goes in at once.

Used on the event loop alone; the groups are worked on in the one engine thread, because PyTorch and FAISS spread each
call over the cores themselves, and two calls at once would only fight. It knows nothing of HTTP.
"""

import asyncio
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from retrieval.encoders.threads import all_threads, threads
from retrieval.locator import Locator
from retrieval.pipeline import Outcome, Prepared, locate_mixed
from retrieval.search.query import LocateQuery
from service.errors import NotReadyError
from service.ops.metrics import Metrics

__all__ = ["ImageQueue", "Lane"]

Lane = Literal["single", "batch"]
"""Whether a picture came alone or with others."""

_BATCH_TURN = 4
"""Where both lanes wait, every fourth picture is of a batch: batches go on, and single ones hardly notice."""
_GROUP_S = 0.25
"""A group is as large as the encoder works on for so long, by what was measured: a newcomer waits no longer for it."""
_LEAST = 8
"""Pictures that a group may always have: fewer would waste what a group saves."""


@dataclass(eq=False)
class _Asked:
    photo: Prepared
    query: LocateQuery
    answer: "asyncio.Future[Outcome]"
    since: float = field(default_factory=time.perf_counter)


class ImageQueue:
    """Decoded pictures to outcomes, which `judge` sees first, group by group.

    `image_s` is what a picture costs the engine lately, in seconds; 0 at first. `decoding` tells what one costs a
    thread that decodes, and how many of those there are.
    """

    def __init__(
        self, metrics: Metrics, judge: Callable[[list[Outcome]], None], decoding: Callable[[], tuple[float, int]]
    ) -> None:
        self.image_s = 0.0
        self._decoding = decoding
        self._metrics = metrics
        self._judge = judge
        self._engine = ThreadPoolExecutor(1, thread_name_prefix="tilebeam-engine")
        self._lanes: dict[Lane, dict[_Asked, None]] = {"single": {}, "batch": {}}
        self._picked = 0
        self._busy = False
        self._used = all_threads()
        self._expecting: Callable[[], Locator | None] = lambda: None  # weakly: an index that was replaced is freed

    def submit(self, photos: Sequence[Prepared], query: LocateQuery, lane: Lane) -> "list[asyncio.Future[Outcome]]":
        """An outcome to come for each. Cancelling one takes its picture out, unless the encoder has it already."""
        loop = asyncio.get_running_loop()
        added = [_Asked(photo, query, loop.create_future()) for photo in photos]
        for asked in added:
            self._lanes[lane][asked] = None
            asked.answer.add_done_callback(partial(self._forget, asked, lane))
        self._pump()
        return [asked.answer for asked in added]

    def close(self) -> None:
        """Let the group in work end, drop what waits, and stop the thread."""
        self._busy = True
        self._engine.shutdown(wait=True, cancel_futures=True)

    def _forget(self, asked: _Asked, lane: Lane, answer: "asyncio.Future[Outcome]") -> None:
        self._lanes[lane].pop(asked, None)

    def _pump(self) -> None:
        """Give the engine what waits, if it is idle."""
        if self._busy or not (group := self._group()):
            return
        self._busy, now = True, time.perf_counter()
        self._metrics.count_group([now - asked.since for asked in group])
        work = [(asked.photo, asked.query) for asked in group]
        done = asyncio.get_running_loop().run_in_executor(self._engine, self._work, work)
        done.add_done_callback(partial(self._finish, group))

    def _work(self, work: list[tuple[Prepared, LocateQuery]]) -> tuple[list[Outcome], float]:
        """In the engine thread: an outcome for each of a group, and the seconds that one took."""
        locator = work[0][0].locator
        if locator is not self._expecting():
            locator.expect_single()
            self._expecting = weakref.ref(locator)
        started = time.perf_counter()
        with threads(self._threads() if len(work) > 1 else None):
            outcomes = locate_mixed(work)
        return outcomes, (time.perf_counter() - started) / len(work)

    def _threads(self) -> int | None:
        """How many threads a group is encoded with, so that those that decode the next have cores left to do so.

        Cores are shared as the work is: of two cores a small encoder gets one, as decoding is most of the work there,
        and OpenMP's threads would hold both cores, waiting. None: all that there are.
        """
        decode_s, decoders = self._decoding()
        if not (self.image_s and decode_s):
            return None
        encode_s, cores = self.image_s * self._used, all_threads()
        busy = min(decoders, cores * decode_s / (decode_s + encode_s))
        self._used = max(1, round(cores - busy))
        return self._used

    def _group(self) -> list[_Asked]:
        """What goes next, at most what the encoder takes; all of one index, as the index may be changed in between."""
        group: list[_Asked] = []
        while (lane := self._turn()) and (not group or len(group) < self._most(group[0])):
            asked = next(iter(lane))
            if group and asked.photo.locator is not group[0].photo.locator:
                break
            del lane[asked]
            if not asked.answer.done():
                group.append(asked)
                self._picked += 1
        return group

    def _turn(self) -> dict[_Asked, None]:
        """The lane that is next; an empty one only if both are."""
        first, second = self._lanes["single"], self._lanes["batch"]
        if self._picked % _BATCH_TURN == _BATCH_TURN - 1:
            first, second = second, first
        return first or second

    def _most(self, asked: _Asked) -> int:
        size = asked.photo.locator.encoder.batch_size
        return min(size, max(_LEAST, int(_GROUP_S / self.image_s))) if self.image_s else size

    def _finish(self, group: list[_Asked], done: "asyncio.Future[tuple[list[Outcome], float]]") -> None:
        if done.cancelled():  # `close` came first
            outcomes: list[Outcome] = [NotReadyError("the service is ending") for _ in group]
        else:
            if (failed := done.exception()) is None:
                outcomes, cost = done.result()
                self.image_s = 0.8 * self.image_s + 0.2 * cost if self.image_s else cost
            else:  # an error of the work itself is their answer: whoever waits must not wait for ever
                outcomes = [_as_exception(failed) for _ in group]
            self._busy = False
            self._pump()  # first of all: the encoder should not wait for what follows
            self._judge(outcomes)
        for asked, outcome in zip(group, outcomes, strict=True):
            if not asked.answer.done():
                asked.answer.set_result(outcome)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(f"the engine's work ended with {error!r}")
