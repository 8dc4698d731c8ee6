"""Picture files: where they lie below a folder, and their pixels or what is wrong with them.

A data set's tables and copies give one picture several names; `Finder` tries them. Knows nothing of sets, tables or
encoders.
"""

import os
import stat
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from PIL import Image

from indexer.photos.photo_set import Fault, Reason
from retrieval import picture_files
from retrieval.decoding.decoder import shared_decoder
from retrieval.errors import DecoderError, PhotoError, PhotoTooLargeError, UnreadablePhotoError, UnsupportedPhotoError
from retrieval.files import open_regular
from retrieval.picture_files import PICTURE_SUFFIXES
from retrieval.pictures.formats import HEAD_BYTES, accepted_formats, in_words, sniff
from retrieval.pictures.limits import PhotoLimits

__all__ = ["PICTURE_SUFFIXES", "Finder", "file_fault", "os_fault", "read_picture", "walk_pictures"]


class Finder:
    """Turns a table's path or id of a picture into its absolute path below `root`.

    `by_stem`: the table gives ids, and copies of the data set keep the files in sub-folders of their own choosing. The
    folder is then walked once, on the first lookup, so that the file system is accessed once per folder and not once
    per photo. If two files have the same stem, the first in sorted order is used.
    """

    def __init__(self, root: str, *, by_stem: bool) -> None:
        self.root = os.path.abspath(root)
        self._by_stem = by_stem

    def find(self, name: str) -> str | Fault:
        """The absolute path of the picture with this name, or why there is none."""
        if not name.strip():
            return Fault(Reason.EMPTY_PATH, "the row has no path or id of a picture")
        return self._indexed(name) if self._by_stem else self._direct(name)

    def _direct(self, name: str) -> str | Fault:
        path = os.path.normpath(os.path.join(self.root, name))
        fault = file_fault(path)
        if fault is not None and fault.reason is Reason.MISSING_FILE:
            # Tables may have a space after each comma, or paths written on Windows.
            for variant in (name.strip(), name.strip().replace("\\", "/")):
                other = os.path.normpath(os.path.join(self.root, variant))
                if variant != name and file_fault(other) is None:
                    return other
        return path if fault is None else fault

    def _indexed(self, name: str) -> str | Fault:
        # Copies of MP-16 store "34/8d/9055806529.jpg" as is, as 34_8d_9055806529.jpg, or without its folders.
        clean = name.strip().replace("\\", "/")
        for candidate in (clean.rpartition("/")[2], clean.replace("/", "_")):
            relative = self._index.get(_stem(candidate))
            if relative is not None:
                return os.path.join(self.root, relative)
        return Fault(Reason.MISSING_FILE, f"no file of that name lies below {self.root}")

    @cached_property
    def _index(self) -> dict[str, str]:
        index: dict[str, str] = {}
        for relative, fault in walk_pictures(self.root):
            if fault is None:
                index.setdefault(_stem(os.path.basename(relative)), relative)
        return index


def walk_pictures(root: str) -> Iterator[tuple[str, Fault | None]]:
    """Relative paths of the pictures below a folder, sorted; for a folder that cannot be read, its path and fault.

    Pictures are recognised by suffix. Links are followed, each folder is entered once, and names that begin with a dot
    are skipped.
    """
    for relative, error in picture_files.walk_pictures(root):
        yield relative, None if error is None else os_fault(os.path.join(root, relative), error)


def read_picture(path: str, limits: PhotoLimits) -> Image.Image | Fault:
    """The picture, upright and RGB, or what is wrong with it; never raises, whatever lies at `path`.

    Of a file that is no picture only the first bytes are read, and no text quotes them: a table may name any file.
    """
    try:
        data = _read_bytes(path, limits)
        return data if isinstance(data, Fault) else shared_decoder().read(data, limits).images[0]
    except PhotoTooLargeError as exc:
        return Fault(Reason.IMAGE_TOO_LARGE, str(exc))
    except UnsupportedPhotoError as exc:
        return Fault(Reason.UNSUPPORTED_FORMAT, str(exc))
    except (PhotoError, DecoderError) as exc:
        return Fault(Reason.UNREADABLE_IMAGE, str(exc))
    except (OSError, ValueError) as exc:
        return os_fault(path, exc)


def file_fault(path: str) -> Fault | None:
    """Why `path` cannot be read as a file, as far as is known without opening it; None if it can."""
    try:
        return _kind_fault(path, os.stat(path).st_mode)
    except (OSError, ValueError) as exc:
        return os_fault(path, exc)


def os_fault(path: str, exc: OSError | ValueError) -> Fault:
    """An error of the operating system as a Fault."""
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return Fault(Reason.MISSING_FILE, f"there is no {path}")
    if isinstance(exc, PermissionError):
        return Fault(Reason.PERMISSION_DENIED, f"{path} may not be read by this user")
    return Fault(Reason.UNREADABLE_FILE, f"{path} cannot be opened ({exc})")


def _read_bytes(path: str, limits: PhotoLimits) -> bytes | Fault:
    fault = file_fault(path)
    if fault is not None:
        return fault
    with open_regular(Path(path)) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limits.max_bytes:
            return Fault(Reason.IMAGE_TOO_LARGE, f"{path} has {size:,} bytes and {limits.max_bytes:,} are allowed")
        head = stream.read(HEAD_BYTES)
        if not head:
            return Fault(Reason.EMPTY_FILE, f"{path} has 0 bytes")
        try:
            sniff(head)
        except UnreadablePhotoError:
            return Fault(Reason.UNREADABLE_IMAGE, f"{path} is not a picture: give {in_words(accepted_formats())}")
        return head + stream.read(max(0, limits.max_bytes - len(head)))


def _kind_fault(path: str, mode: int) -> Fault | None:
    if stat.S_ISREG(mode):
        return None
    kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
    return Fault(Reason.NO_FILE, f"{path} is {kind}, not a file")


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in PICTURE_SUFFIXES else name
