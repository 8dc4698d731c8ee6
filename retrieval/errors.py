"""Everything that can go wrong between an index and an answer, as one tree.

RetrievalError
├── IndexFormatError       no index, half an index, another version, or damage
│   ├── IndexMissingError  nothing there, or nothing finished
│   ├── IndexVersionError  written by another version of the format
│   └── IndexDamagedError  a file that is missing, cut, or not what the manifest says
├── EncoderError           an encoder that cannot be loaded or run
│   └── EncoderMismatchError  an encoder other than the one that the index was made with
├── DeviceMemoryError      an index that does not fit on the device that it was meant for
├── CalibrationError       calibration numbers that are no calibration, or do not fit this index
├── PriorError             a prior that cannot be opened, or gives no probabilities
├── QueryError             a question that cannot be answered as asked (also a ValueError)
│   └── RegionError        a bounding box or GeoJSON that gives no usable region
└── PhotoError             bytes that are no usable picture
    ├── UnreadablePhotoError   empty, text, cut off or damaged
    ├── PhotoTooLargeError     too many bytes or pixels
    └── UnsupportedPhotoError  a format, or a kind of pixel, that is not taken
"""


class RetrievalError(Exception):
    """Base of this package's errors; the message names the value and the way out."""


class IndexFormatError(RetrievalError):
    """A directory that cannot be used as an index."""


class IndexMissingError(IndexFormatError):
    """No index there, or only a half-written one."""


class IndexVersionError(IndexFormatError):
    """An index of a format version that this program does not read."""


class IndexDamagedError(IndexFormatError):
    """A file of the index that is missing, cut off, or differs from the manifest."""


class EncoderError(RetrievalError):
    """An encoder that cannot be loaded, or that failed."""


class EncoderMismatchError(EncoderError):
    """An encoder whose fingerprint or dimension differs from what the index was made with."""


class DeviceMemoryError(RetrievalError):
    """An index that needs more memory than its device has free."""


class CalibrationError(RetrievalError):
    """Calibration numbers that are malformed, or were made for another index."""


class PriorError(RetrievalError):
    """A prior's directory that cannot be used, or masses that are no probabilities."""


class QueryError(RetrievalError, ValueError):
    """A beam width, bounding box or embedding that cannot be answered."""


class RegionError(QueryError):
    """A bounding box or GeoJSON that cannot be read, or that covers no tile."""


class PhotoError(RetrievalError):
    """Bytes that are no usable picture; the message says what they are and the way out."""


class UnreadablePhotoError(PhotoError):
    """Empty, text, cut off or damaged: no picture comes out of these bytes."""


class PhotoTooLargeError(PhotoError):
    """More bytes or pixels than the limits allow."""


class UnsupportedPhotoError(PhotoError):
    """A known format, or a kind of pixel, that is not taken."""
