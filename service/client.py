"""A client of the HTTP service. Needs httpx and nothing of the engine; knows the contract and no more.

with Client("http://127.0.0.1:8000") as client:
    answer = client.locate(Path("photo.jpg"), k=64)
    for line in client.locate_batch([Path("a.jpg"), Path("b.jpg")]):
        print(line["name"], line.get("result") or line["error"]["detail"])
"""

import json
import secrets
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import httpx

from service.errors import ClientError, LocalFileError, ProblemError
from service.problems import MEDIA_TYPE, problem_of

__all__ = ["Client", "ClientError", "ProblemError"]

BBoxDegrees = tuple[float, float, float, float]
"""west, south, east, north; west > east crosses the date line."""

_CHUNK = 1 << 16


class Client:
    """One service. Raises ProblemError for what it refuses and ClientError where there is no such answer."""

    def __init__(self, url: str, *, timeout_s: float = 60.0) -> None:
        """`url`: where the service is, `http://127.0.0.1:8000` say; `timeout_s`: the longest silence, in seconds."""
        self.url = url.rstrip("/")
        self._http = httpx.Client(timeout=timeout_s)

    def __enter__(self) -> "Client":
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
        photo: Path | bytes,
        *,
        k: int | None = None,
        alternatives: int | None = None,
        bbox: BBoxDegrees | None = None,
        trace: bool = False,
    ) -> dict[str, Any]:
        """Where one picture was taken: the answer of the HTTP contract. What is None is the service's default."""
        body = photo if isinstance(photo, bytes) else _contents(photo)
        name = "photo" if isinstance(photo, bytes) else photo.name
        params = _params(k, alternatives, bbox, trace)
        with self._answer("POST", "/locate", params=params, files={"image": (name, body)}) as response:
            return _object(self.url, response.read())

    def locate_batch(
        self,
        photos: Sequence[Path],
        *,
        k: int | None = None,
        alternatives: int | None = None,
        bbox: BBoxDegrees | None = None,
        trace: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """A line of the HTTP contract for each file, in order, as it arrives; files are read as they are sent.

        A file that cannot be read here has its line too, with an `error` of its own.
        """
        lines = {index: _unreadable(index, photo) for index, photo in enumerate(photos)}
        sent = [index for index, line in lines.items() if line is None]
        with closing(self._batch([photos[index] for index in sent], _params(k, alternatives, bbox, trace))) as arriving:
            for index, line in lines.items():
                yield line if line is not None else {**next(arriving), "index": index}

    def _batch(self, photos: list[Path], params: dict[str, str]) -> Generator[dict[str, Any], None, None]:
        if not photos:
            return
        boundary = secrets.token_hex(16)
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        body = _multipart(photos, boundary)
        count = 0
        with self._answer("POST", "/locate/batch", params=params, content=body, headers=headers) as response:
            for text in response.iter_lines():
                yield _object(self.url, text)
                count += 1
        if count != len(photos):
            raise ClientError(
                f"{self.url} answered {count} of {len(photos)} pictures and stopped; ask again for the rest"
            )

    @contextmanager
    def _answer(self, method: str, path: str, **request: Any) -> Iterator[httpx.Response]:
        """A successful answer, its body not yet read; every failure as one of our errors."""
        try:
            with self._http.stream(method, self.url + path, **request) as response:
                if not response.is_success:
                    raise _refusal(self.url, response)
                yield response
        except (httpx.UnsupportedProtocol, httpx.InvalidURL) as exc:
            raise ClientError(f"{self.url!r} is no address of a service; write it like http://127.0.0.1:8000") from exc
        except httpx.TimeoutException as exc:
            raise ClientError(f"{self.url} did not answer in time; it may be overloaded, ask again later") from exc
        except httpx.HTTPError as exc:
            raise ClientError(
                f"no answer from {self.url} ({exc}); check the address, or start a service with `tilebeam serve`"
            ) from exc


def _params(k: int | None, alternatives: int | None, bbox: BBoxDegrees | None, trace: bool) -> dict[str, str]:
    given = {
        "k": k,
        "alternatives": alternatives,
        "bbox": None if bbox is None else ",".join(map(repr, bbox)),
        "trace": "true" if trace else None,
    }
    return {name: str(value) for name, value in given.items() if value is not None}


def _refusal(url: str, response: httpx.Response) -> ClientError:
    body = response.read()
    if response.headers.get("content-type", "").startswith(MEDIA_TYPE):
        return ProblemError(_object(url, body))
    return ClientError(f"{url} answered {response.status_code} and no problem document; is it a Tilebeam service?")


def _object(url: str, text: str | bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise ClientError(f"{url} answered something other than JSON; is it a Tilebeam service?") from exc
    if not isinstance(found, dict):
        raise ClientError(f"{url} answered JSON that is no object; is it a Tilebeam service?")
    return found


def _opened(photo: Path) -> BinaryIO:
    try:
        return photo.open("rb")
    except OSError as exc:
        raise LocalFileError(f"{photo}: {exc.strerror}; check the path") from exc


def _contents(photo: Path) -> bytes:
    with _opened(photo) as file:
        return file.read()


def _unreadable(index: int, photo: Path) -> dict[str, Any] | None:
    """The line of a file that cannot be opened, or None for one that can."""
    try:
        _opened(photo).close()
    except LocalFileError as error:
        return {"index": index, "name": photo.name, "error": problem_of(error)}
    return None


def _multipart(photos: list[Path], boundary: str) -> Iterator[bytes]:
    """The form, file by file: httpx's own would open them all at once."""
    for photo in photos:
        name = photo.name.translate({ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"})
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'
        yield head.encode("utf-8", errors="surrogateescape")
        with _opened(photo) as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()
