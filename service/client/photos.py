"""Encodes pictures for request bodies: files, bytes, PIL images and arrays. Knows nothing of HTTP clients.

Pillow is imported only for an array, whose caller has NumPy; everything else needs the standard library only.
"""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from service.errors import LocalFileError

_CHUNK_BYTES = 1 << 16
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".gif", ".heic", ".heif"})


class Image(Protocol):
    """The part of a PIL image that is used here."""

    def save(self, fp: Any, format: str | None = None) -> None:
        """Encode the picture into `fp`."""


class Array(Protocol):
    """A NumPy array of a picture: (h, w) or (h, w, 3) uint8."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


Photo = Path | bytes | Image | Array


def name_of(photo: Photo) -> str:
    """The file name of a path; `photo` for other pictures."""
    return photo.name if isinstance(photo, Path) else "photo"


def is_picture(path: Path) -> bool:
    """Whether a file has a picture's extension; the service checks its content."""
    return path.suffix.lower() in _SUFFIXES and path.is_file() and not path.name.startswith(".")


def content_of(photo: Photo) -> bytes:
    """The picture as encoded bytes; images and arrays become PNG, which is lossless. Raises LocalFileError."""
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
    """Open the file; raises LocalFileError."""
    try:
        return photo.open("rb")
    except OSError as exc:
        raise LocalFileError(f"{photo}: {exc.strerror}; check the path") from exc


def multipart(photos: Sequence[Photo], boundary: str) -> Iterator[bytes]:
    """The chunks of a form with these pictures. Only one file is open at a time, and none is read whole."""
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
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
