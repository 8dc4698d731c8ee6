"""Connections to tile servers: through the environment's proxies, or directly to addresses that are allowed.

A server on the public internet must not lead the fetcher into a private network, by a redirect or by its name. What is
judged is the address that is connected to, whatever name or spelling it has. The first URL decides: a source in a
private network, by its name, may redirect within one; a public name that resolves to a private address may be fetched
from, as its owner has set it up so, but leads nowhere else. Behind a proxy, which resolves names itself, names alone
are judged (`tile_cache.urls`). Logs of the libraries below are redacted, because they hold whole URLs.
"""

import asyncio
import importlib.util
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.parse import urlsplit

import httpcore
import httpx

from tile_cache.addressing import Tile
from tile_cache.errors import SourceError
from tile_cache.fetch.proxies import ProxyError, proxy_for
from tile_cache.fetch.settings import CONTACT_VARIABLE, FetchSettings
from tile_cache.urls import is_local, is_public, may_reach_private
from tile_cache.xyz import XyzSource

__all__ = ["PrivateAddressError", "open_client", "tls_error"]

_EACH_ADDRESS_S = 2.5  # for one of several addresses; a network without IPv6 must not use up all the time
_TALKATIVE = (
    "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks",
    "hpack.hpack", "hpack.table",
)  # fmt: skip


class PrivateAddressError(Exception):
    """A public server led to a private address; the message is a short reason."""


class Guard:
    """Decides which of a host's addresses may be connected to, for one source."""

    def __init__(self, source: XyzSource) -> None:
        self._free = all(map(may_reach_private, source.hosts))
        self._homes = {_endpoint(source.template.replace("{s}", s)) for s in source.subdomains or ("",)}
        self._private: dict[tuple[str, int], bool] = {}

    def allowed(self, host: str, port: int, addresses: list[str]) -> list[str]:
        """Those of `addresses`, which `host` resolves to, that may be connected to. Raises PrivateAddressError."""
        public = [a for a in addresses if is_public(ipaddress.ip_address(a))]
        endpoint = (host.lower().rstrip("."), port)
        usable = public
        if self._free:
            usable = addresses
        elif endpoint in self._homes and self._private.setdefault(endpoint, not public):
            usable = addresses  # private at the first look; a name that becomes private later is refused
        if not usable:
            raise PrivateAddressError(f"{host} is in a private network, into which a public server must not lead")
        return usable


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a host, asks the guard, and connects to one of the addresses that it allows."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        end = time.monotonic() + (timeout if timeout is not None else 3600)
        try:
            async with asyncio.timeout(timeout):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError as exc:
            raise httpcore.ConnectTimeout(f"{host} was not resolved in time") from exc
        except (OSError, UnicodeError) as exc:
            raise httpcore.ConnectError(str(exc)) from exc
        addresses = self._guard.allowed(host, port, list(dict.fromkeys(str(info[4][0]) for info in found)))
        for address in addresses[:-1]:
            share = min(_EACH_ADDRESS_S, max(end - time.monotonic(), 0.01))
            try:
                return await self._inner.connect_tcp(address, port, share, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        rest = max(end - time.monotonic(), 0.01)
        return await self._inner.connect_tcp(addresses[-1], port, rest, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class _DirectTransport(httpx.AsyncHTTPTransport):
    """httpx's transport with connections that the guard has allowed."""

    def __init__(self, guard: Guard, context: ssl.SSLContext, limits: httpx.Limits, *, http2: bool) -> None:
        super().__init__(verify=context, http2=http2, limits=limits)
        # httpx takes no network backend; its pool is httpcore's, which does.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http2=http2,
            network_backend=_GuardedBackend(guard),
        )


class _Routes(httpx.AsyncBaseTransport):
    """Sends each request directly, or through the proxy that the environment names for its host."""

    def __init__(self, source: XyzSource, limits: httpx.Limits) -> None:
        self._limits = limits
        self._http2 = importlib.util.find_spec("h2") is not None
        self._context = _tls_context()
        self._direct = _DirectTransport(Guard(source), self._context, limits, http2=self._http2)
        self._proxied: dict[str, httpx.AsyncHTTPTransport] = {}

    def to(self, url: httpx.URL) -> httpx.AsyncBaseTransport:
        """The transport for a URL. Raises SourceError for a proxy that cannot be used."""
        try:
            proxy = proxy_for(url.scheme, url.host)
            if proxy is None:
                return self._direct
            if proxy not in self._proxied:
                self._proxied[proxy] = httpx.AsyncHTTPTransport(
                    verify=self._context, http2=self._http2, limits=self._limits, proxy=proxy
                )
            return self._proxied[proxy]
        except ProxyError as exc:
            raise SourceError(str(exc)) from exc
        except (ValueError, ImportError, httpx.InvalidURL) as exc:
            raise SourceError("the proxy in the environment cannot be used: correct HTTP_PROXY or ALL_PROXY") from exc

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self.to(request.url).handle_async_request(request)

    async def aclose(self) -> None:
        for transport in (self._direct, *self._proxied.values()):
            await transport.aclose()


@asynccontextmanager
async def open_client(source: XyzSource, settings: FetchSettings) -> AsyncIterator[httpx.AsyncClient]:
    """A client for the requests of one fetch. Raises SourceError: no contact, or a proxy or certificate file in the
    environment that cannot be used.
    """
    if not settings.contact and not all(map(is_local, source.hosts)):
        raise SourceError(
            f"fetching from {source.info.name} needs a contact: give an e-mail address or a page (--contact or the"
            f" environment variable {CONTACT_VARIABLE}); it is sent in the User-Agent"
        )
    agent = f"tilebeam/{_version()}" + (f" (+{settings.contact})" if settings.contact else "")
    limits = httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)
    routes = _Routes(source, limits)
    routes.to(_checked_url(source))  # before any work
    client = httpx.AsyncClient(
        # Images do not compress further, and without an encoding there can be no decompression bomb.
        headers={"User-Agent": agent, "Accept": "image/*", "Accept-Encoding": "identity"},
        timeout=httpx.Timeout(settings.deadline_s, connect=settings.connect_timeout_s),
        transport=routes,
        follow_redirects=False,
    )
    with _redacted_logs(source):
        async with client:
            yield client


def tls_error(exc: BaseException) -> ssl.SSLError | None:
    """The error of TLS that an exception was raised from."""
    cause: BaseException | None = exc
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _checked_url(source: XyzSource) -> httpx.URL:
    first = Tile(0, 0, source.info.min_zoom)
    try:
        return httpx.URL(source.url(first))
    except httpx.InvalidURL as exc:
        raise SourceError(f"{source.public_url(first)!r} cannot be requested: check the host in the template") from exc


def _endpoint(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)


def _tls_context() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as exc:  # ssl.SSLError is one
        raise SourceError(
            "SSL_CERT_FILE or SSL_CERT_DIR cannot be read as certificates: give a PEM file, or unset them"
        ) from exc


@contextmanager
def _redacted_logs(source: XyzSource) -> Iterator[None]:
    """httpx logs whole URLs at level INFO; the libraries below it log headers and paths at level DEBUG."""
    filters = {"httpx": _Redacting(source), **dict.fromkeys(_TALKATIVE, _Dropping())}
    for name, log_filter in filters.items():
        logging.getLogger(name).addFilter(log_filter)
    try:
        yield
    finally:
        for name, log_filter in filters.items():
            logging.getLogger(name).removeFilter(log_filter)


class _Redacting(logging.Filter):
    """Removes a source's API key and all queries from log records."""

    def __init__(self, source: XyzSource) -> None:
        super().__init__()
        self._source = source

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._source.redact(record.getMessage()), None
        return True


class _Dropping(logging.Filter):
    """Drops all records."""

    def filter(self, record: logging.LogRecord) -> bool:
        return False


def _version() -> str:
    try:
        return version("tilebeam")
    except PackageNotFoundError:
        return "0"
