"""A spooled batch to lines of JSON, in order: a group is decoded while the group before it is encoded.

It flows through the queue of the single pictures, a few groups at a time, as there is room.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from indexer.retrieval.query import LocateQuery
from service.audit import Trail
from service.errors import AuditError
from service.inference import Inference, Outcome
from service.metrics import Metrics
from service.pipeline import Prepared
from service.problems import kind_of, problem_of
from service.uploads import Spool, SpooledPhoto

__all__ = ["BatchResponse", "batch_lines"]

_AHEAD = 3
"""Groups in work: one is encoded, one waits for that, one is decoded."""

_log = logging.getLogger("tilebeam.service")


class BatchResponse(StreamingResponse):
    """NDJSON that calls `release` whatever happens, so that a client that leaves frees its disk space and place."""

    media_type = "application/x-ndjson"

    def __init__(
        self, lines: AsyncGenerator[bytes, None], release: Callable[[], None], client_timeout_s: float
    ) -> None:
        super().__init__(lines)
        self._lines = lines
        self._release = release
        self._timeout_s = client_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines, then stop what makes them and release what they came from."""

        async def patient(message: Message) -> None:
            async with asyncio.timeout(self._timeout_s):
                await send(message)

        try:
            await super().__call__(scope, receive, patient)
        except TimeoutError:
            _log.warning("a batch's client read nothing for %g s: it is given up", self._timeout_s)
        finally:
            try:
                await self._lines.aclose()
            finally:
                self._release()


async def batch_lines(
    spool: Spool, inference: Inference, query: LocateQuery, metrics: Metrics, trail: Trail
) -> AsyncGenerator[bytes, None]:
    """One NDJSON line a picture, in order; a few groups of pictures are in work at once, however long the batch is."""
    groups = _groups(spool.photos, inference)
    turn, index = asyncio.Event(), 0
    turn.set()
    working: deque[asyncio.Task[list[Outcome]]] = deque()
    try:
        for number, group in enumerate(groups):
            while len(working) < min(_AHEAD, len(groups) - number):
                before, turn = turn, asyncio.Event()
                work = _locate(spool, inference, groups[number + len(working)], query, before, turn)
                working.append(asyncio.create_task(work))
            for photo, outcome in zip(group, await working[0], strict=True):
                yield _line(index, photo.name, _written(trail, photo, outcome), metrics)
                index += 1
            working.popleft()
    finally:
        if index < len(spool.photos):
            metrics.departures.inc()
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)


def _groups(photos: list[SpooledPhoto], inference: Inference) -> list[list[SpooledPhoto]]:
    """At most as many as the encoder takes, and two groups at least in what batches may hold of the queue."""
    size = min(inference.locator.encoder.batch_size, max(1, inference.places.share // 2))
    return [photos[at : at + size] for at in range(0, len(photos), size)]


async def _locate(
    spool: Spool,
    inference: Inference,
    group: list[SpooledPhoto],
    query: LocateQuery,
    before: asyncio.Event,
    after: asyncio.Event,
) -> list[Outcome]:
    """An outcome for each. Decoded as soon as there is room, queued when the group `before` is: that answers first."""
    async with inference.places.room(len(group)):
        decoded = await asyncio.gather(
            *(inference.prepare(partial(spool.read, photo), "batch") for photo in group), return_exceptions=True
        )
        await before.wait()
        asked = inference.submit([photo for photo in decoded if isinstance(photo, Prepared)], query, "batch")
        after.set()
        outcomes = iter(await asyncio.gather(*asked))
    return [next(outcomes) if isinstance(photo, Prepared) else _expected(photo) for photo in decoded]


def _expected(error: BaseException) -> Exception:
    if not isinstance(error, Exception):
        raise error
    return error


def _written(trail: Trail, photo: SpooledPhoto, outcome: Outcome) -> Outcome:
    """The outcome, once the audit has it: without that there is no answer."""
    try:
        trail.write(photo.sha256, outcome)
    except AuditError as error:
        return error
    return outcome


def _line(index: int, name: str, outcome: Outcome, metrics: Metrics) -> bytes:
    line: dict[str, Any] = {"index": index, "name": name}
    if isinstance(outcome, Exception):
        kind = kind_of(outcome)
        if kind.status >= 500:
            _log.error("picture %d of a batch failed", index, exc_info=outcome)
        metrics.rejected(kind.slug)
        line["error"] = problem_of(outcome)
    else:
        line["result"] = outcome
    return json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n"
