"""Pictures to request bodies: files, bytes, PIL images and arrays, one after another. Knows nothing of HTTP clients.

Plain Python; only a PIL image or an array, which brings its library along, makes it import Pillow.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from service.errors import LocalFileError

__all__ = ["Image", "Photo", "content_of", "is_picture", "multipart", "name_of", "opened"]

_CHUNK = 1 << 16
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".heic", ".heif"})


class Image(Protocol):
    """What a PIL image can do."""

    def save(self, fp: Any, format: str | None = None) -> None:
        """Write the encoded picture."""


class Array(Protocol):
    """(h, w) or (h, w, 3) uint8, as NumPy has it."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Photo = Path | bytes | Image | Array


def name_of(photo: Photo) -> str:
    """The file's name, or `photo`."""
    return photo.name if isinstance(photo, Path) else "photo"


def is_picture(path: Path) -> bool:
    """Whether a file is called like a picture; what it is, the service finds out."""
    return path.suffix.lower() in _SUFFIXES and path.is_file() and not path.name.startswith(".")


def content_of(photo: Photo) -> bytes:
    """The picture as a file's bytes; images and arrays become PNG, which loses nothing. Raises LocalFileError."""
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, Path):
        with opened(photo) as file:
            return file.read()
    if not hasattr(photo, "save"):
        import PIL.Image

        photo = PIL.Image.fromarray(photo)
    out = io.BytesIO()
    photo.save(out, format="PNG")
    return out.getvalue()


def opened(photo: Path) -> BinaryIO:
    """The file, open; raises LocalFileError."""
    try:
        return photo.open("rb")
    except OSError as exc:
        raise LocalFileError(f"{photo}: {exc.strerror}; check the path") from exc


def multipart(photos: Sequence[Photo], boundary: str) -> Iterator[bytes]:
    """The form, picture by picture: a thousand files are never open, or in memory, at once."""
    for photo in photos:
        name = name_of(photo).translate({ord('"'): "%22", ord("\r"): "%0D", ord("\n"): "%0A"})
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'
        yield head.encode("utf-8", errors="surrogateescape")
        yield from _chunks(photo)
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode()


def _chunks(photo: Photo) -> Iterator[bytes]:
    if not isinstance(photo, Path):
        yield content_of(photo)
        return
    with opened(photo) as file:
        while chunk := file.read(_CHUNK):
            yield chunk
