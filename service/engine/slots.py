"""Room for pictures between upload and answer: where there is none, a single picture is refused and a batch waits.

It knows nothing of pictures, and is used on the event loop alone.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from service.errors import OverloadedError

__all__ = ["Places"]


class Places:
    """`limit` places, of which batches hold at most half, so that they never shut out who has one picture.

    What batches wait for is kept free for them, so that they are not shut out either. `refusal` makes the error.
    """

    def __init__(self, limit: int, refusal: Callable[[str], OverloadedError]) -> None:
        self.limit, self.share = limit, max(1, limit // 2)
        self.single = self.batch = 0
        self._refusal = refusal
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def check(self) -> None:
        """Raise OverloadedError if there is no place now."""
        kept = min(sum(count for count, _ in self._waiting), self.share - self.batch)
        if self.single + self.batch + kept >= self.limit:
            raise self._refusal(f"{self.single + self.batch} images")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold one place while the block runs; raises OverloadedError at once if there is none."""
        self.check()
        self.single += 1
        try:
            yield
        finally:
            self.single -= 1
            self._admit()

    @asynccontextmanager
    async def room(self, count: int) -> AsyncIterator[None]:
        """Hold `count` places, at most `share`, of a batch while the block runs; first come, first served."""
        granted = asyncio.get_running_loop().create_future()
        entry = (count, granted)
        self._waiting.append(entry)
        self._admit()
        try:
            await granted
            yield
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)
            else:
                self.batch -= count
            self._admit()

    def _admit(self) -> None:
        """Let in the batches that wait, in their order, as far as there is room."""
        while self._waiting:
            count, granted = self._waiting[0]
            if self.batch + count > self.share or self.single + self.batch + count > self.limit:
                return
            self._waiting.popleft()
            self.batch += count
            if not granted.done():  # a cancelled one gives its places back itself
                granted.set_result(None)
