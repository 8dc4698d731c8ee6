"""Clients of the HTTP service. They need httpx, not the engine; this module knows the HTTP contract only.

with Client("http://127.0.0.1:8000") as client:
    answer = client.locate(Path("photo.jpg"), k=64)
    for line in client.locate_batch([Path("a.jpg"), Path("b.jpg")]):
        print(line["name"], line.get("result") or line["error"]["detail"])

After 429 or 503 with `Retry-After`, a client waits as long as the service says and tries again, a few times.
`AsyncClient` has the same methods for asyncio.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack, cast

import httpx

from service.client.photos import Photo, content_of, is_picture, multipart, name_of, opened
from service.client.types import Answer, Index, Line, LocateOptions
from service.errors import MEDIA_TYPE, ClientError, LocalFileError, ProblemError, problem_of

__all__ = ["AsyncClient", "Client", "ClientError", "ProblemError"]

_RETRY_STATUSES = frozenset({429, 503})
_MAX_WAIT_S = 60.0
_FILES_PER_REQUEST = 32
"""For `locate_folder`: few enough for a service's limits, enough to fill its batches."""


class _Connection:
    """Shared by both clients: address, key, retries, and httpx's errors as ClientError."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float, retries: int) -> None:
        self.url = url.rstrip("/")
        self.retries = retries
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http_options: dict[str, Any] = {"timeout": timeout_s, "headers": headers}

    def _wait_s(self, response: httpx.Response, tried: int) -> float | None:
        """Seconds until the next try; None for no further try."""
        if response.status_code not in _RETRY_STATUSES or tried >= self.retries:
            return None
        retry_after = response.headers.get("retry-after", "")
        return min(float(retry_after), _MAX_WAIT_S) if retry_after.isdecimal() else None

    @contextmanager
    def _client_errors(self) -> Iterator[None]:
        """Raise httpx's errors as ClientError."""
        try:
            yield
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as exc:
            raise ClientError(f"{self.url!r} is not a service's address; write it like http://127.0.0.1:8000") from exc
        except httpx.TimeoutException as exc:
            raise ClientError(f"{self.url} did not answer in time; it may be overloaded, try again later") from exc
        except httpx.HTTPError as exc:
            raise ClientError(
                f"no answer from {self.url} ({exc}); check the address, or start a service with `tilebeam serve`"
            ) from exc

    def _check_count(self, answered: int, sent: int) -> None:
        if answered != sent:
            raise ClientError(f"{self.url} answered {answered} of {sent} pictures and stopped; send the rest again")


class Client(_Connection):
    """Client of one service. Raises ProblemError if it refuses a request, ClientError if there is no valid answer."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 60.0, retries: int = 3) -> None:
        """`url`: address of the service, such as `http://127.0.0.1:8000`; `timeout_s`: longest silence, in seconds;
        `retries`: how often to try again after 429 or 503.
        """
        super().__init__(url, api_key, timeout_s, retries)
        self._http = httpx.Client(**self._http_options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def describe(self) -> Index:
        """The loaded index: `GET /index`."""
        with self._answer("GET", "/index") as response:
            return cast(Index, _object(self.url, response.read()))

    def locate(self, photo: Photo, **options: Unpack[LocateOptions]) -> Answer:
        """Locate one picture."""
        request = _single_request(photo, _params(options))
        with self._answer("POST", "/locate", **request) as response:
            return cast(Answer, _object(self.url, response.read()))

    def locate_batch(self, photos: Sequence[Photo], **options: Unpack[LocateOptions]) -> Iterator[Line]:
        """Yield a line for each picture, in order, as it arrives. Files are read while they are sent.

        A file that cannot be read on this machine has a line with an `error`, too.
        """
        error_lines, sent = _readable(photos)
        with closing(self._batch(sent, _params(options))) as answered:
            for index, line in error_lines.items():
                yield cast(Line, line if line is not None else {**next(answered), "index": index})

    def locate_folder(self, folder: Path, **options: Unpack[LocateOptions]) -> Iterator[tuple[Path, Line]]:
        """Yield (path, line) for every picture file below a folder, sorted by path, in requests of 32 files."""
        paths = iter(sorted(path for path in folder.rglob("*") if is_picture(path)))
        while group := list(islice(paths, _FILES_PER_REQUEST)):
            yield from zip(group, self.locate_batch(group, **options), strict=True)

    def _batch(self, photos: list[Photo], params: dict[str, str]) -> Generator[dict[str, Any], None, None]:
        if not photos:
            return
        count = 0
        boundary, request = _multipart_request(params)
        with self._answer("POST", "/locate/batch", body=lambda: multipart(photos, boundary), **request) as response:
            for text in response.iter_lines():
                yield _object(self.url, text)
                count += 1
        self._check_count(count, len(photos))

    @contextmanager
    def _answer(self, method: str, path: str, *, body: Any = None, **request: Any) -> Iterator[httpx.Response]:
        """A successful response, its body not yet read; raises ProblemError or ClientError.

        `body` makes the request's body; it is called again for each try.
        """
        for tried in range(self.retries + 1):
            content = {} if body is None else {"content": body()}
            with self._client_errors(), self._http.stream(method, self.url + path, **content, **request) as response:
                wait = self._wait_s(response, tried)
                if wait is None:
                    if not response.is_success:
                        response.read()
                        raise _error_of(self.url, response)
                    yield response
                    return
            time.sleep(wait)


class AsyncClient(_Connection):
    """`Client` for asyncio: the same methods, awaited; batches are asynchronous iterators."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 60.0, retries: int = 3) -> None:
        """As `Client`."""
        super().__init__(url, api_key, timeout_s, retries)
        self._http = httpx.AsyncClient(**self._http_options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def describe(self) -> Index:
        """The loaded index: `GET /index`."""
        async with self._answer("GET", "/index") as response:
            return cast(Index, _object(self.url, await response.aread()))

    async def locate(self, photo: Photo, **options: Unpack[LocateOptions]) -> Answer:
        """Locate one picture; a file is read in a thread."""
        request = await asyncio.to_thread(_single_request, photo, _params(options))
        async with self._answer("POST", "/locate", **request) as response:
            return cast(Answer, _object(self.url, await response.aread()))

    async def locate_batch(self, photos: Sequence[Photo], **options: Unpack[LocateOptions]) -> AsyncIterator[Line]:
        """As `Client.locate_batch`."""
        error_lines, sent = await asyncio.to_thread(_readable, photos)
        async with aclosing(self._batch(sent, _params(options))) as answered:
            for index, line in error_lines.items():
                yield cast(Line, line if line is not None else {**await anext(answered), "index": index})

    async def _batch(self, photos: list[Photo], params: dict[str, str]) -> AsyncGenerator[dict[str, Any], None]:
        if not photos:
            return
        count = 0
        boundary, request = _multipart_request(params)
        async with self._answer(
            "POST", "/locate/batch", body=lambda: _read_in_threads(photos, boundary), **request
        ) as response:
            async for text in response.aiter_lines():
                yield _object(self.url, text)
                count += 1
        self._check_count(count, len(photos))

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, *, body: Any = None, **request: Any
    ) -> AsyncIterator[httpx.Response]:
        for tried in range(self.retries + 1):
            content = {} if body is None else {"content": body()}
            with self._client_errors():
                async with self._http.stream(method, self.url + path, **content, **request) as response:
                    wait = self._wait_s(response, tried)
                    if wait is None:
                        if not response.is_success:
                            await response.aread()
                            raise _error_of(self.url, response)
                        yield response
                        return
            await asyncio.sleep(wait)


async def _read_in_threads(photos: list[Photo], boundary: str) -> AsyncIterator[bytes]:
    """The form in chunks, each read in a thread."""
    chunks = multipart(photos, boundary)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def _single_request(photo: Photo, params: dict[str, str]) -> dict[str, Any]:
    return {"params": params, "files": {"image": (name_of(photo), content_of(photo))}}


def _multipart_request(params: dict[str, str]) -> tuple[str, dict[str, Any]]:
    boundary = secrets.token_hex(16)
    return boundary, {"params": params, "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"}}


def _readable(photos: Sequence[Photo]) -> tuple[dict[int, dict[str, Any] | None], list[Photo]]:
    """By index an error line for an unreadable file, None for the other pictures; and the list of those others."""
    lines = {index: _error_line(index, photo) for index, photo in enumerate(photos)}
    return lines, [photos[index] for index, line in lines.items() if line is None]


def _error_line(index: int, photo: Photo) -> dict[str, Any] | None:
    if isinstance(photo, Path):
        try:
            opened(photo).close()
        except LocalFileError as error:
            return {"index": index, "name": photo.name, "error": problem_of(error)}
    return None


def _params(options: LocateOptions) -> dict[str, str]:
    """The options as query parameters; None is the service's default."""
    if unknown := options.keys() - LocateOptions.__annotations__.keys():
        raise TypeError(f"unknown option {min(unknown)!r}; use {', '.join(LocateOptions.__annotations__)}")
    return {name: _text(value) for name, value in options.items() if value is not None}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(repr, value)) if isinstance(value, tuple | list) else str(value)


def _error_of(url: str, response: httpx.Response) -> ClientError:
    if response.headers.get("content-type", "").startswith(MEDIA_TYPE):
        return ProblemError(_object(url, response.content))
    return ClientError(f"{url} answered {response.status_code} without a problem document; is it a Tilebeam service?")


def _object(url: str, text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise ClientError(f"{url} answered something other than JSON; is it a Tilebeam service?") from exc
    if not isinstance(value, dict):
        raise ClientError(f"{url} answered JSON that is not an object; is it a Tilebeam service?")
    return value
