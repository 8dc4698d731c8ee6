"""The decoding processes that a test's process has started, and waiting for what they do."""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def children() -> set[int]:
    """The decoding processes of this process that still run."""
    pids: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended since
            pids |= {int(pid) for pid in (task / "children").read_text().split()}
    return {pid for pid in pids if b"retrieval.decoding.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()}


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for a minute at most."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition did not become true in time"
        time.sleep(0.01)
