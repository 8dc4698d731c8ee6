"""A spooled batch to lines of JSON, in order: one group is decoded while the group before it is encoded."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Callable
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
    """One NDJSON line a picture; holds two groups of decoded pictures at most, however long the batch is."""
    size = inference.locator.encoder.batch_size
    groups = [spool.photos[at : at + size] for at in range(0, len(spool.photos), size)]
    ahead: asyncio.Task[list[Prepared | Exception]] | None = None
    index = 0
    try:
        ahead = asyncio.create_task(_decode(spool, inference, groups[0]))
        for number, group in enumerate(groups):
            decoded = await ahead
            if number + 1 < len(groups):
                ahead = asyncio.create_task(_decode(spool, inference, groups[number + 1]))
            for photo, outcome in zip(group, await _locate(inference, decoded, query), strict=True):
                yield _line(index, photo.name, _written(trail, photo, outcome), metrics)
                index += 1
    finally:
        if ahead is not None:
            ahead.cancel()


async def _decode(spool: Spool, inference: Inference, group: list[SpooledPhoto]) -> list[Prepared | Exception]:
    found = await asyncio.gather(
        *(inference.prepare(lambda photo=photo: spool.read(photo)) for photo in group),  # type: ignore[misc]
        return_exceptions=True,
    )
    return [_expected(outcome) for outcome in found]


def _expected(outcome: Prepared | BaseException) -> Prepared | Exception:
    if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
        raise outcome
    return outcome


async def _locate(inference: Inference, decoded: list[Prepared | Exception], query: LocateQuery) -> list[Outcome]:
    """An outcome for each: the decoder's errors stay in their places and the rest is located together."""
    located = iter(await inference.locate_each([photo for photo in decoded if isinstance(photo, Prepared)], query))
    return [photo if isinstance(photo, Exception) else next(located) for photo in decoded]


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
