"""What requests hold while they are worked on (slots, bytes), bounded in all and per caller; and turns between callers.

A caller is who a key, or an address without one, stands for. One caller holds at most a share of each limit, so that it
alone cannot keep the others out. Used on the event loop only. It knows nothing of pictures or routes.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Generic, TypeVar

from service.errors import OverloadedError

__all__ = ["Holding", "Overload", "Shares", "TurnQueue", "Turns"]

Overload = Callable[[str], OverloadedError]
"""Makes the error for a reached limit, given what of how many is in progress."""
_Item = TypeVar("_Item", bound=Hashable)


class Shares:
    """Admits at most `limit` units in all, and `limit` times `share` (at least one) of one caller.

    What goes beyond is rejected, it does not wait. `unit`: what is counted, in the plural.
    """

    def __init__(self, limit: int, share: float, unit: str, overload: Overload) -> None:
        self.limit, self.most = limit, share_of(limit, share)
        self.held = 0
        self._unit, self._overload = unit, overload
        self._held_by: dict[str, int] = {}

    def has_room(self, amount: int = 1) -> bool:
        """Whether `amount` more would stay within the limit."""
        return self.held + amount <= self.limit

    def has_share(self, caller: str, amount: int = 1) -> bool:
        """Whether `amount` more would stay within this caller's share."""
        return self._held_by.get(caller, 0) + amount <= self.most

    def check(self, caller: str, amount: int = 1, *, reserved: int = 0, own_reserved: int = 0) -> None:
        """Raise OverloadedError if `amount` more of this caller would exceed a limit.

        `reserved`: what is kept of the limit for requests that wait; `own_reserved`: those of this caller among it.
        """
        if not self.has_room(amount + reserved):
            raise self._overload(f"{self.held:,} {self._unit} are in progress, which is the limit")
        if not self.has_share(caller, amount + own_reserved):
            own = self._held_by.get(caller, 0)
            raise self._overload(f"{own:,} {self._unit} of yours are in progress, which is one caller's share")

    def take(self, caller: str, amount: int = 1) -> None:
        """Hold `amount` more, or raise OverloadedError. Every `take` needs a `give_back`."""
        self.check(caller, amount)
        self.held += amount
        self._held_by[caller] = self._held_by.get(caller, 0) + amount

    def give_back(self, caller: str, amount: int = 1) -> None:
        """Release what `take` took."""
        self.held -= amount
        left = self._held_by[caller] - amount
        if left:
            self._held_by[caller] = left
        else:
            del self._held_by[caller]

    @contextmanager
    def taken(self, caller: str, amount: int = 1) -> Iterator[None]:
        """Hold `amount` while the block runs."""
        self.take(caller, amount)
        try:
            yield
        finally:
            self.give_back(caller, amount)


def share_of(limit: int, share: float) -> int:
    """How much of a limit one caller may hold."""
    return max(1, int(limit * share))


class Holding:
    """What one request holds of some shares; it may grow, and `release` gives all of it back."""

    def __init__(self, shares: Shares, caller: str) -> None:
        self._shares, self._caller, self._amount = shares, caller, 0

    def take(self, amount: int) -> None:
        """Hold `amount` more, or raise OverloadedError."""
        self._shares.take(self._caller, amount)
        self._amount += amount

    def release(self) -> None:
        """Give everything back; may be called again."""
        if self._amount:
            self._shares.give_back(self._caller, self._amount)
            self._amount = 0


_LONGEST_EVERY = 4
_REMEMBERED = 1_000
"""Callers whose last turn is remembered."""


class TurnQueue(Generic[_Item]):
    """A queue whose callers take turns: next is the first item of the caller whose last turn is the longest ago.

    So a caller with one item now and then does not wait for all that send many. Every fourth turn is that of the caller
    that has waited longest: new callers, however many, never keep one from its turn.
    """

    def __init__(self) -> None:
        self._of_caller: OrderedDict[str, dict[_Item, None]] = OrderedDict()  # in the order of their waiting
        self._last_turn: OrderedDict[str, int] = OrderedDict()  # the latest callers', oldest first
        self._turns = 0

    def __bool__(self) -> bool:
        return bool(self._of_caller)

    def add(self, item: _Item, caller: str) -> None:
        """Append an item to its caller's."""
        self._of_caller.setdefault(caller, {})[item] = None

    def first(self) -> _Item:
        """The next item; the queue must not be empty."""
        return next(iter(self._of_caller[self._next_caller()]))

    def take(self) -> _Item:
        """Remove the next item; then it is the other callers' turn."""
        caller = self._next_caller()
        item = next(iter(self._of_caller[caller]))
        self.remove(item, caller)
        self._turns += 1
        self._last_turn[caller] = self._turns
        self._last_turn.move_to_end(caller)
        if len(self._last_turn) > _REMEMBERED:
            self._last_turn.popitem(last=False)
        if caller in self._of_caller:
            self._of_caller.move_to_end(caller)
        return item

    def remove(self, item: _Item, caller: str) -> None:
        """Remove an item if it is still there."""
        items = self._of_caller.get(caller, {})
        items.pop(item, None)
        if not items:
            self._of_caller.pop(caller, None)

    def _next_caller(self) -> str:
        if self._turns % _LONGEST_EVERY == _LONGEST_EVERY - 1:
            return next(iter(self._of_caller))
        return min(self._of_caller, key=lambda caller: self._last_turn.get(caller, 0))  # the first of equal ones


class Turns:
    """Lets `limit` blocks run at a time; callers that wait take turns."""

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: TurnQueue[asyncio.Future[None]] = TurnQueue()

    @asynccontextmanager
    async def taken(self, caller: str) -> AsyncIterator[None]:
        """Wait for a turn, and run the block."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(caller)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, caller: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.add(turn, caller)
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.remove(turn, caller)
            if turn.done() and not turn.cancelled():  # it was this one's turn already
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.take()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
