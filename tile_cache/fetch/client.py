"""Fill a tile store from a tile server: `fetch`. Polite, resumable, and the home of httpx in this package.

A fixed number of workers take tiles from the plan, so a plan of a hundred million tiles needs no more memory than one
of a hundred. Only whole images that decode are stored. A tile that fails is reported, and the fetch continues. A server
that refuses requests, asks for a long wait, or keeps failing ends the fetch; the next run resumes there.
"""

import asyncio
import importlib.util
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

import httpx
import numpy as np
from numpy.typing import NDArray

from tile_cache.addressing import Tile
from tile_cache.errors import SourceError, SourceUnavailableError
from tile_cache.fetch.feed import BatchWriter, Feed
from tile_cache.fetch.politeness import Breaker, Pace, backoff_s, expires_at, retry_after_s
from tile_cache.fetch.settings import CONTACT_VARIABLE, FailedTile, FetchReport, FetchSettings
from tile_cache.images import BadImageError, check_decodes, check_whole
from tile_cache.mbtiles import NOT_MODIFIED, TileRecord, TileStore, Validators
from tile_cache.xyz import KEY_VARIABLE, XyzSource, is_local, redirect_refusal

__all__ = ["FailedTile", "FetchReport", "FetchSettings", "fetch"]

_BUSY = (429, 503)
_TRY_AGAIN = (408, 425, *_BUSY)
_IMAGE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_PROGRESS_S = 0.2


async def fetch(
    source: XyzSource,
    store: TileStore,
    chunks: Iterable[tuple[int, NDArray[np.uint64]]],
    settings: FetchSettings,
    on_progress: Callable[[FetchReport], None] | None = None,
) -> FetchReport:
    """Fetch the tiles of `chunks`, (zoom, (n,) uint64 Morton codes) each, that `store` does not have yet.

    `chunks` is read lazily, in a thread. `on_progress` gets the report a few times a second and once at the end. The
    responses that arrived are written before this returns or raises, also after a cancellation. Raises SourceError
    (wrong settings or a refusal: no contact, status 401 or 403), SourceUnavailableError and StoreError.
    """
    report = FetchReport()
    started = time.monotonic()
    try:
        async with _client(source, settings) as client:
            under_way: set[Tile] = set()
            writer = BatchWriter(store, settings, report, under_way)
            try:
                feed = Feed(chunks, store, source.info, settings, report, under_way, int(time.time()))
                download = _Download(client, source, settings, report)
                workers = [_work(feed, download, store, writer, report) for _ in range(settings.concurrency)]
                await _together(workers, beside=[writer.flush_regularly(), _show(on_progress, report, started)])
            finally:
                writer.close()
        if settings.refresh and report.kept:
            await asyncio.to_thread(store.drop_orphans)
    except SourceUnavailableError as exc:
        raise SourceUnavailableError(
            f"{source.redact(str(exc))}. {report.kept:,} tiles were stored in {store.path.name};"
            " run the same command again later to continue"
        ) from exc
    finally:
        report.seconds = time.monotonic() - started
        if on_progress is not None:
            on_progress(report)
    return report


async def _together(work: list[Coroutine[None, None, None]], beside: list[Coroutine[None, None, None]]) -> None:
    """Run `work` to its end, and `beside` for as long. The first error cancels everything and is raised."""
    failed: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(c) for c in beside]
            await asyncio.wait([group.create_task(c) for c in work])
            for helper in helpers:
                helper.cancel()
    except BaseExceptionGroup as several:
        failed = several.exceptions[0]
    if failed is not None:
        raise failed


async def _work(feed: Feed, download: "_Download", store: TileStore, writer: BatchWriter, report: FetchReport) -> None:
    while (tile := await feed.next()) is not None:
        validators = await asyncio.to_thread(store.validators, tile) if download.settings.refresh else None
        try:
            record = await download.record(tile, validators)
        except _TileFailedError as exc:
            report.fail(tile, str(exc))
            feed.give_up(tile)
        else:
            await writer.add(record)


async def _show(on_progress: Callable[[FetchReport], None] | None, report: FetchReport, started: float) -> None:
    while on_progress is not None:
        await asyncio.sleep(_PROGRESS_S)
        report.seconds = time.monotonic() - started
        on_progress(report)


class _TileFailedError(Exception):
    """A tile could not be fetched. The message is a short reason, so that reports can count equal ones."""


class _BadTileError(_TileFailedError):
    """The server answered, but not with a tile."""


class _RetryError(Exception):
    """An attempt that may be repeated. `pause_s`: seconds of pause that the server asks for, if it does."""

    def __init__(self, reason: str, *, busy: bool = False, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.busy = busy
        self.pause_s = pause_s


class _Download:
    """Fetches one tile at a time, with retries, at the pace that all workers share."""

    def __init__(
        self, client: httpx.AsyncClient, source: XyzSource, settings: FetchSettings, report: FetchReport
    ) -> None:
        self.settings = settings
        self._client, self._source, self._report = client, source, report
        self._pace = Pace(settings.rate_per_s)
        self._dead = Breaker(source.info.name, settings.give_up_after, "failed")
        self._bad = Breaker(source.info.name, settings.give_up_after_bad, "answered with no image")

    async def record(self, tile: Tile, validators: Validators | None) -> TileRecord:
        """The response to store. Raises _TileFailedError, SourceError or SourceUnavailableError."""
        try:
            record = await self._with_retries(tile, validators)
        except _BadTileError as exc:
            self._dead.reset()
            self._bad.count(str(exc))
            raise
        except _RetryError as exc:
            self._dead.count(str(exc))
            raise _TileFailedError(str(exc)) from exc
        self._dead.reset()
        self._bad.reset()
        return record

    async def _with_retries(self, tile: Tile, validators: Validators | None) -> TileRecord:
        for attempt in range(self.settings.attempts):
            await self._pace.turn()
            try:
                return await self._attempt(tile, validators)
            except _RetryError as exc:
                last = exc
            wait_s = backoff_s(attempt, self.settings.backoff_s, self.settings.max_backoff_s)
            if last.pause_s is not None:
                self._check_pause(last)
                wait_s = last.pause_s
            if last.busy:
                self._pace.pause(wait_s)
            if attempt + 1 < self.settings.attempts:
                self._report.retries += 1
                await asyncio.sleep(wait_s)
        raise last

    def _check_pause(self, trouble: _RetryError) -> None:
        if trouble.pause_s is not None and trouble.pause_s > self.settings.max_wait_s:
            raise SourceUnavailableError(
                f"{self._source.info.name} ({trouble}) asks for a pause of {trouble.pause_s:.0f} s,"
                f" longer than the limit of {self.settings.max_wait_s:.0f} s"
            )

    async def _attempt(self, tile: Tile, validators: Validators | None) -> TileRecord:
        """Make one request within its deadline; transport errors become _RetryError."""
        try:
            async with asyncio.timeout(self.settings.deadline_s):
                return await self._request(tile, validators)
        except (TimeoutError, httpx.TimeoutException) as exc:
            raise _RetryError("no complete response in time") from exc
        except httpx.ConnectError as exc:
            raise _RetryError(f"no connection: {exc}") from exc
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.DecodingError) as exc:
            raise _BadTileError("unreadable response") from exc
        except httpx.TransportError as exc:
            raise _RetryError("connection lost or body truncated") from exc

    async def _request(self, tile: Tile, validators: Validators | None) -> TileRecord:
        request = self._client.build_request("GET", self._source.url(tile), headers=_conditions(validators))
        for _ in range(self.settings.max_redirects + 1):
            response = await self._client.send(request, stream=True)
            try:
                if response.next_request is None:
                    return await self._judge(tile, response, conditional=validators is not None)
                self._check_redirect(request.url, response.next_request.url)
                request = response.next_request
            finally:
                await response.aclose()
        raise _BadTileError(f"over {self.settings.max_redirects} redirects")

    async def _judge(self, tile: Tile, response: httpx.Response, *, conditional: bool) -> TileRecord:
        """Turn status and body into a record. Raises the error that decides what happens next."""
        status = response.status_code
        if status in self.settings.absent_statuses or (status == NOT_MODIFIED and conditional):
            return _record(tile, response, None)
        if status in _TRY_AGAIN or status >= 500:
            pause_s = retry_after_s(response.headers, time.time())
            raise _RetryError(f"HTTP {status}", busy=status in _BUSY, pause_s=pause_s)
        if 400 <= status < 500:
            raise SourceError(self._refused(tile, status))
        if status != 200:
            raise _BadTileError(f"HTTP {status}")
        data = await self._body(response)
        try:
            # A truncated body raises no error in httpx if the server sent no length.
            if self.settings.verify:
                await asyncio.to_thread(check_decodes, data)
            else:
                check_whole(data)
        except BadImageError as exc:
            raise _RetryError(str(exc)) if exc.cut else _BadTileError(str(exc)) from exc
        return _record(tile, response, data)

    async def _body(self, response: httpx.Response) -> bytes:
        kind = response.headers.get("content-type", _IMAGE_TYPES[0]).strip().lower()
        if not kind.startswith(_IMAGE_TYPES):
            raise _BadTileError(f"content type {kind.partition(';')[0][:60]!r} instead of an image")
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self.settings.max_tile_bytes:
                raise _BadTileError(f"over {self.settings.max_tile_bytes:,} bytes")
        return bytes(body)

    def _check_redirect(self, origin: httpx.URL, target: httpx.URL) -> None:
        reason = redirect_refusal(origin.scheme, origin.host, target.scheme, target.host)
        if reason is not None:
            raise _BadTileError(reason)

    def _refused(self, tile: Tile, status: int) -> str:
        reasons = {
            401: f"the API key is missing or wrong ({KEY_VARIABLE})",
            403: "access is forbidden, or the key is wrong",
        }
        return (
            f"{self._source.info.name} answers HTTP {status} to {self._source.public_url(tile)}:"
            f" {reasons.get(status, 'the request is not accepted')}; the fetch ends. Check the source's URL and terms"
        )


def _record(tile: Tile, response: httpx.Response, data: bytes | None) -> TileRecord:
    now = time.time()
    return TileRecord(
        tile=tile,
        data=data,
        status=response.status_code,
        etag=response.headers.get("etag"),
        last_modified=response.headers.get("last-modified"),
        fetched_at=int(now),
        expires=expires_at(response.headers, now),
    )


def _conditions(validators: Validators | None) -> dict[str, str]:
    if validators is None:
        return {}
    headers = {"If-None-Match": validators.etag, "If-Modified-Since": validators.last_modified}
    return {name: value for name, value in headers.items() if value}


@asynccontextmanager
async def _client(source: XyzSource, settings: FetchSettings) -> AsyncIterator[httpx.AsyncClient]:
    if not settings.contact and not all(map(is_local, source.hosts)):
        raise SourceError(
            f"fetching from {source.info.name} needs a contact: give an e-mail address or a page (--contact or the"
            f" environment variable {CONTACT_VARIABLE}); it is sent in the User-Agent"
        )
    agent = f"tilebeam/{_version()}" + (f" (+{settings.contact})" if settings.contact else "")
    client = httpx.AsyncClient(
        http2=importlib.util.find_spec("h2") is not None,
        # Images do not compress further, and without an encoding there can be no decompression bomb.
        headers={"User-Agent": agent, "Accept": "image/*", "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(settings.deadline_s, connect=settings.connect_timeout_s),
        limits=httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency),
        follow_redirects=False,
    )
    # httpx logs whole URLs at level INFO, which may contain the API key.
    key_filter = _KeyFilter(source)
    logger = logging.getLogger("httpx")
    logger.addFilter(key_filter)
    try:
        async with client:
            yield client
    finally:
        logger.removeFilter(key_filter)


class _KeyFilter(logging.Filter):
    """Removes a source's API key from log records."""

    def __init__(self, source: XyzSource) -> None:
        super().__init__()
        self._source = source

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._source.redact(record.getMessage()), None
        return True


def _version() -> str:
    try:
        return version("tilebeam")
    except PackageNotFoundError:
        return "0"
