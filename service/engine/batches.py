"""A spooled batch to lines of JSON, in order: worked on from its first pictures on, while the rest still arrives.

It flows through the queue of the single pictures, a few groups at a time, as there is room. A client may send all it
has before it reads: what is ready waits as lines, and once those are many, the work waits for the client.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any, NamedTuple

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from retrieval.pipeline import Prepared
from retrieval.search.query import LocateQuery
from service.access.audit import Trail
from service.engine.inference import Inference, Outcome
from service.errors import AuditError, problem_of, problem_type_of
from service.http.uploads import Spool, SpooledPhoto
from service.ops.metrics import Metrics

__all__ = ["BatchResponse", "BatchWork"]

_AHEAD = 4
"""Groups in work: one is encoded, one waits for that, the others are decoded."""
_HELD = 4 << 20
"""Bytes of finished lines, above which nothing new is begun until they are read."""

_log = logging.getLogger("tilebeam.service")


class _Line(NamedTuple):
    """One picture's line, and what of its outcome the audit wants."""

    number: int
    photo: SpooledPhoto
    told: Outcome
    text: bytes


class BatchResponse(StreamingResponse):
    """NDJSON that ends the work and calls `release` whatever happens, so that a client that leaves frees its place."""

    media_type = "application/x-ndjson"

    def __init__(self, work: "BatchWork", release: Callable[[], None], client_timeout_s: float) -> None:
        self._lines = work.lines()
        super().__init__(self._lines)
        self._work = work
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
                await self._work.close()
            finally:
                self._release()


class BatchWork:
    """The pictures of one spool, in groups: begun as they arrive, kept as lines until they are asked for.

    `charge` is called with the number of pictures of each group when it is begun, the batch's first picture left out.
    Memory is bounded by the groups in work and by `_HELD`, however long the batch is.
    """

    def __init__(
        self,
        spool: Spool,
        inference: Inference,
        query: LocateQuery,
        metrics: Metrics,
        trail: Trail,
        charge: Callable[[int], None],
    ) -> None:
        self._spool, self._inference, self._query = spool, inference, query
        self._metrics, self._trail, self._charge = metrics, trail, charge
        # As many as the encoder takes; all that are in work fit into what batches may hold of the queue.
        self._size = min(inference.locator.encoder.batch_size, max(1, inference.slots.batch_limit // _AHEAD))
        self._groups: deque[asyncio.Task[list[_Line]]] = deque()
        self._begun = self._working = self._delivered = self._held = 0
        self._closed = False
        self._turn = asyncio.Event()
        self._turn.set()
        spool.on_arrival = self.advance

    def advance(self) -> None:
        """Begin what has arrived, as far as it may be."""
        while self._may_begin():
            first, self._begun = self._begun, min(self._begun + self._size, self._spool.arrived)
            self._working += 1
            self._charge(self._begun - max(first, 1))  # the first was counted when the request came
            before, self._turn = self._turn, asyncio.Event()
            self._groups.append(asyncio.create_task(self._work(first, self._begun, before, self._turn)))

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """One NDJSON line a picture, in order, a group at once; to be asked for when the upload has ended, once."""
        try:
            while self._groups:  # `advance` has begun one if any picture is left
                done = await self._groups[0]
                text = [line.text if (error := self._audited(line)) is None else error for line in done]
                yield b"".join(text)
                self._delivered += len(done)
                self._held -= sum(len(line.text) for line in done)
                self._groups.popleft()
                self.advance()
        finally:
            if self._delivered < len(self._spool.photos):
                self._metrics.departures.inc()
            await self.close()

    async def close(self) -> None:
        """Stop whatever is in work."""
        self._closed = True
        for task in self._groups:
            task.cancel()
        await asyncio.gather(*self._groups, return_exceptions=True)

    def _may_begin(self) -> bool:
        waiting = self._spool.arrived - self._begun
        enough = waiting >= self._size or (self._spool.ended and waiting > 0)
        return enough and self._working < _AHEAD and self._held < _HELD and not self._closed

    async def _work(self, first: int, stop: int, before: asyncio.Event, after: asyncio.Event) -> list[_Line]:
        photos = self._spool.photos[first:stop]
        try:
            outcomes = await self._locate(photos, before, after)
            done = [
                self._line(first + number, photo, outcome)
                for number, (photo, outcome) in enumerate(zip(photos, outcomes, strict=True))
            ]
        finally:
            self._working -= 1
        self._held += sum(len(line.text) for line in done)
        self.advance()
        return done

    async def _locate(self, photos: list[SpooledPhoto], before: asyncio.Event, after: asyncio.Event) -> list[Outcome]:
        """An outcome for each. Decoded once there is room, queued when the group `before` is: that answers first."""
        async with self._inference.slots.for_batch(len(photos)):
            decoded = await asyncio.gather(
                *(self._inference.prepare(partial(self._spool.read, photo), self._query, "batch") for photo in photos),
                return_exceptions=True,
            )
            await before.wait()
            ready = [photo for photo in decoded if isinstance(photo, Prepared)]
            asked = self._inference.submit(ready, self._query, "batch")
            after.set()
            outcomes = iter(await asyncio.gather(*asked))
        return [next(outcomes) if isinstance(photo, Prepared) else _expected(photo) for photo in decoded]

    def _line(self, index: int, photo: SpooledPhoto, outcome: Outcome) -> _Line:
        if isinstance(outcome, Exception):
            return _Line(index, photo, outcome, self._error_line(index, photo, outcome))
        # The answer itself is let go: its trace may be a thousand times what the audit wants of it.
        text = _json({"index": index, "name": photo.name, "result": outcome})
        return _Line(index, photo, {"levels": outcome["levels"]}, text)

    def _error_line(self, index: int, photo: SpooledPhoto, error: Exception) -> bytes:
        kind = problem_type_of(error)
        if kind.status >= 500:
            _log.error("picture %d of a batch failed", index, exc_info=error)
        self._metrics.count_problem(kind.slug)
        return _json({"index": index, "name": photo.name, "error": problem_of(error)})

    def _audited(self, line: _Line) -> bytes | None:
        """None once the audit has the line; else what is said instead, for without that there is no answer."""
        try:
            self._trail.write(line.photo.sha256, line.told)
        except AuditError as error:
            return self._error_line(line.number, line.photo, error)
        return None


def _expected(error: BaseException) -> Exception:
    if not isinstance(error, Exception):
        raise error
    return error


def _json(line: dict[str, Any]) -> bytes:
    return json.dumps(line, allow_nan=False, separators=(",", ":")).encode() + b"\n"
