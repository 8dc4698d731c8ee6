"""SIGHUP before there is anything to reload: noted, and acted on once the service is up. Plain Python, quick to import.

By default the signal ends a process, and an index takes seconds to open.
"""

import signal
from types import FrameType

__all__ = ["note", "noted"]


class _Note:
    """A handler that remembers that it was called."""

    def __init__(self) -> None:
        self.called = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.called = True


def note() -> None:
    """From now on SIGHUP no longer ends the process. To be called in the main thread, as early as can be."""
    signal.signal(signal.SIGHUP, _Note())


def noted() -> bool:
    """Whether SIGHUP came since `note`; False where that was not called, or where another handler took over."""
    handler = signal.getsignal(signal.SIGHUP)
    return isinstance(handler, _Note) and handler.called
