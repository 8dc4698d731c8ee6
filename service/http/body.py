"""A request's body as it arrives: at most so many bytes, and at least so many a second. Knows nothing of pictures."""

import asyncio
import time
from collections.abc import AsyncIterator

from starlette.requests import Request

from service.engine.shares import Holding
from service.errors import BodyTooLargeError, SlowUploadError
from service.settings import Settings


async def chunks(request: Request, limit: int, holding: Holding, settings: Settings) -> AsyncIterator[bytes]:
    """The body's chunks; `holding` grows with them.

    Raises BodyTooLargeError as soon as the header or the bytes read exceed `limit`, SlowUploadError for a client that
    pauses or trickles, OverloadedError where `holding` cannot grow.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(f"{int(declared):,}", limit)
    received = 0
    stream, pace = request.stream(), _Pace(settings.client_timeout_s, settings.min_upload_rate)
    while chunk := await pace.next(stream):
        received += len(chunk)
        if received > limit:
            raise _too_large(f"over {limit:,}", limit)
        holding.take(len(chunk))
        yield chunk


class _Pace:
    """Measures how fast a body arrives, counting only the time that is spent waiting for its client.

    In every window of `window_s` seconds at least `rate` bytes a second must arrive; the last window may be shorter.
    """

    def __init__(self, window_s: float, rate: float) -> None:
        self._window_s, self._rate = window_s, rate
        self._waited_s, self._received = 0.0, 0

    async def next(self, stream: AsyncIterator[bytes]) -> bytes:
        """The next chunk; empty at the end of the body. `Request.stream` yields no other empty chunk."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._window_s):
                chunk = await anext(stream, b"")
        except TimeoutError as exc:
            raise SlowUploadError(
                f"nothing arrived for {self._window_s:g} s in the middle of the upload; send it again"
            ) from exc
        self._waited_s += time.monotonic() - started
        self._received += len(chunk)
        if chunk and self._waited_s >= self._window_s:
            self._check()
        return chunk

    def _check(self) -> None:
        if self._received < self._rate * self._waited_s:
            raise SlowUploadError(
                f"{self._received:,} bytes of the upload arrived in {self._waited_s:.0f} s, and the least pace is "
                f"{self._rate:g} a second; send it again over a faster connection"
            )
        self._waited_s, self._received = 0.0, 0


def _too_large(size: str, limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the request has {size} bytes and {limit:,} are allowed; send less at once")
