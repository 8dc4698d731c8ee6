"""Locates a spooled batch in groups and returns lines of JSON in order. Work starts while the upload still arrives.

The pictures pass through the same queue as single ones, a few groups at a time, as slots become free. A client may
send its whole batch before it reads: finished lines are held, and above a limit no new group starts until they are
read.

States of a group, and what each waits for:

    arrived ──> decoding ──> queued ──> located ──> delivered
       │           │            │          └ the client to read all lines before it
       │           │            └ the encoder
       │           └ slots, decoding threads, and that the group before is queued: the queue keeps the order
       └ enough pictures, and room: at most `_GROUPS_IN_PROGRESS` decoding or queued, at most `_HELD_BYTES` located
"""

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from retrieval.pipeline import DecodedPicture, Outcome, Searched
from retrieval.search.query import LocateQuery
from service.access.audit import Trail
from service.engine.inference import Inference
from service.errors import AuditError, problem_of, problem_type_of
from service.http.spool import Spool, SpooledPhoto
from service.ops.metrics import Metrics

_GROUPS_IN_PROGRESS = 4
"""One group is encoded, one waits for the encoder, the others are decoded."""
_HELD_BYTES = 4 << 20
"""Limit of finished lines that the client has not read."""
_REGISTERING_S = 20.0
"""Seconds in which pictures of a group are registered with `register=auto`."""

_log = logging.getLogger("tilebeam.service")


class _Line(NamedTuple):
    """The line of one picture, and its outcome as far as the audit needs it."""

    number: int
    photo: SpooledPhoto
    audited: dict[str, Any] | Exception
    text: bytes


@dataclass(eq=False)
class _Group:
    """Consecutive pictures of the batch. `first`: number of the first one; `lines`: None until they are located."""

    first: int
    photos: list[SpooledPhoto]
    queued: asyncio.Event = field(default_factory=asyncio.Event)
    lines: list[_Line] | None = None

    @property
    def held_bytes(self) -> int:
        """Size of the lines that wait for the client."""
        return sum(len(line.text) for line in self.lines or ())


class BatchResponse(StreamingResponse):
    """An NDJSON response that stops the work and calls `release` at its end, also if the client disconnects."""

    media_type = "application/x-ndjson"

    def __init__(self, work: "BatchWork", release: Callable[[], None], client_timeout_s: float) -> None:
        self._lines = work.lines()
        super().__init__(self._lines)
        self._work = work
        self._release = release
        self._timeout_s = client_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the lines, then stop the work and release its resources."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._timeout_s):
                await send(message)

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            _log.warning("a batch was cancelled: its client read nothing for %g s", self._timeout_s)
        finally:
            try:
                await self._lines.aclose()
                await self._work.close()
            finally:
                self._release()


class BatchWork:
    """The work on the pictures of one spool; its states are drawn in the module's docstring.

    `charge` is called with the size of each group when it starts, except for the batch's first picture, which was
    counted when the request arrived. Memory is bounded, however long the batch is.
    """

    def __init__(
        self,
        spool: Spool,
        inference: Inference,
        query: LocateQuery,
        caller: str,
        metrics: Metrics,
        trail: Trail,
        charge: Callable[[int], None],
    ) -> None:
        self._spool, self._inference, self._query, self._caller = spool, inference, query, caller
        self._metrics, self._trail, self._charge = metrics, trail, charge
        # As many as the encoder takes, but so few that all groups in progress fit into the slots of batches.
        limit = max(1, inference.slots.batch_limit // _GROUPS_IN_PROGRESS)
        self._group_size = min(inference.locator.encoder.batch_size, limit)
        self._groups: deque[_Group] = deque()  # started and not delivered, in order
        self._tasks: deque[asyncio.Task[None]] = deque()  # one for each of the groups
        self._last_queued = asyncio.Event()  # that of the last started group
        self._last_queued.set()
        self._started = self._delivered = 0  # pictures
        self._closed = False
        spool.on_arrival = self.start_groups

    def start_groups(self) -> None:
        """Start groups of the pictures that have arrived, as far as the limits allow."""
        while self._may_start():
            first, self._started = self._started, min(self._started + self._group_size, self._spool.arrived)
            self._charge(self._started - max(first, 1))
            group = _Group(first, self._spool.photos[first : self._started])
            self._groups.append(group)
            self._tasks.append(asyncio.create_task(self._locate_group(group, self._last_queued)))
            self._last_queued = group.queued

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """Yield the NDJSON lines in order, a group at a time. Call it once, after the end of the upload."""
        try:
            while self._groups:  # `start_groups` has started one if any picture is left
                await self._tasks[0]
                done = self._groups[0].lines or []
                text = [line.text if (error := self._audit(line)) is None else error for line in done]
                yield b"".join(text)
                self._delivered += len(done)
                self._groups.popleft()
                self._tasks.popleft()
                self.start_groups()
        finally:
            if self._delivered < len(self._spool.photos):
                self._metrics.departures.inc()
            await self.close()

    async def close(self) -> None:
        """Stop all work."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _may_start(self) -> bool:
        waiting = self._spool.arrived - self._started
        enough = waiting >= self._group_size or (self._spool.ended and waiting > 0)
        in_progress = sum(group.lines is None for group in self._groups)
        held = sum(group.held_bytes for group in self._groups)
        return enough and in_progress < _GROUPS_IN_PROGRESS and held < _HELD_BYTES and not self._closed

    async def _locate_group(self, group: _Group, previous_queued: asyncio.Event) -> None:
        outcomes = await self._outcomes(group, previous_queued)
        group.lines = [
            self._line(group.first + number, photo, outcome)
            for number, (photo, outcome) in enumerate(zip(group.photos, outcomes, strict=True))
        ]
        self.start_groups()

    async def _outcomes(self, group: _Group, previous_queued: asyncio.Event) -> list[Outcome]:
        async with self._inference.slots.for_batch(self._caller, len(group.photos)):
            decoded = await asyncio.gather(*map(self._decode, group.photos), return_exceptions=True)
            await previous_queued.wait()
            ready = [photo for photo in decoded if isinstance(photo, DecodedPicture)]
            located = self._inference.submit(ready, self._caller, "batch")
            group.queued.set()
            searched = await asyncio.gather(*located)
        outcomes = iter(await self._registered(searched))  # without the slots, which other batches wait for
        return [next(outcomes) if isinstance(photo, DecodedPicture) else _error(photo) for photo in decoded]

    async def _registered(self, outcomes: list[Outcome]) -> list[Outcome]:
        """The same, with answers where pictures are to be registered: one after another, for as long as there is time.

        A client waits for the lines of the group, and must not take the service for dead.
        """
        started, answers = time.monotonic(), list[Outcome]()
        for outcome in outcomes:
            if isinstance(outcome, Searched):
                in_time = time.monotonic() - started < _REGISTERING_S
                try:
                    outcome = await self._inference.registered(outcome, self._caller, "batch", in_time=in_time)
                except Exception as error:
                    outcome = error
            answers.append(outcome)
        return answers

    async def _decode(self, photo: SpooledPhoto) -> DecodedPicture:
        return await self._inference.decode(partial(self._spool.read, photo), self._query, self._caller, "batch")

    def _line(self, number: int, photo: SpooledPhoto, outcome: Outcome) -> _Line:
        assert not isinstance(outcome, Searched)
        if isinstance(outcome, Exception):
            return _Line(number, photo, outcome, self._error_line(number, photo, outcome))
        # The audit needs only the levels. The whole answer may hold a trace that is a thousand times larger.
        text = _json({"index": number, "name": photo.name, "result": outcome})
        return _Line(number, photo, {"levels": outcome["levels"]}, text)

    def _error_line(self, number: int, photo: SpooledPhoto, error: Exception) -> bytes:
        kind = problem_type_of(error)
        if kind.status >= 500:
            _log.error("picture %d of a batch failed", number, exc_info=error)
        self._metrics.count_problem(kind.slug)
        return _json({"index": number, "name": photo.name, "error": problem_of(error)})

    def _audit(self, line: _Line) -> bytes | None:
        """Write the audit line. If that fails, return the line to send instead of the answer."""
        try:
            self._trail.write(line.photo.sha256, line.audited)
        except AuditError as error:
            return self._error_line(line.number, line.photo, error)
        return None


def _error(outcome: BaseException) -> Exception:
    if not isinstance(outcome, Exception):
        raise outcome  # a cancellation
    return outcome


def _json(line: dict[str, Any]) -> bytes:
    return json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n"
