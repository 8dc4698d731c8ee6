"""A batch's pictures on disk: one unnamed temporary file, which the system removes with its last handle, even after
kill -9. Knows nothing of requests or decoding.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from retrieval.errors import PhotoTooLargeError
from service.errors import BodyTooLargeError, RequestError, SpoolError
from service.http.models import PARAMETERS
from service.settings import Settings

_FLUSH_BYTES = 1 << 20
"""The spool writes to disk when so many bytes are pending."""


def check_field(field: str, filename: str | None, expected: str) -> None:
    """Raise RequestError unless a part of a form is a file field of the expected name."""
    if field in PARAMETERS:
        raise RequestError(
            f"{field!r} is a query parameter, not a form field; add it to the address, as in ?{field}=..."
        )
    if field != expected:
        raise RequestError(f"unknown form field {field!r}; send the picture as a file field {expected!r}")
    if filename is None:
        raise RequestError(
            f"form field {field!r} is text; send it as a file (with a filename), as `curl -F` does with @"
        )


@dataclass
class SpooledPhoto:
    """Position of one picture in the spool. `size` counts all bytes received, `stored` those within the limit."""

    name: str
    offset: int
    size: int = 0
    stored: int = 0
    sha256: str | None = None
    """Hash of the stored bytes, for the audit; set by `Spool.read`."""

    @property
    def end(self) -> int:
        """Offset of the first byte after the picture."""
        return self.offset + self.stored


class Spool:
    """The pictures of one batch, one after another in an unnamed temporary file.

    The first `arrived` pictures are complete on disk. `ended`: the upload is complete. `on_arrival` is called on the
    event loop whenever either may have changed.
    """

    def __init__(self, settings: Settings) -> None:
        self.photos: list[SpooledPhoto] = []
        self.arrived, self.ended = 0, False
        self.on_arrival: Callable[[], None] = _ignore
        self._max_bytes = settings.max_image_bytes
        self._max_images = settings.max_batch_images
        self._pending = bytearray()
        self._length = self._on_disk = 0
        try:
            self._file = tempfile.TemporaryFile(dir=settings.spool_dir or None)  # noqa: SIM115 - closed by close()
        except OSError as exc:
            raise SpoolError(f"the temporary store cannot be opened ({exc.strerror}); try again later") from exc

    def begin(self, field: str, filename: str | None) -> None:
        check_field(field, filename, "images")
        if len(self.photos) == self._max_images:
            raise BodyTooLargeError(
                f"the batch has over {self._max_images:,} pictures, which is the limit; send it in parts"
            )
        self.photos.append(SpooledPhoto(filename or "", self._length))

    def data(self, chunk: bytes) -> None:
        photo = self.photos[-1]
        photo.size += len(chunk)
        if photo.size <= self._max_bytes:
            self._pending += chunk
            self._length += len(chunk)
            photo.stored += len(chunk)

    async def settle(self) -> None:
        """Write the pending bytes to disk if there are many."""
        if len(self._pending) >= _FLUSH_BYTES:
            await self._flush()

    async def end(self) -> None:
        """Mark the upload as complete and write the pending bytes."""
        self.ended = True
        await self._flush()

    async def _flush(self) -> None:
        """Write the pending bytes; raises SpoolError, for example if the disk is full."""
        pending, self._pending = self._pending, bytearray()
        await asyncio.to_thread(self._write, pending)
        self._on_disk += len(pending)
        complete = self.photos if self.ended else self.photos[:-1]
        while self.arrived < len(complete) and complete[self.arrived].end <= self._on_disk:
            self.arrived += 1
        self.on_arrival()

    def _write(self, pending: bytearray) -> None:
        try:
            self._file.write(pending)
            self._file.flush()
        except OSError as exc:
            raise SpoolError(f"the temporary store cannot be written ({exc.strerror}); try again later") from exc

    def read(self, photo: SpooledPhoto) -> bytes:
        """One picture's bytes; thread-safe. Raises PhotoTooLargeError for a picture over the limit."""
        if photo.size > self._max_bytes:
            raise PhotoTooLargeError(
                f"the picture has {photo.size:,} bytes and {self._max_bytes:,} are allowed; send a smaller copy"
            )
        data = os.pread(self._file.fileno(), photo.stored, photo.offset)
        photo.sha256 = hashlib.sha256(data).hexdigest()
        return data

    def close(self) -> None:
        """Close the file, which frees its disk space."""
        self._file.close()


def _ignore() -> None:
    """Default `on_arrival`."""
