"""What both clients share before a request is sent: the address, the key, and the way there.

Nothing here raises when a client is made: an address, key or proxy that cannot be used is an error of each request.
"""

import ipaddress
import re
import ssl
from typing import Any
from urllib.parse import urlsplit

import httpx

from service.errors import ClientError
from tile_cache.fetch.proxies import ProxyError, proxy_for
from tile_cache.urls import shown_template

__all__ = ["Route"]

_FORM = "write it like http://127.0.0.1:8000"


class Route:
    """The way to one service. `shown`: its address without user name, password and query, for messages.

    `fault`: why no request can be sent, or None.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        if not isinstance(url, str):
            raise TypeError(f"a service's address is text such as http://127.0.0.1:8000, not {type(url).__name__}")
        self.url = url.strip().rstrip("/")
        self.shown = shown_template(self.url)
        self.headers: dict[str, str] = {}
        self.fault: ClientError | None = None
        self.proxy: str | None = None
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # trusts nobody: for plain HTTP
        try:
            self._check(api_key)
        except ClientError as error:
            self.fault = error

    def _check(self, api_key: str | None) -> None:
        parts = _checked(self.url, self.shown)
        if api_key:
            if not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
                raise ClientError("the API key has a character that no key has (a space, a line feed); copy it again")
            # A name and password in the address take the header Authorization, for the proxy that wants them.
            self.headers = {"X-API-Key": api_key} if parts.username else {"Authorization": f"Bearer {api_key}"}
        try:
            self.proxy = proxy_for(parts.scheme, parts.host)
        except ProxyError as exc:
            raise ClientError(str(exc)) from exc
        if parts.scheme == "https" or self.proxy is not None:
            try:
                self._context = httpx.create_ssl_context()
            except OSError as exc:
                raise ClientError(
                    "SSL_CERT_FILE or SSL_CERT_DIR cannot be read as certificates: give a PEM file, or unset them"
                ) from exc

    def transport(self) -> httpx.HTTPTransport:
        """A transport by the proxy that the environment names for the service, or directly."""
        return httpx.HTTPTransport(**self._transport_options())

    def async_transport(self) -> httpx.AsyncHTTPTransport:
        """As `transport`, for asyncio."""
        return httpx.AsyncHTTPTransport(**self._transport_options())

    def _transport_options(self) -> dict[str, Any]:
        return {"verify": self._context, "proxy": self.proxy}


def _checked(url: str, shown: str) -> httpx.URL:
    try:
        parts = httpx.URL(url)
        usable = parts.scheme in ("http", "https") and bool(parts.host) and (parts.port or 1) < 65536
    except httpx.InvalidURL:
        usable = False
    if not usable:
        raise ClientError(f"{shown!r} is not a service's address; {_advice(url)}")
    if parts.query or parts.fragment:
        raise ClientError(f"{shown!r} is not a service's address: it ends in a query; {_FORM}")
    return parts


def _advice(url: str) -> str:
    """How to write this address, if that can be guessed."""
    scheme, mark, rest = url.rpartition("://")
    host, slash, path = rest.partition("/")
    name, _, port = host.rpartition(":")
    for address, ending in ((name, f":{port}"), (host, "")):
        if _is_ipv6(address) and (not ending or re.fullmatch(r":\d{2,5}", ending)):
            written = f"{scheme or 'http'}://[{address}]{ending}{slash}{path}"
            return f"an IPv6 address needs brackets: {written}"
    if not mark and urlsplit(f"//{url}").hostname and " " not in url:
        return f"{_FORM}, here perhaps http://{url}"
    return _FORM


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
