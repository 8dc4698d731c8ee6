"""Limits of a request: how many are admitted, how many pictures are in progress, how long one takes, and its client.

Used on the event loop only. It knows nothing of pictures or routes.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import OverloadedError, TooSlowError

_T = TypeVar("_T")
Overload = Callable[[str], OverloadedError]
"""Makes the error for a reached limit, given how many of what are in progress."""


class Gate:
    """Admits at most `limit` requests at a time; further ones are rejected, they do not wait."""

    def __init__(self, limit: int, unit: str, overload: Overload) -> None:
        self._limit = limit
        self._unit = unit
        self._overload = overload
        self._inside = 0

    def enter(self) -> None:
        """Admit one request, or raise OverloadedError. Every `enter` needs one `leave`."""
        if self._inside >= self._limit:
            raise self._overload(f"{self._inside} {self._unit}")
        self._inside += 1

    def leave(self) -> None:
        """Release what `enter` took."""
        self._inside -= 1

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Admit one request while the block runs."""
        self.enter()
        try:
            yield
        finally:
            self.leave()


class Slots:
    """Limits the pictures between upload and answer to `limit`.

    Batches may use at most half of the slots, so they cannot starve single pictures. The slots that a waiting batch
    needs are reserved for it, so single pictures cannot starve batches. A single picture without a free slot is
    rejected; a batch waits.
    """

    def __init__(self, limit: int, overload: Overload) -> None:
        self.limit, self.batch_limit = limit, max(1, limit // 2)
        self.single = self.batch = 0
        self._overload = overload
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def check(self) -> None:
        """Raise OverloadedError if no slot is free for a single picture."""
        reserved = min(sum(count for count, _ in self._waiting), self.batch_limit - self.batch)
        if self.single + self.batch + reserved >= self.limit:
            raise self._overload(f"{self.single + self.batch} images")

    @contextmanager
    def for_single(self) -> Iterator[None]:
        """Hold one slot while the block runs; raises OverloadedError if none is free."""
        self.check()
        self.single += 1
        try:
            yield
        finally:
            self.single -= 1
            self._admit_waiting()

    @asynccontextmanager
    async def for_batch(self, count: int) -> AsyncIterator[None]:
        """Wait in line for `count` slots, at most `batch_limit`, and hold them while the block runs."""
        granted = asyncio.get_running_loop().create_future()
        entry = (count, granted)
        self._waiting.append(entry)
        self._admit_waiting()
        try:
            await granted
            yield
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                self.batch -= count
            self._admit_waiting()

    def _admit_waiting(self) -> None:
        """Admit waiting batches, in order, while there are enough free slots for the first."""
        while self._waiting:
            count, granted = self._waiting[0]
            if self.batch + count > self.batch_limit or self.single + self.batch + count > self.limit:
                return
            self._waiting.popleft()
            self.batch += count
            if not granted.done():  # a cancelled waiter releases its slots itself, in `for_batch`
                granted.set_result(None)


@asynccontextmanager
async def deadline(seconds: float, what: str) -> AsyncIterator[None]:
    """Raise TooSlowError if the block takes longer than `seconds`. A TimeoutError from the block itself passes."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as exc:
        if not limit.expired():
            raise
        raise TooSlowError(f"{what} took longer than {seconds:g} s; try again later, or send less at once") from exc


async def until_disconnect(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`. If the client disconnects first, cancel `work` and raise ClientDisconnect.

    The request's body must have been read, because further messages are read only to notice the disconnect.
    """
    working, leaving = asyncio.create_task(work), asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
