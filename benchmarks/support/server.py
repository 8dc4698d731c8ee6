"""A `tilebeam serve` process over an index that is built for it, as the target of load benchmarks."""

import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import environ
from pathlib import Path

import psutil

from benchmarks.support import pyramid
from retrieval.encoders.open_clip import PhotoEncoder

__all__ = ["Server", "built_index", "started"]

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Server:
    """A running service: its address, its process, and the last lines of its log."""

    url: str
    process: psutil.Process
    log: deque[str]

    @property
    def rss(self) -> int:
        """The current resident memory of the process, in bytes."""
        return int(self.process.memory_info().rss)

    @property
    def processor_s(self) -> float:
        """Processor time so far of the process and those that it started, in seconds; 0 once it has ended."""
        try:
            times = [each.cpu_times() for each in (self.process, *self.process.children())]
        except psutil.Error:
            return 0.0
        return float(sum(each.user + each.system for each in times))

    @property
    def is_running(self) -> bool:
        """Whether the process that was started is still running (and its id was not reused)."""
        return bool(self.process.is_running()) and self.process.status() != psutil.STATUS_ZOMBIE


def built_index(directory: Path, leaves: int) -> Path:
    """A seeded index for the built-in encoder: the world at zooms 4 to 8 and `leaves` tiles of zoom 16."""
    encoder = PhotoEncoder.load("builtin", device="cpu")
    encoder.save(directory / "encoders")
    pyramid.build(directory, leaves, encoder.dim, photo=encoder.describe())
    return directory


@contextmanager
def started(index: Path, prefix: Sequence[str] = (), **settings: str) -> Iterator[Server]:
    """Serve an index on loopback; `settings`: TILEBEAM_ variables in lower case and without that prefix.

    `prefix`: words before the command that starts it; they must end in the service as the same process.
    """
    command = [*prefix, sys.executable, "tilebeam.py", "serve", "--index", str(index), "--port", "0", "--device", "cpu"]
    given = {f"TILEBEAM_{name.upper()}": value for name, value in settings.items()}
    process = subprocess.Popen(command, cwd=ROOT, env={**environ, **given}, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        seen: deque[str] = deque(maxlen=50_000)
        address = next((match[0] for line in lines if (match := _address(line, seen))), None)
        if address is None:
            raise SystemExit(f"the service over {index} ended before it listened:\n{''.join(seen)}")
        # Its log goes on, a line a request: unread, it would fill the pipe, and the service would wait for ever.
        threading.Thread(target=seen.extend, args=(lines,), daemon=True).start()
        yield Server(address, psutil.Process(process.pid), seen)
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:  # it hangs, which is what it was tried for
            process.kill()
            process.wait()


def _address(line: str, seen: deque[str]) -> re.Match[str] | None:
    seen.append(line)
    return re.search(r"http://[\d.:]+", line)
