"""Clients of the HTTP service. They need httpx and nothing of the engine, and know the contract and no more.

with Client("http://127.0.0.1:8000") as client:
    answer = client.locate(Path("photo.jpg"), k=64)
    for line in client.locate_batch([Path("a.jpg"), Path("b.jpg")]):
        print(line["name"], line.get("result") or line["error"]["detail"])

Where a service says "later" (429, 503 with Retry-After), they wait as long as it says and ask again, a few times.
`AsyncClient` is the same for asyncio.
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
from typing import Any, Self, cast

import httpx

from service.client.sending import Photo, content_of, is_picture, multipart, name_of, opened
from service.client.types import Answer, Line
from service.errors import ClientError, LocalFileError, ProblemError
from service.problems import MEDIA_TYPE, problem_of

__all__ = ["AsyncClient", "Client", "ClientError", "ProblemError"]

BBoxDegrees = tuple[float, float, float, float]
"""west, south, east, north; west > east crosses the date line."""

_LATER = frozenset({429, 503})
_LONGEST_WAIT_S = 60.0
_AT_ONCE = 32
"""Files a request of `locate_folder`: few enough for a service's limits, enough to fill its batches."""


class _Calls:
    """What both clients share: the address, the key, how often to ask again, and requests as httpx takes them."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 60.0, retries: int = 3) -> None:
        """`url`: where the service is, `http://127.0.0.1:8000` say; `timeout_s`: the longest silence, in seconds;
        `retries`: how often to ask again where the service says when."""
        self.url = url.rstrip("/")
        self.retries = retries
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._given: dict[str, Any] = {"timeout": timeout_s, "headers": headers}

    def _wait_s(self, response: httpx.Response, tried: int) -> float | None:
        """Seconds until asking again makes sense; None: it does not."""
        if response.status_code not in _LATER or tried >= self.retries:
            return None
        said = response.headers.get("retry-after", "")
        return min(float(said), _LONGEST_WAIT_S) if said.isdecimal() else None

    @contextmanager
    def _ours(self) -> Iterator[None]:
        """httpx's errors as ours."""
        try:
            yield
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as exc:
            raise ClientError(f"{self.url!r} is no address of a service; write it like http://127.0.0.1:8000") from exc
        except httpx.TimeoutException as exc:
            raise ClientError(f"{self.url} did not answer in time; it may be overloaded, ask again later") from exc
        except httpx.HTTPError as exc:
            raise ClientError(
                f"no answer from {self.url} ({exc}); check the address, or start a service with `tilebeam serve`"
            ) from exc

    def _counted(self, count: int, asked: int) -> None:
        if count != asked:
            raise ClientError(f"{self.url} answered {count} of {asked} pictures and stopped; ask again for the rest")


class Client(_Calls):
    """One service. Raises ProblemError for what it refuses and ClientError where there is no such answer."""

    def __init__(self, url: str, **given: Any) -> None:
        """`url`, and `api_key`, `timeout_s`, `retries` as in the module's head."""
        super().__init__(url, **given)
        self._http = httpx.Client(**self._given)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def describe(self) -> dict[str, Any]:
        """What the service has loaded: `GET /index`."""
        with self._answer("GET", "/index") as response:
            return _object(self.url, response.read())

    def locate(
        self,
        photo: Photo,
        *,
        k: int | None = None,
        alternatives: int | None = None,
        bbox: BBoxDegrees | None = None,
        trace: bool = False,
        prior: str | None = None,
        within: str | None = None,
    ) -> Answer:
        """Where one picture was taken. What is None is the service's default; `within` is GeoJSON as text."""
        ask = _single(photo, _params(k, alternatives, bbox, trace, prior, within))
        with self._answer("POST", "/locate", **ask) as response:
            return cast(Answer, _object(self.url, response.read()))

    def locate_batch(
        self,
        photos: Sequence[Photo],
        *,
        k: int | None = None,
        alternatives: int | None = None,
        bbox: BBoxDegrees | None = None,
        trace: bool = False,
        prior: str | None = None,
        within: str | None = None,
    ) -> Iterator[Line]:
        """A line of the HTTP contract for each picture, in order, as it arrives; files are read as they are sent.

        A file that cannot be read here has its line too, with an `error` of its own.
        """
        lines, sent = _sorted_out(photos)
        with closing(self._batch(sent, _params(k, alternatives, bbox, trace, prior, within))) as arriving:
            for index, line in lines.items():
                yield cast(Line, line if line is not None else {**next(arriving), "index": index})

    def locate_folder(self, folder: Path, **question: Any) -> Iterator[tuple[Path, Line]]:
        """Every picture file beneath a folder, by name, in requests of 32; the question is `locate_batch`'s."""
        paths = iter(sorted(path for path in folder.rglob("*") if is_picture(path)))
        while group := list(islice(paths, _AT_ONCE)):
            yield from zip(group, self.locate_batch(group, **question), strict=True)

    def _batch(self, photos: list[Photo], params: dict[str, str]) -> Generator[dict[str, Any], None, None]:
        if not photos:
            return
        count = 0
        boundary, ask = _many(params)
        with self._answer("POST", "/locate/batch", body=lambda: multipart(photos, boundary), **ask) as response:
            for text in response.iter_lines():
                yield _object(self.url, text)
                count += 1
        self._counted(count, len(photos))

    @contextmanager
    def _answer(self, method: str, path: str, *, body: Any = None, **request: Any) -> Iterator[httpx.Response]:
        """A successful answer, its body not yet read; every failure as one of our errors. `body` makes it anew."""
        for tried in range(self.retries + 1):
            content = {} if body is None else {"content": body()}
            with self._ours(), self._http.stream(method, self.url + path, **content, **request) as response:
                wait = self._wait_s(response, tried)
                if wait is None:
                    if not response.is_success:
                        response.read()
                        raise _refusal(self.url, response)
                    yield response
                    return
            time.sleep(wait)


class AsyncClient(_Calls):
    """`Client` for asyncio: the same methods, awaited; batches are asynchronous iterators."""

    def __init__(self, url: str, **given: Any) -> None:
        """As `Client`."""
        super().__init__(url, **given)
        self._http = httpx.AsyncClient(**self._given)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def describe(self) -> dict[str, Any]:
        """What the service has loaded: `GET /index`."""
        async with self._answer("GET", "/index") as response:
            return _object(self.url, await response.aread())

    async def locate(
        self,
        photo: Photo,
        *,
        k: int | None = None,
        alternatives: int | None = None,
        bbox: BBoxDegrees | None = None,
        trace: bool = False,
        prior: str | None = None,
        within: str | None = None,
    ) -> Answer:
        """Where one picture was taken; it is read and encoded in a thread."""
        ask = await asyncio.to_thread(_single, photo, _params(k, alternatives, bbox, trace, prior, within))
        async with self._answer("POST", "/locate", **ask) as response:
            return cast(Answer, _object(self.url, await response.aread()))

    async def locate_batch(
        self,
        photos: Sequence[Photo],
        *,
        k: int | None = None,
        alternatives: int | None = None,
        bbox: BBoxDegrees | None = None,
        trace: bool = False,
        prior: str | None = None,
        within: str | None = None,
    ) -> AsyncIterator[Line]:
        """As `Client.locate_batch`."""
        lines, sent = await asyncio.to_thread(_sorted_out, photos)
        async with aclosing(self._batch(sent, _params(k, alternatives, bbox, trace, prior, within))) as arriving:
            for index, line in lines.items():
                yield cast(Line, line if line is not None else {**await anext(arriving), "index": index})

    async def _batch(self, photos: list[Photo], params: dict[str, str]) -> AsyncGenerator[dict[str, Any], None]:
        if not photos:
            return
        count = 0
        boundary, ask = _many(params)
        async with self._answer("POST", "/locate/batch", body=lambda: _apart(photos, boundary), **ask) as response:
            async for text in response.aiter_lines():
                yield _object(self.url, text)
                count += 1
        self._counted(count, len(photos))

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, *, body: Any = None, **request: Any
    ) -> AsyncIterator[httpx.Response]:
        for tried in range(self.retries + 1):
            content = {} if body is None else {"content": body()}
            with self._ours():
                async with self._http.stream(method, self.url + path, **content, **request) as response:
                    wait = self._wait_s(response, tried)
                    if wait is None:
                        if not response.is_success:
                            await response.aread()
                            raise _refusal(self.url, response)
                        yield response
                        return
            await asyncio.sleep(wait)


async def _apart(photos: list[Photo], boundary: str) -> AsyncIterator[bytes]:
    """The form's chunks, each read in a thread."""
    chunks = multipart(photos, boundary)
    while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
        yield chunk


def _single(photo: Photo, params: dict[str, str]) -> dict[str, Any]:
    return {"params": params, "files": {"image": (name_of(photo), content_of(photo))}}


def _many(params: dict[str, str]) -> tuple[str, dict[str, Any]]:
    boundary = secrets.token_hex(16)
    return boundary, {"params": params, "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"}}


def _sorted_out(photos: Sequence[Photo]) -> tuple[dict[int, dict[str, Any] | None], list[Photo]]:
    """A line for each picture that cannot be read here, None for the others, and those others."""
    lines = {index: _unreadable(index, photo) for index, photo in enumerate(photos)}
    return lines, [photos[index] for index, line in lines.items() if line is None]


def _unreadable(index: int, photo: Photo) -> dict[str, Any] | None:
    if isinstance(photo, Path):
        try:
            opened(photo).close()
        except LocalFileError as error:
            return {"index": index, "name": photo.name, "error": problem_of(error)}
    return None


def _params(
    k: int | None,
    alternatives: int | None,
    bbox: BBoxDegrees | None,
    trace: bool,
    prior: str | None,
    within: str | None,
) -> dict[str, str]:
    given = {
        "k": k,
        "alternatives": alternatives,
        "bbox": None if bbox is None else ",".join(map(repr, bbox)),
        "trace": "true" if trace else None,
        "prior": prior,
        "within": within,
    }
    return {name: str(value) for name, value in given.items() if value is not None}


def _refusal(url: str, response: httpx.Response) -> ClientError:
    if response.headers.get("content-type", "").startswith(MEDIA_TYPE):
        return ProblemError(_object(url, response.content))
    return ClientError(f"{url} answered {response.status_code} and no problem document; is it a Tilebeam service?")


def _object(url: str, text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise ClientError(f"{url} answered something other than JSON; is it a Tilebeam service?") from exc
    if not isinstance(found, dict):
        raise ClientError(f"{url} answered JSON that is no object; is it a Tilebeam service?")
    return found
