"""From an error to an RFC 9457 problem document, by one table. It knows nothing of the web framework or the engine.

A detail repeats the message of an error of our own trees, which is written for whoever asked. Of any other error the
detail says nothing: what it knows is for the log.
"""

from dataclasses import dataclass
from typing import Any

from retrieval.errors import PhotoTooLargeError, QueryError, UnreadablePhotoError, UnsupportedPhotoError
from service.errors import (
    AuditError,
    BodyTooLargeError,
    ForbiddenError,
    LocalFileError,
    NoTileError,
    NotReadyError,
    OverloadedError,
    ProblemError,
    RateLimitedError,
    ReloadError,
    RequestError,
    SlowUploadError,
    SpoolError,
    TooSlowError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedBodyError,
)

__all__ = ["MEDIA_TYPE", "TABLE", "TYPE_PREFIX", "Kind", "headers_of", "kind_of", "problem_of"]

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:tilebeam:problem:"


@dataclass(frozen=True)
class Kind:
    """What an error class becomes: an HTTP status, the last word of the problem's type, and its title."""

    status: int
    slug: str
    title: str


TABLE: dict[type[Exception], Kind] = {
    UnreadablePhotoError: Kind(400, "unreadable-photo", "The picture cannot be read"),
    LocalFileError: Kind(400, "unreadable-file", "The file cannot be read"),
    UnauthorizedError: Kind(401, "unauthorized", "A key is needed"),
    ForbiddenError: Kind(403, "forbidden", "This key may not do that"),
    NoTileError: Kind(404, "no-tile", "There is no such map tile"),
    SlowUploadError: Kind(408, "slow-upload", "The request did not arrive in time"),
    ReloadError: Kind(409, "reload-refused", "What was to be loaded is refused"),
    PhotoTooLargeError: Kind(413, "photo-too-large", "The picture is too large"),
    BodyTooLargeError: Kind(413, "body-too-large", "The request is too large"),
    UnsupportedPhotoError: Kind(415, "unsupported-photo", "This kind of picture is not taken"),
    UnsupportedBodyError: Kind(415, "unsupported-body", "This content type is not taken"),
    QueryError: Kind(422, "invalid-query", "The question cannot be answered as asked"),
    RequestError: Kind(422, "invalid-request", "The request is not as documented"),
    RateLimitedError: Kind(429, "rate-limited", "Too many pictures for now"),
    OverloadedError: Kind(503, "overloaded", "Too much is in work"),
    SpoolError: Kind(503, "store-unavailable", "The temporary store cannot be written"),
    TooSlowError: Kind(503, "too-slow", "The request took too long"),
    AuditError: Kind(503, "audit-unavailable", "The answer cannot be written down"),
    NotReadyError: Kind(503, "not-ready", "The service is not ready"),
}
"""The one place where an error class meets its status; a subclass falls to its nearest base."""

_UNEXPECTED = Kind(500, "internal", "Something went wrong here")


def kind_of(error: BaseException) -> Kind:
    """The table's row for an error, or that of the unexpected."""
    for cls in type(error).__mro__:
        if cls in TABLE:
            return TABLE[cls]
    return _UNEXPECTED


def problem_of(error: BaseException) -> dict[str, Any]:
    """The problem document: type, title, status, detail."""
    if isinstance(error, ProblemError):
        return error.problem
    kind = kind_of(error)
    detail = str(error)
    if kind is _UNEXPECTED:
        detail = "This is a fault of the service and not of the request; its log has the reason."
    return {"type": TYPE_PREFIX + kind.slug, "title": kind.title, "status": kind.status, "detail": detail}


def headers_of(error: BaseException) -> dict[str, str]:
    """Retry-After, in seconds, where asking again makes sense; how to say who asks, where that is missing."""
    if isinstance(error, UnauthorizedError):
        return {"WWW-Authenticate": "Bearer"}
    return {"Retry-After": str(error.retry_after_s)} if isinstance(error, UnavailableError) else {}
