"""The browser next door: which names and which pages may use the service, and the headers that browsers obey.

A web page that a user of this machine opens can send requests to 127.0.0.1. Without keys nothing else would stop it, so
its name (DNS rebinding) and its origin (a form or `fetch` on another site) are checked here. Every answer gets the
headers that forbid browsers and caches to do more with it than they need.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.access.addresses import is_loopback
from service.errors import CrossSiteError, UnknownHostError
from service.settings import Settings

_LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""For every answer that does not set its own."""


class AnswerHeadersMiddleware:
    """Adds the headers that every answer has."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        # Pages of other origins that may use the service may also show its tiles.
        policy = {"Cross-Origin-Resource-Policy": "cross-origin"} if settings.cors_origins else {}
        self._headers = _HEADERS | policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, and add to its answer's headers."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class SiteCheck:
    """Decides by a request's headers whether it may come from where it comes from."""

    def __init__(self, settings: Settings) -> None:
        self._needs_key = bool(settings.keys_file) and not settings.allow_anonymous
        self._allowed = _names(settings.allowed_hosts)
        self._origins = _names(settings.cors_origins)

    def check(self, scope: Scope) -> None:
        """Raise UnknownHostError or CrossSiteError."""
        headers = Headers(scope=scope)
        server = (scope.get("server") or ("", None))[0]
        if not self._needs_key and "*" not in self._allowed and (self._allowed or _is_local(server)):
            for host in headers.getlist("host"):
                self._check_host(host, server)
        if scope["method"] not in _SAFE_METHODS:
            self._check_origin(headers)

    def _check_host(self, host: str, server: str) -> None:
        name = _name_of(host)
        if name not in _LOOPBACK_NAMES | self._allowed | {server.lower()}:
            raise UnknownHostError(
                f"the name {host!r} is not this service's; use 127.0.0.1 or localhost, or let its operator add the "
                "name to TILEBEAM_ALLOWED_HOSTS"
            )

    def _check_origin(self, headers: Headers) -> None:
        origin, site = headers.get("origin", ""), headers.get("sec-fetch-site", "")
        if "*" in self._origins or origin.lower() in self._origins:
            return
        # A browser says itself how page and service are related, where it trusts the connection; a proxy in front may
        # have changed the name that the origin would be compared with.
        if site in ("same-origin", "none") or (not site and self._is_own(origin, headers)):
            return
        raise CrossSiteError(
            f"a page of {origin or 'another site'!r} sent this; use the service's own page, or let its operator add "
            "that origin to TILEBEAM_CORS_ORIGINS"
        )

    def _is_own(self, origin: str, headers: Headers) -> bool:
        """Whether an origin is the service's own; no origin: the request does not come from a page."""
        host = origin.lower().partition("://")[2]
        return not origin or host == headers.get("host", "").lower() or _name_of(host) in self._allowed


class SiteCheckMiddleware:
    """Refuses requests that `SiteCheck` does; `refuse` answers with the error."""

    def __init__(self, app: ASGIApp, settings: Settings, refuse: Callable[[Scope, Exception], ASGIApp]) -> None:
        self.app = app
        self._check, self._refuse = SiteCheck(settings), refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward the request, or answer it with a problem document."""
        app = self.app
        if scope["type"] == "http":
            try:
                self._check.check(scope)
            except (UnknownHostError, CrossSiteError) as error:
                app = self._refuse(scope, error)
        await app(scope, receive, send)


def cors(settings: Settings) -> dict[str, Any]:
    """The options of Starlette's CORSMiddleware: no cookies are used, so none are allowed."""
    return {
        "allow_origins": [origin.strip() for origin in settings.cors_origins.split(",")],
        "allow_methods": ["GET", "HEAD", "POST"],
        "allow_headers": ["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
        "expose_headers": ["ETag", "Retry-After", "X-Request-ID"],
    }


def _names(setting: str) -> frozenset[str]:
    return frozenset(name.strip().strip("[]").lower() for name in setting.split(",") if name.strip())


def _name_of(host: str) -> str:
    """A Host header's name in lower case, without its port, and an IPv6 address without brackets; empty if wrong."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_local(address: str) -> bool:
    try:
        return is_loopback(address)
    except ValueError:
        return False
