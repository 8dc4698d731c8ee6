"""The child that decodes, as its parent sees it: started, asked, ended.

One caller at a time. Knows nothing of which pictures go there.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from PIL import Image

from retrieval.decoding.frames import receive, receive_bytes, send, send_bytes
from retrieval.decoding.worker import STRIP_BYTES
from retrieval.errors import (
    DecodeMemoryError,
    DecoderDiedError,
    PhotoTooLargeError,
    PhotoTooSlowError,
    UnreadablePhotoError,
    UnsupportedPhotoError,
)
from retrieval.pictures.limits import PhotoLimits, View
from retrieval.pictures.photo import Photo

__all__ = ["DecodingProcess"]

_ERRORS = {error.__name__: error for error in (UnreadablePhotoError, PhotoTooLargeError, UnsupportedPhotoError)}
_START_S = 60.0
"""How long a start may take, on a machine that is busy; usually half a second."""
_END_S = 5.0
_MAX_PICTURES = 1_000
"""After so many it is replaced, in case that a codec keeps memory."""
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")
"""What a child may know of the environment; the keys and settings in it are not for what decodes pictures."""


class DecodingProcess:
    """A running child. Raises DecoderDiedError where it cannot be started.

    `is_usable`: whether it may be given another picture. `max_memory`: bytes that a picture may take.
    """

    def __init__(self, max_memory: int) -> None:
        self._max_memory = max_memory
        self._pictures = 0
        self._parent = os.getpid()
        self._connection, there = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "retrieval.decoding.worker", str(there.fileno()), str(max_memory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                env=_environment(),
                start_new_session=True,  # Ctrl-C in a terminal is for the parent
            )
        except OSError as exc:
            self._connection.close()
            raise DecoderDiedError(f"no process to decode the picture can be started ({exc}); try again later") from exc
        finally:
            there.close()
        # Also at the end of the interpreter.
        self._end = weakref.finalize(self, _end, self._process, self._connection, self._parent)
        try:
            receive(self._connection, time.monotonic() + _START_S)
        except (EOFError, OSError, ValueError) as exc:
            self.kill()
            raise DecoderDiedError("no process to decode the picture can be started; try again later") from exc

    @property
    def is_usable(self) -> bool:
        """Whether it runs, and belongs to this process and not to one that this was forked from."""
        return self._end.alive and self._parent == os.getpid() and self._process.poll() is None

    def kill(self) -> None:
        """End it at once; may be called from any thread, and again."""
        self._end()

    def interrupt(self) -> None:
        """End what it does; for another thread than the one that reads its answer."""
        if self._parent == os.getpid():
            self._process.kill()

    def read(self, data: bytes, limits: PhotoLimits, views: Sequence[View], timeout_s: float) -> Photo:
        """Decode a picture there; see `retrieval.pictures.photo.read_photo`.

        Raises the PhotoErrors, among them PhotoTooSlowError after `timeout_s` seconds, and DecoderErrors.
        """
        until = time.monotonic() + timeout_s
        self._pictures += 1
        is_in_step = False
        try:
            send(self._connection, _request(data, limits, views, timeout_s), until)
            send_bytes(self._connection, data, until)
            answer = receive(self._connection, until)
            outcome = self._error(answer) if "error" in answer else self._photo(answer, limits, views, until)
            is_in_step = not answer["is_last"] and self._pictures < _MAX_PICTURES
        except TimeoutError as exc:
            raise _too_slow(timeout_s) from exc
        except (EOFError, OSError, ValueError, KeyError, TypeError) as exc:
            raise self._death(timeout_s) from exc
        finally:
            if not is_in_step:
                self.kill()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _photo(self, answer: dict[str, Any], limits: PhotoLimits, views: Sequence[View], until: float) -> Photo:
        sizes = [(int(width), int(height)) for width, height in answer["sizes"]]
        if len(sizes) != len(views):
            raise ValueError(f"{len(sizes)} views")
        for (width, height), view in zip(sizes, views, strict=True):
            is_sized = view.preprocess is None or width == height == view.preprocess.size
            if min(width, height) < 1 or width * height > limits.max_pixels or not is_sized:
                raise ValueError(f"a view of {width} x {height} pixels")
        images = [self._image(size, until) for size in sizes]
        width, height = answer["stored"]
        return Photo(
            tuple(images), tuple(str(note) for note in answer["notes"]), (int(width), int(height)), int(answer["turn"])
        )

    def _image(self, size: tuple[int, int], until: float) -> Image.Image:
        strips = self._strips(size, until)
        first = next(strips)
        if first.size == size:
            return first
        image = Image.new("RGB", size)
        image.paste(first, (0, 0))
        top = first.height
        for strip in strips:
            image.paste(strip, (0, top))
            top += strip.height
        return image

    def _strips(self, size: tuple[int, int], until: float) -> Iterator[Image.Image]:
        width, height = size
        rows = max(1, STRIP_BYTES // (3 * width))
        for top in range(0, height, rows):
            count = min(rows, height - top)
            pixels = receive_bytes(self._connection, 3 * width * count, until)
            yield Image.frombytes("RGB", (width, count), bytes(pixels))

    def _error(self, answer: dict[str, Any]) -> Exception:
        if answer["error"] == MemoryError.__name__:
            return PhotoTooLargeError(
                f"decoding the picture takes more than {self._max_memory:,} bytes of memory, which are allowed; send a "
                "smaller copy, or save it as an ordinary JPEG"
            )
        return _ERRORS[answer["error"]](str(answer["message"]))

    def _death(self, timeout_s: float) -> Exception:
        """Why it gave no answer."""
        try:
            code = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            code = 0
        if code in (-signal.SIGALRM, -signal.SIGXCPU):
            return _too_slow(timeout_s)
        if code == -signal.SIGKILL:
            return DecodeMemoryError(
                "the process that decoded the picture was ended, as where memory runs out; try again later"
            )
        how = signal.Signals(-code).name if code < 0 else f"code {code}"
        return DecoderDiedError(
            f"the process that decoded the picture ended ({how}); save the picture as an ordinary JPEG, or try again"
        )


def _too_slow(timeout_s: float) -> PhotoTooSlowError:
    return PhotoTooSlowError(
        f"decoding the picture takes longer than {timeout_s:g} s, which are allowed; send a smaller copy, or save it "
        "as an ordinary JPEG"
    )


def _request(data: bytes, limits: PhotoLimits, views: Sequence[View], timeout_s: float) -> dict[str, Any]:
    return {
        "bytes": len(data),
        "limits": asdict(limits),
        "views": [
            {"min_edge": min_edge, "preprocess": None if preprocess is None else preprocess.to_json()}
            for min_edge, preprocess in views
        ],
        "timeout_s": timeout_s,
    }


def _environment() -> dict[str, str]:
    """With this process's search path for modules, and one thread: a pool of threads would count as memory."""
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    return kept | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket, parent: int) -> None:
    if os.getpid() != parent:  # in a fork of the parent: the child is not this process's
        return
    process.kill()
    process.wait()
    connection.close()
