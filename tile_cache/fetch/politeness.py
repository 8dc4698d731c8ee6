"""When to send the next request: pace, pauses, backoff, giving up, and the time headers of HTTP.

`Pace` uses the event loop's clock in seconds; times in headers become unix seconds or seconds to wait. Knows nothing of
sockets and tiles.
"""

import asyncio
import random
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from tile_cache.errors import SourceUnavailableError

__all__ = ["Breaker", "Pace", "backoff_s", "expires_at", "retry_after_s"]


class Pace:
    """Evenly spaced turns, `rate_per_s` a second, shared by all tasks. No burst follows a pause."""

    def __init__(self, rate_per_s: float) -> None:
        self._interval = 1 / rate_per_s
        self._next = 0.0
        self._resume = 0.0

    async def turn(self) -> None:
        """Wait for the next turn, and for a pause that begins in the meantime."""
        clock = asyncio.get_running_loop().time
        while True:
            now = clock()
            slot = max(self._next, self._resume, now)
            self._next = slot + self._interval
            if slot > now:
                await asyncio.sleep(slot - now)
            if self._resume <= clock():
                return

    def pause(self, seconds: float) -> None:
        """Let no turn start within the next `seconds`."""
        until = asyncio.get_running_loop().time() + seconds
        if until > self._resume:
            # Tasks that already wait for a later turn find the pause in `turn` and take a new turn after it.
            self._next = self._resume = until


class Breaker:
    """Counts consecutive failures of one kind. Raises SourceUnavailableError at the `limit`-th."""

    def __init__(self, name: str, limit: int, failure: str) -> None:
        self._name, self._limit, self._failure = name, limit, failure
        self._row = 0

    def reset(self) -> None:
        """Count from 0 again, after a success."""
        self._row = 0

    def count(self, detail: str) -> None:
        """Count a failure; `detail` is its reason."""
        self._row += 1
        if self._row >= self._limit:
            raise SourceUnavailableError(f"{self._name} {self._failure} for {self._row} tiles in a row ({detail})")


def backoff_s(attempt: int, base_s: float, limit_s: float) -> float:
    """Seconds to wait after failed attempt 0, 1, ...: exponential with full jitter, so that requests spread out."""
    return random.uniform(0, min(limit_s, base_s * 2**attempt))


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait by the header Retry-After, from unix second `now`; None if it is missing or unreadable.

    A date is compared with the server's own Date header if there is one, because clocks differ.
    """
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    until = _unix(value)
    return None if until is None else max(0.0, until - (_unix(headers.get("date", "")) or now))


def expires_at(headers: Mapping[str, str], now: float) -> int | None:
    """The unix second at which a response expires, by Cache-Control or else Expires; None if neither says."""
    directives = dict(_directive(text) for text in headers.get("cache-control", "").lower().split(","))
    if "no-cache" in directives or "no-store" in directives:
        return int(now)
    age = directives.get("max-age", "")
    if age.isascii() and age.isdigit():
        spent = headers.get("age", "")
        return int(now) + int(age[:9]) - (int(spent[:9]) if spent.isascii() and spent.isdigit() else 0)
    if "expires" not in headers:
        return None
    until = _unix(headers["expires"])
    if until is None:  # RFC 9111: an unreadable date, such as "0", means already expired
        return int(now)
    return int(now + until - (_unix(headers.get("date", "")) or now))


def _directive(text: str) -> tuple[str, str]:
    name, _, value = text.strip().partition("=")
    return name, value.strip('"')


def _unix(http_date: str) -> float | None:
    try:
        return parsedate_to_datetime(http_date).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
