"""Everything that can go wrong around a request, as one tree. Plain Python: the client imports it without the engine.

ServiceError
├── SettingsError          a TILEBEAM_ variable that cannot be meant so
├── AddressError           an address that the service cannot listen on
├── KeyFileError           a file of API keys that cannot be used
├── UnauthorizedError      no key, or an unknown one (HTTP 401)
├── ForbiddenError         a key that may not do this (HTTP 403)
├── ReloadError            an index or key file that is refused while the old one serves on (HTTP 409)
├── NoTileError            a map tile that there is none of (HTTP 404)
├── RequestError           parameters, form or fields that are not as documented (HTTP 422)
├── BodyTooLargeError      a request of more bytes or images than are allowed (HTTP 413)
├── UnsupportedBodyError   a content type that is not taken (HTTP 415)
├── SlowUploadError        a client that stopped sending (HTTP 408)
├── UnavailableError       try again later (HTTP 503)
│   ├── RateLimitedError   a key that has sent its images for now (HTTP 429)
│   ├── TooSlowError       a request that took longer than is allowed
│   ├── AuditError         what was answered cannot be written down
│   ├── OverloadedError    as much in work as is allowed
│   ├── SpoolError         the temporary store cannot be written
│   └── NotReadyError      no inference has succeeded yet on what is loaded
└── ClientError            seen from the client: no service there, or no answer from it
    ├── LocalFileError     a picture on this machine that cannot be read
    └── ProblemError       the service answered with a problem document
"""

from typing import Any


class ServiceError(Exception):
    """Base of this package's errors; the message names the value and the way out."""


class SettingsError(ServiceError, ValueError):
    """A setting whose value cannot be meant so."""


class AddressError(ServiceError):
    """A host and port that the service cannot listen on."""


class KeyFileError(ServiceError):
    """A file of API keys that cannot be read, written or meant so."""


class UnauthorizedError(ServiceError):
    """A request without a key where one is needed, or with one that is unknown."""


class ForbiddenError(ServiceError):
    """A key that is known and may not do this."""


class ReloadError(ServiceError):
    """An index or key file that was not taken over; what was loaded before serves on."""


class NoTileError(ServiceError):
    """A map tile that the service has none of."""


class RequestError(ServiceError):
    """Parameters, a form or its fields that are not as documented."""


class BodyTooLargeError(ServiceError):
    """A request body of more bytes, or more images, than are allowed."""


class UnsupportedBodyError(ServiceError):
    """A content type that the route does not take."""


class SlowUploadError(ServiceError):
    """A client that stopped sending in the middle of its request."""


class UnavailableError(ServiceError):
    """The service cannot answer now; `retry_after_s` says when asking again makes sense."""

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OverloadedError(UnavailableError):
    """As many requests are in work as is allowed."""


class RateLimitedError(UnavailableError):
    """A key that has sent the images that it may for now."""


class TooSlowError(UnavailableError):
    """A request that took longer than is allowed."""


class AuditError(UnavailableError):
    """An answer that cannot be written down, and so is not given."""


class SpoolError(UnavailableError):
    """The temporary store of batches cannot be written."""


class NotReadyError(UnavailableError):
    """No inference has succeeded yet, or the last one failed, on what is loaded."""


class ClientError(ServiceError):
    """No service at the URL, or an answer from it that makes no sense."""


class LocalFileError(ClientError):
    """A picture on this machine that cannot be read."""


class ProblemError(ClientError):
    """The service answered with an RFC 9457 problem document, kept in `problem`."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or problem))
        self.problem = problem
