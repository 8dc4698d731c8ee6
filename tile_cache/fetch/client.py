"""Fill a tile store from a tile server: `fetch`. Polite, resumable, and the home of httpx in this package.

A fixed number of workers take tiles from the plan, so a plan of a hundred million tiles needs no more memory than one
of a hundred. Only whole images that decode are stored. A tile that fails is reported, and the fetch continues. A server
that refuses requests, asks for a long wait, or keeps failing ends the fetch; the next run resumes there.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine, Iterable

import httpx
import numpy as np
from numpy.typing import NDArray

from tile_cache.addressing import Tile
from tile_cache.errors import SourceError, SourceUnavailableError
from tile_cache.fetch.feed import BatchWriter, Feed
from tile_cache.fetch.network import PrivateAddressError, open_client, tls_error
from tile_cache.fetch.politeness import Breaker, Pace, backoff_s, expires_at, retry_after_s
from tile_cache.fetch.settings import FailedTile, FetchReport, FetchSettings
from tile_cache.images import BadImageError, check_decodes, check_whole
from tile_cache.mbtiles import NOT_MODIFIED, TileRecord, TileStore, Validators
from tile_cache.urls import redirect_refusal
from tile_cache.xyz import KEY_VARIABLE, XyzSource

__all__ = ["FailedTile", "FetchReport", "FetchSettings", "fetch"]

_BUSY = (429, 503)
_TRY_AGAIN = (408, 425, *_BUSY)
_PAGE_TYPES = ("text/html", "application/xhtml+xml")
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
        async with open_client(source, settings) as client:
            under_way: set[Tile] = set()
            writer = BatchWriter(store, settings, report, under_way)
            try:
                feed = Feed(chunks, store, source.info, settings, report, under_way, int(time.time()))
                download = _Download(client, source, settings, report)
                workers = [_work(feed, download, store, writer, report) for _ in range(settings.concurrency)]
                await _together(workers, beside=[writer.flush_regularly(), _show(on_progress, report, started)])
            finally:
                writer.close()
            report.repeated = await asyncio.to_thread(writer.repeats.often, store.read, named=settings.absent_images)
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
        except PrivateAddressError as exc:
            raise _BadTileError(f"led into a private network: {exc}") from exc
        except httpx.ConnectError as exc:
            if (error := tls_error(exc)) is not None:
                self._check_tls(error)
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
        # Many servers send images with another type or none, so the bytes decide; but a page is not read.
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()[:60]
        if kind in _PAGE_TYPES:
            raise _BadTileError(f"content type {kind!r} instead of an image")
        data = await self._body(response)
        try:
            # A truncated body raises no error in httpx if the server sent no length.
            if self.settings.verify:
                await asyncio.to_thread(check_decodes, data)
            else:
                check_whole(data)
        except BadImageError as exc:
            reason = str(exc) if not kind or kind.startswith("image/") else f"{exc} (content type {kind!r})"
            raise _RetryError(reason) if exc.cut else _BadTileError(reason) from exc
        return _record(tile, response, data)

    async def _body(self, response: httpx.Response) -> bytes:
        """The body as it was sent: an encoding, which was not asked for, could unpack to any size."""
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("", "identity"):
            raise _BadTileError(f"content encoding {encoding[:40]!r}, which was not asked for")
        body = bytearray()
        async for chunk in response.aiter_raw():
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
        absent = "" if status in (401, 407) else f"; if it means that there is no such tile, give --absent {status}"
        return (
            f"{self._source.info.name} answers HTTP {status} to {self._source.public_url(tile)}:"
            f" {reasons.get(status, 'the request is not accepted')}; the fetch ends. Check the source's URL and"
            f" terms{absent}"
        )

    def _check_tls(self, error: ssl.SSLError) -> None:
        """Raise SourceError for what no later attempt can mend."""
        name = self._source.info.name
        if isinstance(error, ssl.SSLCertVerificationError):
            raise SourceError(
                f"{name} has a certificate that is not trusted ({error.verify_message}): check the host's name; if your"
                " organisation has an authority of its own, set SSL_CERT_FILE to its certificate (PEM)"
            ) from error
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNSUPPORTED_PROTOCOL"):
            raise SourceError(
                f"{name} does not speak TLS there ({error.reason}): check the port, or write http:// in place of https://"
            ) from error


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
