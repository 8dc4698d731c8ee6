"""Picture files by name: which suffixes they have, where they lie below a folder, and how a name is printed.

The one home of these, for the client, the command line and photo sets. A suffix only chooses the files; what a file is
is read from its contents (`retrieval.pictures.formats`). Imports the standard library only.
"""

import os
from collections.abc import Iterator
from pathlib import PurePath

__all__ = ["PICTURE_SUFFIXES", "is_picture_name", "printable", "walk_pictures"]

PICTURE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
        *(".tif", ".tiff", ".gtiff", ".btf", ".tf8", ".heic", ".heif", ".hif", ".avif"),
        *(".jp2", ".j2k", ".jxl", ".dng"),  # not accepted: such a file gets an error that names its format
    )
)
"""Lower-case suffixes of picture files: those of every accepted format, and of formats that are refused by name."""

_DECODED_BYTES = range(0xDC80, 0xDD00)
"""Characters by which Python stands for the bytes of a file name that are not UTF-8 (surrogateescape)."""


def is_picture_name(name: str) -> bool:
    """Whether a file's name has a picture's suffix, in any case, and does not begin with a dot."""
    return os.path.splitext(name)[1].lower() in PICTURE_SUFFIXES and not name.startswith(".")


def printable(path: str | PurePath) -> str:
    r"""A path or name as text that can be printed and sent.

    A byte that is not UTF-8 becomes `\xe9`, a character without a glyph (a line feed, an escape) its Python escape.
    """
    return "".join(char if char.isprintable() else _escaped(char) for char in str(path))


def walk_pictures(root: str) -> Iterator[tuple[str, OSError | ValueError | None]]:
    """Relative paths of the pictures below a folder, sorted; for a folder that cannot be read, its path and error.

    Links are followed, each folder is entered once, and names that begin with a dot are skipped.
    """
    entered: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            status = os.stat(os.path.join(root, below))
            with os.scandir(os.path.join(root, below)) as listing:
                entries = sorted((e for e in listing if not e.name.startswith(".")), key=lambda e: e.name)
        except (OSError, ValueError) as exc:
            yield below, exc
            continue
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        folders = [entry for entry in entries if entry.is_dir()]
        waiting += [os.path.join(below, entry.name) for entry in reversed(folders)]
        for entry in entries:
            if is_picture_name(entry.name) and not entry.is_dir():
                yield os.path.join(below, entry.name), None


def _escaped(char: str) -> str:
    number = ord(char)
    if number in _DECODED_BYTES:
        return f"\\x{number - 0xDC00:02x}"
    if number < 0x80:
        return char.encode("unicode_escape").decode("ascii")
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"
