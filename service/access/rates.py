"""Images a minute for each key: token buckets. It knows nothing of keys but their names, and of no request."""

import math
import time
from collections.abc import Callable

from service.errors import RateLimitedError

__all__ = ["Rates"]


class Rates:
    """A bucket for each name, full at first; used from the event loop alone, so it needs no lock.

    A bucket holds a minute's images and fills steadily. Whoever has one image left may send; a batch takes what it
    has, and may leave a debt that is waited off: so a batch larger than a minute's images is possible, and over hours
    nobody gets more than the rate.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # images left, and when that was so

    def enter(self, name: str, rate: int) -> None:
        """Take one image, or raise RateLimitedError with the seconds until there is one. `rate` 0 is no limit."""
        left = self._left(name, rate)
        if left < 1:
            wait_s = max(1, math.ceil((1 - left) * 60 / rate))
            raise RateLimitedError(f"key {name!r} has used its {rate} images a minute; try again in {wait_s} s", wait_s)
        self._store(name, rate, left - 1)

    def charge(self, name: str, rate: int, images: int) -> None:
        """Take more images, into debt if need be."""
        self._store(name, rate, self._left(name, rate) - images)

    def keep(self, names: set[str]) -> None:
        """Forget everyone else."""
        self._buckets = {name: bucket for name, bucket in self._buckets.items() if name in names}

    def _left(self, name: str, rate: int) -> float:
        if not rate:
            return math.inf
        now = self._clock()
        left, then = self._buckets.get(name, (float(rate), now))
        return min(float(rate), left + (now - then) * rate / 60)

    def _store(self, name: str, rate: int, left: float) -> None:
        if rate:
            self._buckets[name] = left, self._clock()
