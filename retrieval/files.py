"""Files that are either whole or absent: temporary name, fsync, rename. Knows nothing of what is in them."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, and give it its name.

    The temporary name carries the process's number, so that two writers do not share one; it is removed on failure.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_directory(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, readable and with a stable byte order."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: _write_text(temporary, text))


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ValueError for what is no JSON, NaN and Infinity included."""
    return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)


def write_npy(path: Path, array: NDArray[Any]) -> None:
    """Write an array as `.npy`, little-endian and contiguous."""
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    write_atomically(path, lambda temporary: _save(temporary, plain))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _save(path: Path, array: NDArray[Any]) -> None:
    with open(path, "wb") as stream:  # an open file, as np.save would append .npy to the temporary name
        np.save(stream, array, allow_pickle=False)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def sync_directory(directory: Path) -> None:
    """Flush a directory to disk, so that a rename in it survives a power loss."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
