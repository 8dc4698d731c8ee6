"""What went wrong with a request: the error to raise, and whether and when to try again.

Locating a picture changes nothing on the service, so every request of the client may be repeated. It is after 429 and
503, when a proxy does not reach the service (502, 503, 504), and when the connection could not be made or was dropped.
A request that took longer than the timeout is not: the service may still be at work on it.
"""

import html
import json
import random
import re
import ssl
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from service.errors import MEDIA_TYPE, ClientError, ProblemError, ProxyAnswerError
from tile_cache.fetch.politeness import backoff_s, retry_after_s
from tile_cache.urls import shown_template

__all__ = ["Attempts", "Failure", "failure_of_exception", "failure_of_response", "is_answer", "object_of"]

_FIRST_SPREAD_S = 1.0
_MOST_SPREAD_S = 16.0
_FIRST_BACKOFF_S = 0.25
_MOST_BACKOFF_S = 8.0
_UNREACHED_RETRIES = 3
"""For an address where nothing listens: enough for a service that is being replaced, and over within two seconds."""
_PAGES = ("text/html", "application/xhtml")
_MAX_QUOTED = 80
_NO_SERVICE = "check the address, or start a service with `tilebeam serve`"


@dataclass(frozen=True)
class Failure:
    """A try that failed. `error`: to raise if it is the last one. `may_retry`: whether another one may help.

    `retry_after_s`: the wait that the service asks for, in seconds; None if it asks for none. `is_unreached`: nothing
    answered at the address. `is_too_large`: the request had too many bytes or pictures.
    """

    error: ClientError
    may_retry: bool = False
    retry_after_s: float | None = None
    is_unreached: bool = False
    is_too_large: bool = False


class Attempts:
    """Counts the tries of one request: at most `retries` after the first, none begun later than `deadline_s`."""

    def __init__(self, retries: int, deadline_s: float) -> None:
        self._retries = retries
        self._deadline_s = deadline_s
        self._started = time.monotonic()
        self._failed = 0

    def wait_s(self, failure: Failure) -> float:
        """Seconds until the next try. Raises the failure's error if there is none.

        Random, so that clients that failed together do not come back together: `Retry-After` and, on top, up to a
        second or up to `Retry-After`, whichever is more, doubled with each try; without `Retry-After` up to 0.25 s,
        doubled with each try.
        """
        most = min(self._retries, _UNREACHED_RETRIES) if failure.is_unreached else self._retries
        if not failure.may_retry or self._failed >= most:
            raise failure.error
        asked_s = failure.retry_after_s
        if asked_s is None:
            wait_s = backoff_s(self._failed, _FIRST_BACKOFF_S, _MOST_BACKOFF_S)
        else:
            spread_s = min(max(asked_s, _FIRST_SPREAD_S) * 2**self._failed, max(asked_s, _MOST_SPREAD_S))
            wait_s = asked_s + random.uniform(0, spread_s)
        remaining_s = self._deadline_s - (time.monotonic() - self._started)
        if max(asked_s or 0.0, 0.0) > remaining_s or remaining_s <= 0:
            raise failure.error
        self._failed += 1
        return min(wait_s, remaining_s)


def failure_of_exception(url: str, error: httpx.HTTPError | httpx.InvalidURL) -> Failure:
    """The failure of a request without a response, or whose response broke off."""
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        return Failure(ClientError(f"{url!r} is not a service's address; write it like http://127.0.0.1:8000"))
    if isinstance(error, httpx.TimeoutException):
        return Failure(ClientError(f"{url} did not answer in time; it may be overloaded, try again later"))
    if (tls := _tls_error(error)) is not None:
        return Failure(ClientError(_tls_text(url, tls)))
    is_unreached = isinstance(error, httpx.ConnectError | httpx.ProxyError)
    reason = str(error) or type(error).__name__
    if is_unreached:
        return Failure(ClientError(f"no answer from {url} ({reason}); {_NO_SERVICE}"), True, None, True)
    if isinstance(error, httpx.LocalProtocolError | httpx.DecodingError | httpx.TooManyRedirects):
        return Failure(ClientError(f"no answer from {url} ({reason}); {_NO_SERVICE}"))
    return Failure(
        ClientError(
            f"no answer from {url}: the connection broke ({reason}); if it does every time, see the logs of the service"
            " and of what stands before it, or send less at once"
        ),
        True,
    )


def is_answer(response: httpx.Response) -> bool:
    """Whether a response is a success, and not a web page; its body need not be read."""
    return response.is_success and not response.headers.get("content-type", "").lower().startswith(_PAGES)


def failure_of_response(url: str, response: httpx.Response, sent: str) -> Failure:
    """The failure of a response that is no answer, whose body was read. `sent`: what was sent, with its size."""
    if response.is_success:
        return Failure(
            ClientError(
                f"{url} answered a web page{_by(response)} and no JSON; is it a Tilebeam service, or the login of a "
                "proxy before it?"
            )
        )
    status, kind = response.status_code, response.headers.get("content-type", "").lower()
    asked_s = retry_after_s(response.headers, time.time())
    if kind.startswith(MEDIA_TYPE):
        error = ProblemError(object_of(url, response.content))
        return Failure(error, status in (429, 503) and asked_s is not None, asked_s, False, status == 413)
    return Failure(
        ProxyAnswerError(_proxy_text(url, response, sent), status, _phrase(status)),
        status in (429, 502, 503, 504),
        asked_s,
        False,
        status == 413,
    )


def object_of(url: str, text: str | bytes) -> dict[str, Any]:
    """A JSON object. Raises ClientError for anything else."""
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise ClientError(f"{url} answered something other than JSON; is it a Tilebeam service?") from exc
    if not isinstance(value, dict):
        raise ClientError(f"{url} answered JSON that is not an object; is it a Tilebeam service?")
    return value


_WAYS_OUT = {
    401: "what stands before the service wants a login: put it into the address, as in https://user:password@host",
    403: "what stands before the service refuses this client: ask its operator",
    404: "is it a Tilebeam service? Check the address and its path",
    405: "is it a Tilebeam service? Check the address and its path",
    407: "the proxy on the way wants a login: put it into HTTPS_PROXY, as in http://user:password@proxy:3128",
    408: "the upload took longer than the proxy allows: raise its timeout (nginx: client_body_timeout), or send less",
    429: "a proxy limits the rate of requests (nginx: limit_req): send less at once",
    500: "the proxy there has a fault of its own: see its log",
    502: "the proxy there does not reach the service behind it: check that it runs and that the proxy has its address",
    503: "the proxy there does not reach the service behind it, or limits requests: check that the service runs",
    504: "the service did not answer in the proxy's time: raise it (nginx: proxy_read_timeout), or send less at once",
}
"""By status, for answers that are not the service's own."""
_TOO_LONG_ADDRESS = (
    "the address is too long for the proxy there, with the region in within: raise its limit "
    "(nginx: large_client_header_buffers), or simplify the region"
)


def _proxy_text(url: str, response: httpx.Response, sent: str) -> str:
    """The line for an answer that is not the service's: what answered what, and the way out."""
    status = response.status_code
    head = f"{url} answered {status} {_phrase(status)}{_by(response)} and no problem document"
    if response.has_redirect_location:
        target = shown_template(response.headers["location"])[:_MAX_QUOTED]
        return f"{head}: it leads to {target}; use the service's own address, or log in to the proxy before it"
    if status == 413:
        return (
            f"{head}: a proxy before the service refuses uploads of this size ({sent}); raise its limit (nginx: "
            "client_max_body_size, Caddy: request_body max_size, Apache: LimitRequestBody), or send smaller pictures"
        )
    is_long = len(str(response.request.url)) > 4000
    if status in (414, 431) or (status == 400 and is_long):
        return f"{head}: {_TOO_LONG_ADDRESS}"
    return f"{head}: {_WAYS_OUT.get(status, 'is it a Tilebeam service?')}"


def _by(response: httpx.Response) -> str:
    """The name of the server that answered and the title of its page, if it says so: ` (nginx/1.26: 502 Bad ...)`."""
    server = _quotable(response.headers.get("server", ""))
    title = re.search(r"<title[^>]*>(.*?)</title", response.text[:4096], re.IGNORECASE | re.DOTALL)
    parts = [server, "" if title is None else _quotable(html.unescape(title[1]))]
    text = ": ".join(part for part in parts if part)
    return f" ({text})" if text else ""


def _quotable(text: str) -> str:
    return "".join(filter(str.isprintable, " ".join(text.split())))[:_MAX_QUOTED]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "(no known status)"


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    return cause


def _tls_text(url: str, error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the certificate of {url} is not accepted ({error.verify_message}); for an authority of your own let "
            "SSL_CERT_FILE name its certificate, a PEM file"
        )
    return f"{url} cannot be reached by TLS ({error.reason or error}); does it speak plain HTTP? Then write http://"
