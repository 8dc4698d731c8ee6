"""Pictures for request bodies: what callers may give, and its bytes. Knows nothing of HTTP clients.

A picture is a path (`str` or `PathLike`), the bytes of a file, a binary file object, a PIL image or a NumPy array;
anything else is a TypeError that says so. Pillow is imported only for an array, whose caller has NumPy.
"""

import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from retrieval.picture_files import printable, walk_pictures
from service.errors import LocalFileError

_CHUNK_BYTES = 1 << 16
_PNG_MODES = frozenset(("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA"))
_TAKES = "a path, the bytes of a picture file, a binary file object, a PIL image or a NumPy array"


class Image(Protocol):
    """The part of a PIL image that is used here."""

    @property
    def mode(self) -> str: ...

    def save(self, fp: Any, format: str | None = None) -> None:
        """Encode the picture into `fp`."""


class Array(Protocol):
    """A NumPy array of a picture: (h, w), (h, w, 3) or (h, w, 4) uint8, or (h, w) uint16."""

    @property
    def __array_interface__(self) -> dict[str, Any]: ...


class File(Protocol):
    """A file that was opened in binary mode."""

    def read(self) -> bytes:
        """Everything from the current position on."""


Photo = str | os.PathLike[str] | bytes | bytearray | memoryview | File | Image | Array


class Upload(NamedTuple):
    """A picture that is ready to be sent: a file, which is read while it is sent, or bytes."""

    name: str
    size: int
    source: Path | bytes

    def read(self) -> bytes:
        """The bytes. Raises LocalFileError."""
        return b"".join(self.chunks())

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces, `size` in all. Raises LocalFileError, also for a file that has become shorter."""
        if isinstance(self.source, bytes):
            yield self.source
            return
        rest = self.size
        with opened(self.source) as file:
            while rest > 0:
                try:
                    chunk = file.read(min(_CHUNK_BYTES, rest))
                except OSError as exc:
                    raise LocalFileError(f"{printable(self.source)}: {exc.strerror}; check the disk") from exc
                if not chunk:
                    raise LocalFileError(f"{printable(self.source)}: it became shorter while it was sent; try again")
                rest -= len(chunk)
                yield chunk


def check_photo(photo: object, what: str = "a picture") -> None:
    """Raise TypeError unless this is one of the kinds of picture; nothing is read."""
    if isinstance(photo, str | os.PathLike | bytes | bytearray | memoryview) or _is_image(photo):
        return
    if hasattr(photo, "__array_interface__") or callable(getattr(photo, "read", None)):
        return
    more = "; for several pictures use locate_batch" if isinstance(photo, list | tuple) else ""
    raise TypeError(f"{what} is {_TAKES}, not {type(photo).__name__}{more}")


def photo_list(photos: Iterable[Photo]) -> list[Photo]:
    """The pictures of a batch. Raises TypeError for one picture instead of several, and for what is not a picture."""
    single = isinstance(photos, str | os.PathLike | bytes | bytearray | memoryview) or _is_image(photos)
    if single or hasattr(photos, "read") or len(getattr(photos, "shape", "nhwc")) < 4:
        raise TypeError(
            f"locate_batch takes a list of pictures, not one {type(photos).__name__}; use locate for one picture, or "
            "locate_folder for a folder"
        )
    if isinstance(photos, Mapping | AbstractSet) or not isinstance(photos, Iterable):
        raise TypeError(f"locate_batch takes a list of pictures, not {type(photos).__name__}")
    listed = list(photos)
    for position, photo in enumerate(listed):
        check_photo(photo, f"photos[{position}]")
    return listed


def upload_of(photo: Photo) -> Upload:
    """Make a picture ready to be sent; file objects are read, images and arrays become PNG, which is lossless.

    Raises TypeError as `check_photo`, also for a file in text mode and an array that is not a picture; LocalFileError.
    """
    check_photo(photo)
    if isinstance(photo, str | os.PathLike):
        return _file(Path(os.fsdecode(photo)))
    if isinstance(photo, bytes | bytearray | memoryview):
        return _of_bytes("photo", bytes(photo))
    if _is_image(photo):
        return _of_bytes("photo", _encoded(photo))
    if hasattr(photo, "__array_interface__"):
        return _of_bytes("photo", _encoded(_image_of(photo)))
    return _of_bytes(_file_name(photo), _content(photo))


def name_of(photo: Photo) -> str:
    """The file name of a path, as text that can be printed; `photo` for other pictures."""
    if isinstance(photo, str | os.PathLike):
        return printable(Path(os.fsdecode(photo)).name)
    return _file_name(photo)


def pictures_below(folder: str | os.PathLike[str]) -> list[Path]:
    """Every picture file below a folder, sorted by path. Raises LocalFileError for a folder that cannot be read."""
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"a folder is a path, not {type(folder).__name__}")
    root = Path(os.fsdecode(folder))
    paths = []
    for relative, error in walk_pictures(str(root)):
        if error is not None:
            reason = getattr(error, "strerror", None) or str(error)
            more = "; for one file use locate" if isinstance(error, NotADirectoryError) else "; check the path"
            raise LocalFileError(f"{printable(root / relative)}: {reason}{more}") from error
        paths.append(root / relative)
    return sorted(paths)


def opened(path: Path) -> BinaryIO:
    """Open a file, or a pipe, for reading. Raises LocalFileError."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise LocalFileError(f"{printable(path)}: it is a folder; name a file, or use locate_folder")
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise LocalFileError(f"{printable(path)}: it is a device or a socket; name a picture file")
        return path.open("rb")
    except (OSError, ValueError) as exc:  # ValueError: a name that no file can have
        reason = getattr(exc, "strerror", None) or str(exc)
        raise LocalFileError(f"{printable(path)}: {reason}; {_hint(path)}") from exc


def form_size(uploads: Sequence[Upload], boundary: str) -> int:
    """The bytes of `form`."""
    heads = sum(len(_part_head(upload, boundary)) + upload.size + 2 for upload in uploads)
    return heads + len(_form_end(boundary))


def form(uploads: Sequence[Upload], boundary: str) -> Iterator[bytes]:
    """The chunks of a form with these pictures. Only one file is open at a time, and none is read whole."""
    for upload in uploads:
        yield _part_head(upload, boundary)
        yield from upload.chunks()
        yield b"\r\n"
    yield _form_end(boundary)


def _part_head(upload: Upload, boundary: str) -> bytes:
    name = upload.name.replace('"', "%22")
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n\r\n'
    return head.encode()


def _form_end(boundary: str) -> bytes:
    return f"--{boundary}--\r\n".encode()


def _file(path: Path) -> Upload:
    with opened(path) as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return Upload(printable(path.name), os.fstat(file.fileno()).st_size, path)
        return _of_bytes(printable(path.name), file.read())  # a pipe can be read once


def _of_bytes(name: str, data: bytes) -> Upload:
    return Upload(name, len(data), data)


def _hint(path: Path) -> str:
    text = str(path)
    if text.startswith(("http:/", "https:/")):
        return "it is an address, not a file: download the picture first"
    return "check the path"


def _file_name(photo: object) -> str:
    name = getattr(photo, "name", None)  # a file's; a number for a pipe
    is_file = hasattr(photo, "read") and isinstance(name, str)
    return printable(Path(str(name)).name) if is_file else "photo"


def _content(file: Any) -> bytes:
    try:
        data = file.read()
    except OSError as exc:
        raise LocalFileError(f"{_file_name(file)}: {exc.strerror or exc}; open the file again") from exc
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    if hasattr(data, "close"):  # a coroutine
        data.close()
    how = "it is in text mode: open it with mode 'rb'" if isinstance(data, str) else f"read() gives {type(data)}"
    raise TypeError(f"a picture's file object must give bytes; {how}")


def _is_image(photo: object) -> bool:
    return hasattr(photo, "save") and hasattr(photo, "mode") and not hasattr(photo, "read")


def _image_of(array: Any) -> Image:
    shape, kind = array.__array_interface__["shape"], array.__array_interface__["typestr"]
    grey = len(shape) == 2 and kind[1:] in ("u1", "u2", "b1")
    if 0 in shape or not (grey or (len(shape) == 3 and shape[2] in (3, 4) and kind[1:] == "u1")):
        raise TypeError(
            f"an array of shape {shape} and type {getattr(array, 'dtype', kind)} is not a picture: give (h, w), "
            "(h, w, 3) or (h, w, 4) uint8, or (h, w) uint16"
        )
    try:
        import PIL.Image
    except ImportError as exc:
        raise ImportError("a picture as an array needs Pillow: pip install pillow", name="PIL") from exc

    return PIL.Image.fromarray(array)


def _encoded(image: Any) -> bytes:
    out = io.BytesIO()
    if image.mode == "F":
        image.save(out, format="TIFF")  # the only format with float samples
    else:
        (image if image.mode in _PNG_MODES else image.convert("RGB")).save(out, format="PNG")
    return out.getvalue()
