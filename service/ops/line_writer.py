"""Whole lines to a file descriptor that somebody else reads, such as stderr, without ever waiting for the reader.

A pipe that nobody reads fills up, and then a plain write blocks for ever. Knows nothing of what the lines say.
"""

import errno
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from functools import partial

_PIECE = 4096
"""A pipe that is ready takes so many bytes at once (PIPE_BUF on Linux), so such a write does not block."""
_MAX_WAITING_BYTES = 4 << 20
_POLL_MS = 100
_SLOW_READER = "its reader does not read"


class LineWriter:
    """Writes lines to a descriptor, from several threads. A line that cannot be finished never runs into the next.

    `is_torn`: the descriptor's last line has no end, so the first write begins with a newline.
    """

    def __init__(self, descriptor: int, is_torn: bool = False) -> None:
        self.descriptor = descriptor
        self._lock = threading.Lock()
        self._rest = b""  # of the line that is being written
        self._is_torn = is_torn
        self._poll = _polled(descriptor)  # used under the lock: a poll object serves one thread at a time

    def write(self, line: bytes) -> bool:
        """Write a line, which ends with a newline; False if only its beginning is out, and `finish` writes the rest.

        Raises BlockingIOError where the reader is too slow to take any of it now, OSError where it cannot be written.
        """
        with self._lock:
            if not self._push():
                raise BlockingIOError(errno.EAGAIN, _SLOW_READER)
            self._rest = b"\n" + line if self._is_torn else line
            length = len(self._rest)
            if self._push():
                return True
            if len(self._rest) == length:
                self._rest = b""
                raise BlockingIOError(errno.EAGAIN, _SLOW_READER)
            return False

    def finish(self) -> bool:
        """Write more of a line that was begun; whether nothing of it is left. Raises OSError."""
        with self._lock:
            return self._push()

    def wait(self) -> None:
        """Wait until the descriptor may take more, for a tenth of a second at most."""
        _polled(self.descriptor).poll(_POLL_MS)

    def _push(self) -> bool:
        """Write the rest of the line as far as its reader takes it; whether nothing is left."""
        while self._rest:
            if not self._poll.poll(0):
                return False
            try:
                written = os.write(self.descriptor, self._rest[:_PIECE])
            except BlockingIOError:
                return False
            except OSError:
                self._rest = b""
                raise
            self._is_torn = self._rest[written - 1 : written] != b"\n"
            self._rest = self._rest[written:]
        return True


def _polled(descriptor: int) -> "select.poll":
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll


class BackgroundLines:
    """Writes lines at once where their reader takes them, else in a thread of its own, in order.

    A full queue drops lines, and a later line counts them. `dropped_line`: makes the line that says how many.
    """

    def __init__(self, writer: LineWriter, dropped_line: Callable[[int], bytes]) -> None:
        self._writer, self._dropped_line = writer, dropped_line
        self._lines: deque[tuple[Callable[[], bool], int]] = deque()  # writes a line or its rest; bytes of the line
        self._bytes = self._dropped = 0
        self._is_closing = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="tilebeam-log", daemon=True).start()

    def put(self, line: bytes) -> None:
        """Write or queue a line; returns at once."""
        with self._changed:
            attempt = partial(self._writer.write, line)
            if not self._lines:  # waking the thread would take longer
                try:
                    if attempt():
                        return
                    attempt = partial(self._writer.finish)
                except BlockingIOError:
                    pass
                except OSError:  # a full disk, a closed pipe: there is nowhere to say so
                    return
            if self._bytes + len(line) > _MAX_WAITING_BYTES:
                self._dropped += 1
                return
            self._lines.append((attempt, len(line)))
            self._bytes += len(line)
            self._changed.notify_all()

    def close(self, seconds: float = 2.0) -> None:
        """Write what is queued, as far as the time allows, and end the thread."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lines, seconds)
            self._is_closing = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (attempt := self._next()) is not None:
            self._write(attempt)
            with self._changed:
                self._bytes -= self._lines.popleft()[1]
                dropped, self._dropped = self._dropped, 0
                if dropped:
                    line = self._dropped_line(dropped)
                    self._lines.appendleft((partial(self._writer.write, line), len(line)))
                    self._bytes += len(line)
                self._changed.notify_all()

    def _next(self) -> Callable[[], bool] | None:
        """Writes the oldest line, which stays in the queue until it is out; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._lines) or self._is_closing)
            return self._lines[0][0] if self._lines and not self._is_closing else None

    def _write(self, attempt: Callable[[], bool]) -> None:
        is_out = False
        while not is_out and not self._is_closing:
            try:
                is_out = attempt()
                attempt = partial(self._writer.finish)
            except BlockingIOError:
                pass  # nothing of it is out
            except OSError:  # a full disk, a closed pipe: there is nowhere to say so
                return
            if not is_out:
                self._writer.wait()
