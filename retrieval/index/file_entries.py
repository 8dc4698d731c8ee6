"""The files of an index as its manifest lists them: sizes and hashes, taken and compared. Knows no vectors."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from retrieval.errors import IndexDamagedError
from retrieval.files import open_regular

__all__ = ["FileEntry", "check_file", "file_entry"]


@dataclass(frozen=True)
class FileEntry:
    """One file of the index: its name relative to the directory (POSIX slashes), its size and its SHA-256."""

    name: str
    bytes: int
    sha256: str


def file_entry(directory: Path, name: str) -> FileEntry:
    """The size and hash of one file of the directory. Raises OSError if it is not a regular file inside it."""
    with open_regular(directory / name, inside=directory) as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return FileEntry(name, os.fstat(stream.fileno()).st_size, digest)


def check_file(directory: Path, entry: FileEntry, *, contents: bool) -> None:
    """Compare one file with its entry; IndexDamagedError names the file and the difference."""
    path = directory / entry.name
    try:
        with open_regular(path, inside=directory) as stream:
            size = os.fstat(stream.fileno()).st_size
            matches = size == entry.bytes
            actual = hashlib.file_digest(stream, "sha256").hexdigest() if contents and matches else entry.sha256
    except FileNotFoundError as exc:
        raise IndexDamagedError(
            f"{path} is missing, the manifest lists it: copy the index again or rebuild it"
        ) from exc
    except OSError as exc:
        raise IndexDamagedError(f"{path} cannot be read ({exc.strerror}): copy the index again or rebuild it") from exc
    if not matches:
        raise IndexDamagedError(f"{path} has {size} bytes, the manifest says {entry.bytes}: copy or build it again")
    if actual != entry.sha256:
        raise IndexDamagedError(
            f"{path} differs from the manifest (sha256 {actual[:12]}, expected {entry.sha256[:12]}): "
            "copy the index or build it again"
        )
