"""Reads pictures from request bodies. Limits are checked while the body arrives, whatever its headers claim.

Multipart bodies are parsed while they stream, by python_multipart's callbacks. A single picture is held in memory. A
batch is stored in one unnamed temporary file, which the system removes with its last handle, even after kill -9. This
module knows nothing of decoding.
"""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from retrieval.errors import PhotoTooLargeError
from service.errors import BodyTooLargeError, RequestError, SlowUploadError, SpoolError, UnsupportedBodyError
from service.settings import Settings

_FRAMING_BYTES = 65_536
"""Allowance for the boundaries and part headers of a form with one picture."""
_FLUSH_BYTES = 1 << 20
"""The spool writes to disk when so many bytes are pending."""


class PartSink(Protocol):
    """Receives the parts of a multipart body, in order."""

    def begin(self, field: str, filename: str | None) -> None: ...
    def data(self, chunk: bytes) -> None: ...


@dataclass
class UploadedPhoto:
    """The bytes of one picture. `sha256`: their hash in hexadecimal, for the audit; set by `read`."""

    data: bytes
    sha256: str | None = None

    def read(self) -> bytes:
        """The bytes. Hashing them takes time: call it in a decoding thread."""
        self.sha256 = hashlib.sha256(self.data).hexdigest()
        return self.data


async def read_photo(request: Request, settings: Settings) -> UploadedPhoto:
    """Read the picture of `POST /locate`: the form's file `image`, or the body itself for an image/* type."""
    media_type, options = _content_type(request)
    if media_type == "multipart/form-data":
        photo = _OnePhoto(settings.max_image_bytes)
        await _parse(request, options, photo, settings.max_image_bytes + _FRAMING_BYTES, settings)
        return UploadedPhoto(photo.result())
    if media_type.startswith("image/"):
        body = bytearray()
        async for chunk in _chunks(request, settings.max_image_bytes, settings):
            body += chunk
        return UploadedPhoto(bytes(body))
    raise UnsupportedBodyError(
        f"content type {media_type or 'none'!r} is not accepted; send multipart/form-data with a file field 'image', "
        "or the picture's bytes with an image/* content type"
    )


async def read_batch(request: Request, settings: Settings, spool: "Spool") -> None:
    """Read the pictures of `POST /locate/batch` into a spool. The caller closes the spool, also after an error."""
    media_type, options = _content_type(request)
    if media_type != "multipart/form-data":
        raise UnsupportedBodyError(
            f"content type {media_type or 'none'!r} is not accepted; send multipart/form-data with file fields 'images'"
        )
    await _parse(request, options, spool, settings.max_batch_bytes, settings)
    await spool.end()
    if not spool.photos:
        raise RequestError("the form has no picture; send one file field 'images' for each")


def _content_type(request: Request) -> tuple[str, dict[bytes, bytes]]:
    name, options = parse_options_header(request.headers.get("content-type"))
    return name.decode("latin-1"), options


async def _chunks(request: Request, limit: int, settings: Settings) -> AsyncIterator[bytes]:
    """The body as it arrives; raises BodyTooLargeError as soon as the header or the bytes read exceed the limit."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(f"{int(declared):,}", limit)
    received = 0
    stream = request.stream()
    while chunk := await _next(stream, settings.client_timeout_s):
        received += len(chunk)
        if received > limit:
            raise _too_large(f"over {limit:,}", limit)
        yield chunk


async def _next(stream: AsyncIterator[bytes], timeout_s: float) -> bytes:
    """The next chunk; empty at the end of the body. `Request.stream` yields no other empty chunk."""
    try:
        async with asyncio.timeout(timeout_s):
            return await anext(stream, b"")
    except TimeoutError as exc:
        raise SlowUploadError(
            f"nothing arrived for {timeout_s:g} s in the middle of the upload; send it again"
        ) from exc


def _too_large(size: str, limit: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"the request has {size} bytes and {limit:,} are allowed; send less at once")


async def _parse(
    request: Request, options: dict[bytes, bytes], sink: "_OnePhoto | Spool", limit: int, settings: Settings
) -> None:
    form = _Form(options.get(b"boundary", b""), sink)
    async for chunk in _chunks(request, limit, settings):
        form.feed(chunk)
        await sink.settle()
    form.finish()


class _Form:
    """Forwards python_multipart's callbacks to a sink; its errors become RequestError."""

    def __init__(self, boundary: bytes, sink: PartSink) -> None:
        if not boundary:
            raise RequestError("the content type multipart/form-data has no boundary; let your HTTP library set it")
        self._sink = sink
        self._name = bytearray()
        self._value = bytearray()
        self._disposition = self._type = b""
        self._ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": lambda data, start, end: sink.data(data[start:end]),
                    "on_end": self._on_end,
                },
            )
        except FormParserError as exc:
            raise RequestError(f"the multipart boundary cannot be used: {exc}") from exc

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body."""
        try:
            self._parser.write(chunk)
        except FormParserError as exc:
            raise RequestError(f"the multipart body is malformed: {exc}; let your HTTP library write it") from exc

    def finish(self) -> None:
        """Raise RequestError unless the closing boundary was seen."""
        if not self._ended:
            raise RequestError("the multipart body ends before its closing boundary; send it again, whole")

    def _on_part_begin(self) -> None:
        self._disposition = self._type = b""

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        elif self._name.lower() == b"content-type":
            self._type = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise RequestError("a part of the form has no field name; let your HTTP library write the form")
        # A file may have no name (RFC 7578, 4.2); then its content type says whether it is a picture or text.
        filename = options.get(b"filename", b"" if self._type.lower().startswith(b"image/") else None)
        self._sink.begin(_text(options[b"name"]), None if filename is None else _text(filename))

    def _on_end(self) -> None:
        self._ended = True


def _text(raw: bytes) -> str:
    """Decode a name as UTF-8, as HTML forms send it; invalid bytes become replacement characters."""
    return raw.decode("utf-8", errors="replace")


def _check_field(field: str, filename: str | None, expected: str) -> None:
    if field != expected:
        raise RequestError(f"unknown form field {field!r}; send the picture as a file field {expected!r}")
    if filename is None:
        raise RequestError(
            f"form field {field!r} is text; send it as a file (with a filename), as `curl -F` does with @"
        )


class _OnePhoto:
    """A sink for exactly one file field `image` of at most `max_bytes` bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._body: bytearray | None = None

    def begin(self, field: str, filename: str | None) -> None:
        _check_field(field, filename, "image")
        if self._body is not None:
            raise RequestError("the form has several files 'image'; send one, or several 'images' to /locate/batch")
        self._body = bytearray()

    def data(self, chunk: bytes) -> None:
        assert self._body is not None
        self._body += chunk
        if len(self._body) > self._max_bytes:
            raise PhotoTooLargeError(
                f"the picture has over {self._max_bytes:,} bytes, which is the limit; send a smaller copy"
            )

    async def settle(self) -> None:
        """Does nothing: the picture stays in memory."""

    def result(self) -> bytes:
        """The picture's bytes; raises RequestError if there was none."""
        if self._body is None:
            raise RequestError("the form has no file 'image'; send the picture as a file field 'image'")
        return bytes(self._body)


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
        _check_field(field, filename, "images")
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
