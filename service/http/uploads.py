"""Reads pictures from request bodies. Limits are checked while the body arrives, whatever its headers claim.

Multipart bodies are parsed while they stream, by python_multipart's callbacks. A single picture is held in memory, a
batch in a spool. This module knows nothing of decoding.
"""

import hashlib
from dataclasses import dataclass
from typing import Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from retrieval.errors import PhotoTooLargeError
from service.engine.shares import Holding
from service.errors import RequestError, UnsupportedBodyError, shortened
from service.http.body import chunks
from service.http.spool import Spool, check_field
from service.settings import Settings

_FRAMING_BYTES = 65_536
"""Allowance for the boundaries and part headers of a form with one picture."""


class PartSink(Protocol):
    """Receives the parts of a multipart body, in order."""

    def begin(self, field: str, filename: str | None) -> None: ...
    def data(self, chunk: bytes) -> None: ...


@dataclass
class UploadedPhoto:
    """The bytes of one picture. `sha256`: their hash in hexadecimal, for the audit; set by `read`."""

    data: bytes
    sha256: str | None = None

    def discard(self) -> None:
        """Drop the bytes, which nobody needs once the picture is decoded."""
        self.data = b""

    def read(self) -> bytes:
        """The bytes. Hashing them takes time: call it in a decoding thread."""
        self.sha256 = hashlib.sha256(self.data).hexdigest()
        return self.data


async def read_photo(request: Request, holding: Holding, settings: Settings) -> UploadedPhoto:
    """Read the picture of `POST /locate`: the form's file `image`, or the body itself for an image/* type.

    `holding` grows with the bytes that are in memory.
    """
    media_type, options = _content_type(request)
    if media_type == "multipart/form-data":
        photo = _OnePhoto(settings.max_image_bytes)
        await _parse(request, options, photo, settings.max_image_bytes + _FRAMING_BYTES, holding, settings)
        return UploadedPhoto(photo.result())
    if media_type.startswith("image/"):
        body = bytearray()
        async for chunk in chunks(request, settings.max_image_bytes, holding, settings):
            body += chunk
        return UploadedPhoto(bytes(body))
    raise UnsupportedBodyError(
        f"content type {media_type or 'none'!r} is not accepted; send multipart/form-data with a file field 'image', "
        "or the picture's bytes with an image/* content type"
    )


async def read_batch(request: Request, spool: Spool, holding: Holding, settings: Settings) -> None:
    """Read the pictures of `POST /locate/batch` into a spool. The caller closes the spool, also after an error.

    `holding` grows with the bytes in the spool.
    """
    media_type, options = _content_type(request)
    if media_type != "multipart/form-data":
        raise UnsupportedBodyError(
            f"content type {media_type or 'none'!r} is not accepted; send multipart/form-data with file fields 'images'"
        )
    await _parse(request, options, spool, min(settings.max_batch_bytes, settings.max_spool_bytes), holding, settings)
    await spool.end()
    if not spool.photos:
        raise RequestError("the form has no picture; send one file field 'images' for each")


def _content_type(request: Request) -> tuple[str, dict[bytes, bytes]]:
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedBodyError(
            f"content encoding {shortened(coding, 40)!r} is not accepted; send the body as it is"
        )
    name, options = parse_options_header(request.headers.get("content-type"))
    return name.decode("latin-1"), options


async def _parse(
    request: Request,
    options: dict[bytes, bytes],
    sink: "_OnePhoto | Spool",
    limit: int,
    holding: Holding,
    settings: Settings,
) -> None:
    form = _Form(options.get(b"boundary", b""), sink)
    async for chunk in chunks(request, limit, holding, settings):
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


class _OnePhoto:
    """A sink for exactly one file field `image` of at most `max_bytes` bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._body: bytearray | None = None

    def begin(self, field: str, filename: str | None) -> None:
        check_field(field, filename, "image")
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
