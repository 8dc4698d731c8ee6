"""Where pictures lie: below which folder, and under which of the names that a data set's copies give them."""

import os
from collections.abc import Iterator
from functools import cached_property

from indexer.photos.photo_set import Fault, Reason
from indexer.photos.pictures import PICTURE_SUFFIXES, file_fault, os_fault

__all__ = ["Finder", "walk_pictures"]


class Finder:
    """Turns what a table calls a picture into its path below `root`.

    `by_stem`: the table gives ids, and the data set's copies put them in sub-folders of their own choosing. Then the
    folder is walked once, on the first question, and every id is looked up in what was found: a file system is asked
    per folder and not per photo. If two files have the same stem, the first in sorted order is meant.
    """

    def __init__(self, root: str, *, by_stem: bool) -> None:
        self.root = os.path.abspath(root)
        self._by_stem = by_stem

    def find(self, name: str) -> str | Fault:
        """The absolute path of the picture of this name, or why there is none."""
        if not name.strip():
            return Fault(Reason.EMPTY_PATH, "the row names no picture")
        return self._indexed(name) if self._by_stem else self._direct(name)

    def _direct(self, name: str) -> str | Fault:
        path = os.path.normpath(os.path.join(self.root, name))
        fault = file_fault(path)
        if fault is not None and fault.reason is Reason.MISSING_FILE:
            for other in (name.strip(), name.strip().replace("\\", "/")):  # ", " between cells; written on Windows
                there = os.path.normpath(os.path.join(self.root, other))
                if other != name and file_fault(there) is None:
                    return there
        return path if fault is None else fault

    def _indexed(self, name: str) -> str | Fault:
        # MP-16's "34/8d/9055806529.jpg" lies so, in some copies as 34_8d_9055806529.jpg, in others without its folders.
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
    """Relative paths of the pictures below a folder, by suffix, sorted; a folder that cannot be read, with its fault.

    Links are followed, each folder is entered once, and what begins with a dot is passed over.
    """
    entered: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            status = os.stat(os.path.join(root, below))
            with os.scandir(os.path.join(root, below)) as listing:
                entries = sorted((e for e in listing if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as exc:
            yield below, os_fault(os.path.join(root, below), exc)
            continue
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        folders = [entry for entry in entries if entry.is_dir()]
        waiting += [os.path.join(below, entry.name) for entry in reversed(folders)]
        for entry in entries:
            if os.path.splitext(entry.name)[1].lower() in PICTURE_SUFFIXES and not entry.is_dir():
                yield os.path.join(below, entry.name), None


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in PICTURE_SUFFIXES else name
