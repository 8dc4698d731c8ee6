"""Decodes pictures within limits of memory and time that are enforced: `PictureDecoder`.

Most pictures are decoded in the caller's thread, as `retrieval.pictures.photo.read_photo` does. What takes much memory,
or a decoder that may take long, print or fail (see `Work.is_ordinary`), goes to a child process, one picture at a time,
which is ended where the time is up. The pixels are equal to the bit.
"""

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from retrieval.decoding.process import DecodingProcess
from retrieval.pictures.limits import DECODE_TIMEOUT_S, DEFAULT_LIMITS, PhotoLimits, View
from retrieval.pictures.photo import WHOLE, Photo, decode
from retrieval.pictures.work import inspect

__all__ = ["Abandoning", "PictureDecoder", "shared_decoder"]


class AbandonedError(Exception):
    """Nobody waits for the picture any more."""


class Abandoning:
    """Ends the decoding of one picture from another thread, once nobody waits for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: DecodingProcess | None = None
        self._is_over = False

    def __call__(self) -> None:
        """End it, or keep it from beginning."""
        with self._lock:
            self._is_over = True
            if self._process is not None:
                self._process.interrupt()

    @contextmanager
    def during(self, process: DecodingProcess) -> Iterator[None]:
        """Remember the process while it decodes."""
        with self._lock:
            if self._is_over:
                raise AbandonedError
            self._process = process
        try:
            yield
        finally:
            with self._lock:
                self._process = None
            if self._is_over:
                process.kill()


class PictureDecoder:
    """Decodes pictures, large and risky ones in a child that is started when the first one comes.

    `timeout_s`: seconds after which a child is ended. `max_memory`: bytes that a picture may take there. Safe to share
    between threads, which wait for each other where they need the child.
    """

    def __init__(self, max_memory: int = DEFAULT_LIMITS.max_memory, timeout_s: float = DECODE_TIMEOUT_S) -> None:
        self._max_memory, self.timeout_s = max_memory, timeout_s
        self._lock = threading.Lock()
        self._process: DecodingProcess | None = None

    def read(self, data: bytes, limits: PhotoLimits = DEFAULT_LIMITS, views: Sequence[View] = WHOLE) -> Photo:
        """Decode a picture to views of it; raises the PhotoErrors and DecoderErrors of `retrieval.errors`."""
        work = inspect(data, limits, views)
        return decode(data, work, views) if work.is_ordinary else self.read_apart(data, limits, views)

    def read_apart(
        self,
        data: bytes,
        limits: PhotoLimits = DEFAULT_LIMITS,
        views: Sequence[View] = WHOLE,
        abandoning: Abandoning | None = None,
    ) -> Photo:
        """Decode any picture in the child."""
        with self._lock:
            process = self._usable()
            with (abandoning or Abandoning()).during(process):
                return process.read(data, limits, views, self.timeout_s)

    def close(self) -> None:
        """End the child, also in the middle of a picture. It may be started again."""
        process = self._process
        if process is not None:
            process.interrupt()
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process = None

    def _usable(self) -> DecodingProcess:
        if self._process is None or not self._process.is_usable:
            if self._process is not None:
                self._process.kill()
            self._process = DecodingProcess(self._max_memory)
        return self._process


@functools.cache
def shared_decoder() -> PictureDecoder:
    """The decoder of this process with default limits, for what runs offline."""
    return PictureDecoder()
