"""The errors of this package, as one tree.

RetrievalError
├── IndexFormatError           a directory or shard that does not follow the index format
│   ├── IndexMissingError      no index, or only an unfinished one
│   ├── IndexVersionError      a format version that this program does not read
│   └── IndexDamagedError      a file that is missing, truncated, or differs from the manifest
├── EncoderError               an encoder that cannot be loaded or run
│   └── EncoderMismatchError   an encoder other than the one that the index was made with
├── DecoderError               a picture that is within the limits and could not be decoded here and now
│   ├── DecodeMemoryError      not enough memory is free
│   └── DecoderDiedError       the process that decoded it has ended
├── DeviceMemoryError          an index that does not fit on the device
├── CalibrationError           calibration numbers that are malformed, or belong to another index or prior
├── PriorError                 a prior that cannot be opened, or whose masses are not probabilities
├── NoReferenceError           nothing on this machine to compare a picture with
├── CacheFolderError           no folder for the program's cache
├── SearchTimeoutError         a search that took longer than its caller allowed
├── QueryError                 a query that this index cannot answer (also a ValueError)
│   └── RegionError            a bounding box or GeoJSON that cannot be read, or that covers no tile
└── PhotoError                 bytes that cannot be used as a picture
    ├── UnreadablePhotoError   empty, not a picture, truncated or damaged
    ├── PhotoTooLargeError     too many bytes or pixels
    ├── PhotoTooSlowError      takes too long to decode
    └── UnsupportedPhotoError  a format or pixel type that is not supported
"""

from collections.abc import Iterator
from contextlib import contextmanager

_SHOWN = 300  # characters of another library's message


class RetrievalError(Exception):
    """Base of this package's errors. A message names the offending value and what to do."""


class IndexFormatError(RetrievalError):
    """A directory or shard that does not follow the index format."""


class IndexMissingError(IndexFormatError):
    """There is no index, or only an unfinished one."""


class IndexVersionError(IndexFormatError):
    """The index has a format version that this program does not read."""


class IndexDamagedError(IndexFormatError):
    """A file of the index is missing, truncated, or differs from the manifest."""


class EncoderError(RetrievalError):
    """An encoder cannot be loaded, or failed."""


class EncoderMismatchError(EncoderError):
    """An encoder's fingerprint or dimension differs from what the index or the files were made with."""


class DeviceMemoryError(RetrievalError):
    """The index needs more memory than the device has free."""


class DecoderError(RetrievalError):
    """A picture that is within the limits could not be decoded here and now."""


class DecodeMemoryError(DecoderError):
    """The machine has not enough memory free to decode a picture that is within the limits."""


class DecoderDiedError(DecoderError):
    """The process that decoded a picture has ended, or cannot be started."""


class CalibrationError(RetrievalError):
    """Calibration numbers are malformed, or belong to another index or prior."""


class PriorError(RetrievalError):
    """A prior's directory cannot be used, or its masses are not probabilities."""


class NoReferenceError(RetrievalError):
    """There is nothing on this machine to compare a picture with, or a picture cannot be registered at all."""


class CacheFolderError(RetrievalError):
    """There is no folder for the program's cache, because the user has no home."""


class SearchTimeoutError(RetrievalError):
    """A search that was ended because it took longer than allowed."""


class QueryError(RetrievalError, ValueError):
    """A query or an embedding that this index cannot answer."""


class RegionError(QueryError):
    """A bounding box or GeoJSON that cannot be read, or that covers no tile."""


class PhotoError(RetrievalError):
    """Bytes that cannot be used as a picture; the message says what they are and what to send instead."""


class UnreadablePhotoError(PhotoError):
    """The bytes are empty, not a picture, truncated or damaged."""


class PhotoTooLargeError(PhotoError):
    """The picture has more bytes or pixels than the limits allow."""


class PhotoTooSlowError(PhotoError):
    """Decoding the picture takes longer than allowed."""


class UnsupportedPhotoError(PhotoError):
    """The picture's format or pixel type is not supported."""


@contextmanager
def damage_as(
    error: type[RetrievalError], what: object, way_out: str, *, but: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn every exception but RetrievalErrors and `but` into `error`, whose message names `what` and the way out.

    For files that may come from anywhere: libraries raise many kinds of exceptions for damaged ones, MemoryError and
    RecursionError among them.
    """
    try:
        yield
    except Exception as exc:
        if isinstance(exc, (RetrievalError, *but)):
            raise
        reason = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
        raise error(f"{what} cannot be used ({reason[:_SHOWN]}): {way_out}") from exc
