"""Limits of a request: how many pictures are in progress, how long it takes, and whether its client is still there.

Used on the event loop only. It knows nothing of pictures or routes.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.engine.shares import Overload, Shares
from service.errors import TooSlowError

_T = TypeVar("_T")


@dataclass(eq=False)
class _WaitingGroup:
    caller: str
    images: int
    granted: "asyncio.Future[None]"


class Slots:
    """Limits the pictures between upload and answer to `limit`, and those of one caller to a share of it.

    Batches may use at most half of the slots, so they cannot starve single pictures. The slots that a waiting batch
    needs are reserved for it, so single pictures cannot starve batches. A single picture without a free slot is
    rejected; a batch waits.
    """

    def __init__(self, limit: int, share: float, overload: Overload) -> None:
        self.single = self.batch = 0
        self._shares = Shares(limit, share, "images", overload)
        self.batch_limit = min(max(1, limit // 2), self._shares.most)
        self._waiting: list[_WaitingGroup] = []

    def check(self, caller: str) -> None:
        """Raise OverloadedError if no slot is free for a single picture of this caller."""
        own = sum(group.images for group in self._waiting if group.caller == caller)
        others = sum(
            g.images for g in self._waiting if g.caller != caller and self._shares.has_share(g.caller, g.images)
        )
        left = self.batch_limit - self.batch
        self._shares.check(caller, reserved=min(own + others, left), own_reserved=min(own, left))

    @contextmanager
    def for_single(self, caller: str) -> Iterator[None]:
        """Hold one slot while the block runs; raises OverloadedError if none is free."""
        self.check(caller)
        self._shares.take(caller)
        self.single += 1
        try:
            yield
        finally:
            self.single -= 1
            self._shares.give_back(caller)
            self._admit_waiting()

    @asynccontextmanager
    async def for_batch(self, caller: str, count: int) -> AsyncIterator[None]:
        """Wait in line for `count` slots, at most `batch_limit`, and hold them while the block runs."""
        group = _WaitingGroup(caller, count, asyncio.get_running_loop().create_future())
        self._waiting.append(group)
        self._admit_waiting()
        try:
            await group.granted
            yield
        finally:
            if group in self._waiting:
                self._waiting.remove(group)
            else:
                self.batch -= count
                self._shares.give_back(caller, count)
            self._admit_waiting()

    def _admit_waiting(self) -> None:
        """Admit waiting groups in order, as slots are free. Only a caller over its share is overtaken by others."""
        over_share: set[str] = set()
        for group in list(self._waiting):
            caller, count, granted = group.caller, group.images, group.granted
            if caller in over_share or not self._shares.has_share(caller, count):
                over_share.add(caller)
                continue
            if self.batch + count > self.batch_limit or not self._shares.has_room(count):
                return
            self._waiting.remove(group)
            self.batch += count
            self._shares.take(caller, count)
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
