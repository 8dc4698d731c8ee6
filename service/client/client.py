"""Clients of the HTTP service. They need httpx, not the engine; this module knows the HTTP contract only.

with Client("http://127.0.0.1:8000") as client:
    answer = client.locate("photo.jpg", k=64)
    for line in client.locate_batch(["a.jpg", "b.jpg"]):
        print(line["name"], line.get("result") or line["error"]["detail"])

Locating changes nothing on the service, so a request is sent again after 429 or 503, and where a connection fails or is
dropped: see `service.client.failures`. `AsyncClient` has the same methods for asyncio.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Iterator, Sequence
from contextlib import aclosing, closing
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, Self, Unpack, cast

import httpx

from service.client.batches import Batch, Group, Refused, described
from service.client.connection import Route
from service.client.failures import Attempts, Failure, failure_of_exception, failure_of_response, is_answer, object_of
from service.client.options import query_of
from service.client.photos import Photo, Upload, check_photo, form, name_of, photo_list, pictures_below, upload_of
from service.client.types import Answer, Index, Line, LocateOptions
from service.errors import ClientError, LocalFileError, ProblemError, problem_of

__all__ = ["AsyncClient", "Client", "ClientError", "ProblemError"]

_FILES_PER_REQUEST = 32
"""For `locate_folder`: few enough for a service's limits, enough to fill its batches."""


class _Connection:
    """Shared by both clients: address, key, and how often to try."""

    def __init__(self, url: str, api_key: str | None, timeout_s: float, retries: int, deadline_s: float) -> None:
        self._route = Route(url, api_key)
        self.url = self._route.url
        self.retries = retries
        self.deadline_s = deadline_s
        self._refused = Refused()
        self._http_options: dict[str, Any] = {"timeout": timeout_s, "headers": self._route.headers}

    def _attempts(self) -> Attempts:
        return Attempts(self.retries, self.deadline_s)

    def _batch(self, uploads: Sequence[Upload]) -> Batch:
        return Batch(self._route.shown, uploads, self._refused, self._attempts)

    def _address(self, path: str) -> str:
        """The URL of a route. Raises ClientError if no request can be sent."""
        if self._route.fault is not None:
            raise self._route.fault
        return self.url + path

    def _failure(self, response: httpx.Response, sent: str) -> Failure:
        return failure_of_response(self._route.shown, response, sent)

    def _broken(self, error: httpx.HTTPError | httpx.InvalidURL) -> Failure:
        return failure_of_exception(self._route.shown, error)

    def _form(self, group: Group, params: dict[str, str], content: Any) -> dict[str, Any]:
        """The arguments of a batch's request."""
        address = self._address("/locate/batch")
        return {"method": "POST", "url": address, "params": params, "headers": group.headers, "content": content}

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        return object_of(self._route.shown, response.content)


class Client(_Connection):
    """Client of one service; threads may share it.

    Raises ProblemError if the service refuses a request, ClientError if there is no valid answer, LocalFileError (a
    ClientError) for a file that cannot be read, and TypeError or ValueError for arguments that no request can hold.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 8,
        deadline_s: float = 120.0,
    ) -> None:
        """`url`: address of the service, such as `http://127.0.0.1:8000`; `timeout_s`: longest silence, in seconds;
        `retries`: how often to try again; `deadline_s`: seconds after the first try in which another one may begin.
        """
        super().__init__(url, api_key, timeout_s, retries, deadline_s)
        self._http = httpx.Client(transport=self._route.transport(), **self._http_options)

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
        return cast(Index, self._send("GET", "/index", "nothing"))

    def locate(self, photo: Photo, **options: Unpack[LocateOptions]) -> Answer:
        """Locate one picture: a path, the bytes of a file, a binary file object, a PIL image or an array.

        `bbox`: four numbers, `west, south, east, north` in degrees. `within`: a GeoJSON object as a mapping or text, or
        the path of a GeoJSON file.
        """
        check_photo(photo)
        params, upload = query_of(options), upload_of(photo)
        return cast(Answer, self._send("POST", "/locate", described([upload]), **_picture(params, upload)))

    def locate_batch(self, photos: Iterable[Photo], **options: Unpack[LocateOptions]) -> Iterator[Line]:
        """Yield a line for each picture, in order, as it arrives. Files are read while they are sent.

        A file that cannot be read on this machine has a line with an `error`, too, as has one that is too large for the
        service or for a proxy before it. Arguments are checked by the call, before the first line.
        """
        return self._lines(photo_list(photos), query_of(options))

    def locate_folder(
        self, folder: str | PathLike[str], **options: Unpack[LocateOptions]
    ) -> Iterator[tuple[Path, Line]]:
        """Yield (path, line) for every picture file below a folder, sorted by path, in requests of 32 files.

        Pictures are recognised by suffix, in any case; names that begin with a dot are skipped. `index` counts the
        files. Raises LocalFileError for a folder that is missing or cannot be read.
        """
        return self._folder(pictures_below(folder), query_of(options))

    def _folder(self, paths: list[Path], params: dict[str, str]) -> Iterator[tuple[Path, Line]]:
        for first in range(0, len(paths), _FILES_PER_REQUEST):
            group = paths[first : first + _FILES_PER_REQUEST]
            for position, line in enumerate(self._lines(group, params)):
                yield group[position], cast(Line, {**line, "index": first + position})

    def _lines(self, photos: Sequence[Photo], params: dict[str, str]) -> Generator[Line, None, None]:
        uploads, errors = _readable(photos)
        with closing(self._answers(uploads, params)) as answers:
            for index, photo in enumerate(photos):
                error = errors.get(index)
                yield _line(index, photo, next(answers) if error is None else error)

    def _answers(self, uploads: list[Upload], params: dict[str, str]) -> Generator[dict[str, Any], None, None]:
        batch = self._batch(uploads)
        while (group := batch.next_group()) is not None:
            try:
                with self._http.stream(**self._form(group, params, form(group.uploads, group.boundary))) as response:
                    if is_answer(response):
                        for text in response.iter_lines():
                            yield batch.line(group, text)
                        batch.end(group)
                        continue
                    response.read()
                    failure = self._failure(response, described(group.uploads))
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = self._broken(error)
            wait_s, lines = batch.failed(group, failure)
            yield from lines
            time.sleep(wait_s)

    def _send(self, method: str, path: str, sent: str, **request: Any) -> dict[str, Any]:
        """The JSON object of a request that is answered whole."""
        attempts = self._attempts()
        while True:
            try:
                response = self._http.request(method, self._address(path), **request)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = self._broken(error)
            else:
                if is_answer(response):
                    return self._object(response)
                failure = self._failure(response, sent)
            time.sleep(attempts.wait_s(failure))


class AsyncClient(_Connection):
    """`Client` for asyncio: the same methods, awaited; batches are asynchronous iterators."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 8,
        deadline_s: float = 120.0,
    ) -> None:
        """As `Client`."""
        super().__init__(url, api_key, timeout_s, retries, deadline_s)
        self._http = httpx.AsyncClient(transport=self._route.async_transport(), **self._http_options)

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
        return cast(Index, await self._send("GET", "/index", "nothing"))

    async def locate(self, photo: Photo, **options: Unpack[LocateOptions]) -> Answer:
        """As `Client.locate`."""
        check_photo(photo)
        params = await asyncio.to_thread(query_of, options)
        upload = await asyncio.to_thread(upload_of, photo)
        picture = await asyncio.to_thread(_picture, params, upload)
        return cast(Answer, await self._send("POST", "/locate", described([upload]), **picture))

    def locate_batch(self, photos: Iterable[Photo], **options: Unpack[LocateOptions]) -> AsyncIterator[Line]:
        """As `Client.locate_batch`."""
        return self._lines(photo_list(photos), query_of(options))

    def locate_folder(
        self, folder: str | PathLike[str], **options: Unpack[LocateOptions]
    ) -> AsyncIterator[tuple[Path, Line]]:
        """As `Client.locate_folder`; the call itself lists the folder."""
        return self._folder(pictures_below(folder), query_of(options))

    async def _folder(self, paths: list[Path], params: dict[str, str]) -> AsyncIterator[tuple[Path, Line]]:
        for first in range(0, len(paths), _FILES_PER_REQUEST):
            group = paths[first : first + _FILES_PER_REQUEST]
            position = 0
            async with aclosing(self._lines(group, params)) as lines:
                async for line in lines:
                    yield group[position], cast(Line, {**line, "index": first + position})
                    position += 1

    async def _lines(self, photos: Sequence[Photo], params: dict[str, str]) -> AsyncGenerator[Line, None]:
        uploads, errors = await asyncio.to_thread(_readable, photos)
        async with aclosing(self._answers(uploads, params)) as answers:
            for index, photo in enumerate(photos):
                error = errors.get(index)
                yield _line(index, photo, await anext(answers) if error is None else error)

    async def _answers(self, uploads: list[Upload], params: dict[str, str]) -> AsyncGenerator[dict[str, Any], None]:
        batch = self._batch(uploads)
        while (group := batch.next_group()) is not None:
            try:
                async with self._http.stream(**self._form(group, params, _read_in_threads(group))) as response:
                    if is_answer(response):
                        async for text in response.aiter_lines():
                            yield batch.line(group, text)
                        batch.end(group)
                        continue
                    await response.aread()
                    failure = self._failure(response, described(group.uploads))
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = self._broken(error)
            wait_s, lines = batch.failed(group, failure)
            for line in lines:
                yield line
            await asyncio.sleep(wait_s)

    async def _send(self, method: str, path: str, sent: str, **request: Any) -> dict[str, Any]:
        attempts = self._attempts()
        while True:
            try:
                response = await self._http.request(method, self._address(path), **request)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                failure = self._broken(error)
            else:
                if is_answer(response):
                    return self._object(response)
                failure = self._failure(response, sent)
            await asyncio.sleep(attempts.wait_s(failure))


async def _read_in_threads(group: Group) -> AsyncIterator[bytes]:
    """The form in chunks, each read in a thread."""
    chunks = form(group.uploads, group.boundary)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def _picture(params: dict[str, str], upload: Upload) -> dict[str, Any]:
    """The arguments of a single picture's request; reads the file."""
    return {"params": params, "files": {"image": (upload.name, upload.read())}}


def _readable(photos: Sequence[Photo]) -> tuple[list[Upload], dict[int, dict[str, Any]]]:
    """The pictures that can be sent, and for those that cannot be read an error by position."""
    uploads, errors = [], {}
    for position, photo in enumerate(photos):
        try:
            uploads.append(upload_of(photo))
        except LocalFileError as error:
            errors[position] = {"error": problem_of(error)}
    return uploads, errors


def _line(index: int, photo: Photo, line: dict[str, Any]) -> Line:
    """A line with the position and the name that the caller knows."""
    return cast(Line, {"index": index, "name": name_of(photo), **_without(line)})


def _without(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name not in ("index", "name")}
