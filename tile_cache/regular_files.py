"""Read files that strangers made: regular files only, and no more bytes than a limit.

Opening a FIFO waits for a writer, and a device such as /dev/zero never ends, also behind a symbolic link. The module
knows nothing of what is in the files.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["IrregularFileError", "open_regular", "read_regular"]


class IrregularFileError(OSError):
    """Something that is not a regular file: a folder, a FIFO, a socket or a device."""


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, without waiting. Raises OSError, IrregularFileError among them."""
    _check(path, os.stat(path).st_mode)  # before opening, because opening a device may have effects
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(path, os.fstat(descriptor).st_mode)  # it may have been replaced in between
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: Path, limit: int) -> bytes:
    """The first `limit` bytes of a regular file, and one more if it has more. Raises as `open_regular` does."""
    with open_regular(path) as file:
        return file.read(limit + 1)


def _check(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise IrregularFileError(errno.EINVAL, "it is not a regular file", str(path))
