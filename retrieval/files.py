"""Files that are either whole or absent, and where the program's cache lies. Knows nothing of the files' contents.

A file is written under a temporary name, flushed to disk, and renamed.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["cache_folder", "read_json", "sync_directory", "write_atomically", "write_json", "write_npy"]


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


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, readable and with a stable byte order."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ValueError for anything else, NaN and Infinity included."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)


def write_npy(path: Path, array: "NDArray[Any]") -> None:
    """Write an array as `.npy`, little-endian and contiguous."""
    # Imported here because the key file is written through this module, where NumPy may not be installed.
    import numpy as np

    contiguous = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))

    def save(temporary: Path) -> None:
        with open(temporary, "wb") as stream:  # an open file, because np.save would append .npy to the temporary name
            np.save(stream, contiguous, allow_pickle=False)

    write_atomically(path, save)


def cache_folder() -> Path:
    """The program's folder in the user's cache: on Linux `tilebeam` under XDG_CACHE_HOME or ~/.cache."""
    # Imported here because the client's installation, which imports this module, does not have it.
    import platformdirs

    return platformdirs.user_cache_path("tilebeam")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
