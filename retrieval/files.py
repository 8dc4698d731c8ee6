"""Files: written whole or not at all, and read without trust. Also where the program's cache lies.

A file is written under a temporary name, flushed to disk, and renamed. What is read may come from somewhere else: only
regular files are opened, bytes and nesting are bounded, and a symbolic link may not lead out of the file's directory.
The module knows nothing of the files' meaning.
"""

import errno
import json
import math
import os
import re
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from retrieval.errors import CacheFolderError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "JSON_BYTES",
    "cache_folder",
    "check_tree",
    "is_inside",
    "open_regular",
    "parse_json",
    "read_json",
    "read_npy",
    "read_whole",
    "real_path",
    "sync_directory",
    "write_atomically",
    "write_json",
    "write_npy",
]

JSON_BYTES = 1 << 24
"""The largest JSON file that is read, 16 MiB. Parsed, it takes up to 25 times as much memory."""

_DEPTH = 64
_NAME_BYTES = 1024
# Possessive, so that a long string costs no memory for backtracking.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{}]', re.DOTALL)
_UNDECODED = re.compile("[\udc80-\udcff]")
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a directory",
}


def write_atomically(path: Path, write: Callable[[Path], None], *, flush: bool = True) -> None:
    """Let `write` create a temporary file beside `path`, flush it to disk, and rename it to `path`.

    The temporary name contains the process id, so two writers do not share one. The file is removed on failure. Without
    `flush` it is still whole or absent after a crash of the program, but not after a power cut.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        if flush:
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if flush:
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Flush a directory to disk, so that a rename in it survives a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any, *, limit: int | None = None) -> None:
    r"""Write a JSON file, readable and with a stable byte order. Raises OSError for more than `limit` bytes.

    A byte of a file's name that is not UTF-8, as Python reads it, is written as the text `\xe9`.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    text = _UNDECODED.sub(lambda match: f"\\\\x{ord(match[0]) - 0xDC00:02x}", text)
    if limit is not None and (size := len(text.encode())) > limit:
        raise OSError(errno.EFBIG, f"it would have {size:,} bytes, at most {limit:,} are read", str(path))
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def write_npy(path: Path, array: "NDArray[Any]") -> None:
    """Write an array as `.npy`, little-endian and contiguous."""
    # Imported here because the key file is written through this module, where NumPy may not be installed.
    import numpy as np

    contiguous = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))

    def save(temporary: Path) -> None:
        with open(temporary, "wb") as stream:  # an open file, because np.save would append .npy to the temporary name
            np.save(stream, contiguous, allow_pickle=False)

    write_atomically(path, save)


def open_regular(path: Path, *, inside: Path | None = None) -> BufferedReader:
    """Open a regular file for reading, never waiting for a FIFO.

    `inside`: a directory that symbolic links may not lead out of. Raises OSError, also for anything but a regular file,
    and ValueError for a name that no file can have.
    """
    if inside is not None:
        path = real_path(path, inside)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(handle).st_mode)
    if kind != stat.S_IFREG:
        os.close(handle)
        raise OSError(errno.EINVAL, f"it is {_KINDS.get(kind, 'something else')}, not a regular file", str(path))
    return open(handle, "rb")


def real_path(path: Path, inside: Path) -> Path:
    """The path without symbolic links. Raises OSError if it leads out of the directory `inside`."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(inside)):
        raise OSError(errno.EPERM, f"a symbolic link leads out of {inside}", str(path))
    return real


def check_tree(directory: Path) -> None:
    """Raise OSError unless everything below a directory is a regular file or a directory, links inside included."""
    for path in directory.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            open_regular(path, inside=directory).close()


def read_whole(path: Path, limit: int, *, inside: Path | None = None) -> bytes:
    """The bytes of a regular file. Raises as `open_regular`, and OSError for more than `limit` bytes."""
    with open_regular(path, inside=inside) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, at most {limit:,} are read", str(path))
        data = stream.read(size + 1)
    if len(data) != size:
        raise OSError(errno.EIO, "it changed while it was read", str(path))
    return data


def read_json(path: Path, *, limit: int = JSON_BYTES, inside: Path | None = None) -> Any:
    """Read a JSON file. Raises as `read_whole`, and ValueError as `parse_json`."""
    return parse_json(read_whole(path, limit, inside=inside))


def parse_json(data: bytes) -> Any:
    """Parse JSON. Raises ValueError for anything else: NaN, infinite numbers, half surrogates, deep nesting."""
    text = data.decode("utf-8")
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > _DEPTH:
            raise ValueError(f"it is nested more than {_DEPTH} deep")
    value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # UnicodeEncodeError for half of a surrogate pair
    return value


def read_npy(path: Path, dtype: "np.dtype[Any]", *, mapped: bool = False, inside: Path | None = None) -> "NDArray[Any]":
    """Read an array that `write_npy` made, or map it into memory: C order, any shape, exactly this `dtype`.

    The header is checked against the file's size before anything is allocated. Raises as `open_regular`, and ValueError
    for any other file.
    """
    import numpy as np  # see `write_npy`

    with open_regular(path, inside=inside) as stream:
        shape = _npy_shape(stream, dtype)
        offset, size = stream.tell(), os.fstat(stream.fileno()).st_size
        count = math.prod(shape)
        if offset + count * dtype.itemsize != size:
            raise ValueError(f"{size:,} bytes are no array of shape {shape}")
        if mapped and count:
            return np.asarray(np.memmap(stream, dtype=dtype, mode="r", offset=offset, shape=shape))
        array = np.fromfile(stream, dtype=dtype, count=count)
        if len(array) != count:
            raise ValueError("it was cut off while it was read")
        return array.reshape(shape)


def is_inside(name: str) -> bool:
    """Whether a file's name with POSIX slashes, as a manifest lists it, stays inside its directory and is printable."""
    parts = name.split("/")
    return (
        len(name.encode("utf-8", errors="replace")) <= _NAME_BYTES
        and not any(part in ("", ".", "..") for part in parts)
        and not any(ord(char) < 32 or char in "\\\x7f" or "\ud800" <= char <= "\udfff" for char in name)
    )


def cache_folder() -> Path:
    """The program's folder in the user's cache: on Linux `tilebeam` under XDG_CACHE_HOME or ~/.cache.

    Raises CacheFolderError where neither names a folder, as for a user without a name and without HOME.
    """
    # Imported here because the client's installation, which imports this module, does not have it.
    import platformdirs

    try:
        return platformdirs.user_cache_path("tilebeam")
    except RuntimeError as exc:
        raise CacheFolderError(
            "this user has no home folder, and so no cache folder: set HOME or XDG_CACHE_HOME to a folder that can be "
            "written"
        ) from exc


def _npy_shape(stream: BinaryIO, dtype: "np.dtype[Any]") -> tuple[int, ...]:
    """Read the header of a `.npy` file. Only version 1 is taken, whose header has at most 64 kB."""
    import numpy as np

    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("its version is not 1.0")
        shape, fortran, stored = np.lib.format.read_array_header_1_0(stream)
    except Exception as exc:  # NumPy evaluates the header as Python, and passes on what its parser raises
        raise ValueError(f"it has no header of an array ({exc})") from exc
    if stored != dtype or fortran or any(n < 0 for n in shape):
        raise ValueError(f"it holds {stored} of shape {shape}, expected {dtype}")
    return tuple(int(n) for n in shape)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is beyond the range of numbers")
    return value
