"""The service's errors as one tree, and the one table from an error to its RFC 9457 problem document.

Plain Python: the client imports it without the engine, and it knows nothing of the web framework.

ServiceError
├── SettingsError          a TILEBEAM_ variable with an invalid value
├── AddressError           an address that the service cannot listen on
├── KeyFileError           a key file that cannot be read, written or parsed
├── UnauthorizedError      a missing or unknown key (HTTP 401)
├── ForbiddenError         a key without the right for this route (HTTP 403)
├── ReloadError            the new index or key file was refused, the old one stays in use (HTTP 409)
├── UnknownHostError       a service without keys, asked for under a name that is not its own (HTTP 421)
├── CrossSiteError         a request that another site's page made a browser send (HTTP 403)
├── NotHttpError           bytes that are not HTTP (HTTP 400)
├── HeadersTooLargeError   an address and headers over their limit (HTTP 431)
├── NoTileError            a map tile that the source does not have (HTTP 404)
├── RequestError           parameters, form or fields that are not as documented (HTTP 422)
├── BodyTooLargeError      a request over its limit of bytes or images (HTTP 413)
├── UnsupportedBodyError   a content type that the route does not accept (HTTP 415)
├── SlowUploadError        the client stopped sending, or sends too slowly (HTTP 408)
├── UnavailableError       try again later (HTTP 503)
│   ├── RateLimitedError   the key has used up its images for now (HTTP 429)
│   ├── TooSlowError       the request took longer than allowed
│   ├── AuditError         the audit line cannot be written
│   ├── OverloadedError    no slot is free
│   ├── OutOfMemoryError   not enough memory is free to decode a picture
│   ├── DecoderEndedError  the process that decoded a picture has ended
│   ├── SpoolError         the temporary store cannot be written
│   └── NotReadyError      no inference has succeeded yet on the loaded index
└── ClientError            raised by the client: no service at the URL, or an answer that is not the service's
    ├── LocalFileError     an image file on this machine that cannot be read
    ├── ProblemError       the service answered with a problem document
    └── ProxyAnswerError   an HTTP error that is not the service's own, as from a proxy before it
"""

from dataclasses import dataclass
from typing import Any

from retrieval.errors import (
    PhotoTooLargeError,
    PhotoTooSlowError,
    QueryError,
    UnreadablePhotoError,
    UnsupportedPhotoError,
)

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:tilebeam:problem:"


class ServiceError(Exception):
    """Base of this package's errors; the message names the value and what to do."""


class SettingsError(ServiceError, ValueError):
    """A setting with an invalid value."""


class AddressError(ServiceError):
    """A host and port that the service cannot listen on."""


class KeyFileError(ServiceError):
    """A file of API keys that cannot be read, written or parsed."""


class UnauthorizedError(ServiceError):
    """A request with an unknown key, or without a key where one is needed."""


class ForbiddenError(ServiceError):
    """A valid key without the right for this route."""


class ReloadError(ServiceError):
    """A new index or key file was refused; the old one stays in use."""


class UnknownHostError(ServiceError):
    """A service without keys was asked for under a name that is not its own, as by DNS rebinding."""


class CrossSiteError(ServiceError):
    """A request that the page of another site made a browser send."""


class NotHttpError(ServiceError):
    """Bytes that are not an HTTP request."""


class HeadersTooLargeError(ServiceError):
    """A request whose address and headers are too long or too many."""


class NoTileError(ServiceError):
    """A map tile that the source does not have."""


class RequestError(ServiceError):
    """Parameters, a form or its fields that are not as documented."""


class BodyTooLargeError(ServiceError):
    """A request body of more bytes, or more images, than are allowed."""


class UnsupportedBodyError(ServiceError):
    """A content type that the route does not accept."""


class SlowUploadError(ServiceError):
    """The client stopped sending in the middle of its request, or sends it too slowly."""


class UnavailableError(ServiceError):
    """The service cannot answer now; `retry_after_s` is when to try again."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(UnavailableError):
    """No slot is free."""


class OutOfMemoryError(UnavailableError):
    """Not enough memory is free to decode a picture that is within the limits."""


class DecoderEndedError(UnavailableError):
    """The process that decoded a picture has ended, or cannot be started."""


class RateLimitedError(UnavailableError):
    """The key has used up its images for now."""


class TooSlowError(UnavailableError):
    """The request took longer than allowed."""


class AuditError(UnavailableError):
    """The audit line cannot be written, so the answer is withheld."""


class SpoolError(UnavailableError):
    """The temporary store of batches cannot be written."""


class NotReadyError(UnavailableError):
    """No inference has succeeded yet on the loaded index, or the last one failed."""


class ClientError(ServiceError):
    """No service at the URL, or an answer that is not the service's."""


class LocalFileError(ClientError):
    """An image file on this machine that cannot be read."""


class ProblemError(ClientError):
    """The service answered with an RFC 9457 problem document, available as `problem`."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or problem))
        self.problem = problem


class ProxyAnswerError(ClientError):
    """An HTTP error without a problem document: not the service's own. `problem`: one in its form (RFC 9457)."""

    def __init__(self, message: str, status: int, title: str) -> None:
        super().__init__(message)
        self.problem = {"type": "about:blank", "title": title, "status": status, "detail": message}


@dataclass(frozen=True)
class ProblemType:
    """The HTTP side of an error class: status, last word of the problem's `type`, title, and an example detail."""

    status: int
    slug: str
    title: str
    example: str


PROBLEM_TYPES: dict[type[Exception], ProblemType] = {
    UnreadablePhotoError: ProblemType(
        400,
        "unreadable-photo",
        "The picture cannot be read",
        "the JPEG is damaged or cut off (image file is truncated); send the file again, whole",
    ),
    LocalFileError: ProblemType(
        400, "unreadable-file", "The file cannot be read", "photo.jpg: No such file or directory; check the path"
    ),
    NotHttpError: ProblemType(
        400, "not-http", "This is not an HTTP request", "this is not HTTP/1.1; send a request as an HTTP library does"
    ),
    UnauthorizedError: ProblemType(
        401,
        "unauthorized",
        "A key is needed",
        "this service needs a key; send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
    ),
    ForbiddenError: ProblemType(
        403,
        "forbidden",
        "This key does not allow that",
        "key 'alice' is not an admin key; use a key made with `tilebeam key new --admin`, or send SIGHUP",
    ),
    CrossSiteError: ProblemType(
        403,
        "cross-site",
        "The request comes from another site's page",
        "a page of 'https://other.example' sent this; use the service's own page, or let its operator add that origin "
        "to TILEBEAM_CORS_ORIGINS",
    ),
    NoTileError: ProblemType(
        404, "no-tile", "There is no such map tile", "there is no tile 12/0/0 in 'bluemarble'; it has zooms 0 to 8"
    ),
    SlowUploadError: ProblemType(
        408,
        "slow-upload",
        "The upload took too long",
        "nothing arrived for 30 s in the middle of the upload; send it again",
    ),
    ReloadError: ProblemType(
        409,
        "reload-refused",
        "The reload was refused",
        "the new index cannot locate a picture; the log has the reason, the old index stays in use",
    ),
    PhotoTooLargeError: ProblemType(
        413,
        "photo-too-large",
        "The picture is too large",
        "the picture has 100000 x 100000 pixels and 100,000,000 are allowed; send a smaller copy",
    ),
    PhotoTooSlowError: ProblemType(
        413,
        "photo-too-slow",
        "The picture takes too long to decode",
        "decoding the picture takes longer than 30 s, which are allowed; send a smaller copy, or save it as an "
        "ordinary JPEG",
    ),
    BodyTooLargeError: ProblemType(
        413,
        "body-too-large",
        "The request is too large",
        "the request has 20,000,001 bytes and 20,000,000 are allowed; send less at once",
    ),
    UnsupportedPhotoError: ProblemType(
        415,
        "unsupported-photo",
        "This kind of picture is not supported",
        "JPEG 2000 is not supported; send JPEG, PNG, WebP, TIFF, GIF, BMP or AVIF",
    ),
    UnsupportedBodyError: ProblemType(
        415,
        "unsupported-body",
        "This content type is not supported",
        "content type 'text/plain' is not accepted; send multipart/form-data with a file field 'image', "
        "or the picture's bytes with an image/* content type",
    ),
    UnknownHostError: ProblemType(
        421,
        "unknown-host",
        "This host name is not the service's",
        "the name 'other.example' is not this service's; use 127.0.0.1 or localhost, or let its operator add the name "
        "to TILEBEAM_ALLOWED_HOSTS",
    ),
    QueryError: ProblemType(
        422,
        "invalid-query",
        "The index cannot answer this query",
        "no tile of the index lies in the bbox; leave it out, or see in GET /index which area is covered",
    ),
    RequestError: ProblemType(
        422,
        "invalid-request",
        "The request is not valid",
        "query parameter k='0' is invalid: Input should be greater than or equal to 1",
    ),
    RateLimitedError: ProblemType(
        429,
        "rate-limited",
        "Too many pictures in a minute",
        "key 'alice' has used its 60 images a minute; try again in 12 s",
    ),
    HeadersTooLargeError: ProblemType(
        431,
        "headers-too-large",
        "The address and headers are too large",
        "the address and headers have more than 65,536 bytes or 100 headers; send fewer and shorter ones",
    ),
    OverloadedError: ProblemType(
        503, "overloaded", "The service is busy", "128 images are in progress, which is the limit; try again in 3 s"
    ),
    OutOfMemoryError: ProblemType(
        503,
        "out-of-memory",
        "Not enough memory is free",
        "there is not enough memory free to decode the PNG; try again later",
    ),
    DecoderEndedError: ProblemType(
        503,
        "decoder-ended",
        "The picture's decoder stopped",
        "the process that decoded the picture ended (SIGSEGV); save the picture as an ordinary JPEG, or try again",
    ),
    SpoolError: ProblemType(
        503,
        "store-unavailable",
        "The temporary store cannot be written",
        "the temporary store cannot be written (No space left on device); try again later",
    ),
    TooSlowError: ProblemType(
        503,
        "too-slow",
        "The request took too long",
        "answering took longer than 60 s; try again later, or send less at once",
    ),
    AuditError: ProblemType(
        503,
        "audit-unavailable",
        "The audit log cannot be written",
        "the audit log cannot be written, so the answer is withheld; try again later",
    ),
    NotReadyError: ProblemType(
        503,
        "not-ready",
        "The service is not ready",
        "an inference with the loaded index failed; the service's log has the reason",
    ),
}
"""The only place that maps an error class to a status. A subclass without a row uses its nearest base class.

The examples are for the OpenAPI document; tests compare them with the real messages.
"""

_MAX_DETAIL = 600
"""Characters of a problem's detail. A longer one quotes a long value, and an answer should not repeat that."""

INTERNAL = ProblemType(
    500,
    "internal",
    "The service has a fault",
    "This is a fault of the service, not of the request; the service's log has the reason.",
)
"""For every error outside the table. Its detail is always this text: the real message is for the log only."""


def problem_type_of(error: BaseException) -> ProblemType:
    """The table's row for an error; INTERNAL if it has none."""
    for cls in type(error).__mro__:
        if cls in PROBLEM_TYPES:
            return PROBLEM_TYPES[cls]
    return INTERNAL


def problem_of(error: BaseException) -> dict[str, Any]:
    """The problem document: type, title, status, detail."""
    if isinstance(error, ProblemError | ProxyAnswerError):
        return error.problem
    kind = problem_type_of(error)
    detail = INTERNAL.example if kind is INTERNAL else shortened(str(error), _MAX_DETAIL)
    return {"type": TYPE_PREFIX + kind.slug, "title": kind.title, "status": kind.status, "detail": detail}


def shortened(text: str, most: int) -> str:
    """A text that may quote what a client sent, cut after `most` characters, with the count of the others."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most:,} more characters)"


def headers_of(error: BaseException) -> dict[str, str]:
    """Retry-After, in seconds, for errors that pass; WWW-Authenticate for a missing key."""
    if isinstance(error, UnauthorizedError):
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(error.retry_after_s)} if isinstance(error, UnavailableError) else {}
