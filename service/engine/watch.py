"""Which calls run in threads that nothing can end, and whether one of them is past its time.

It knows nothing of what the calls do.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Watch"]


class Watch:
    """Remembers running calls; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[object, tuple[str, float, float]] = {}

    @contextmanager
    def running(self, what: str, seconds: float) -> Iterator[None]:
        """Remember a call that should take no longer than `seconds` while the block runs."""
        call = object()
        with self._lock:
            self._running[call] = what, time.monotonic(), seconds
        try:
            yield
        finally:
            with self._lock:
                del self._running[call]

    def overdue(self) -> str | None:
        """What is past its time by more than half of it and a second; None if nothing is."""
        now = time.monotonic()
        with self._lock:
            for what, since, seconds in self._running.values():
                if now - since > 1.5 * seconds + 1:
                    return f"{what} has been running for {now - since:.0f} s and should take at most {seconds:g} s"
        return None
