"""One picture's file to pixels, or to what is wrong with it. Knows nothing of sets, tables or encoders."""

import os
import stat
from pathlib import Path

from PIL import Image

from indexer.photos.photo_set import Fault, Reason
from retrieval.encoders.photo import (
    PhotoError,
    PhotoLimits,
    PhotoTooLargeError,
    UnsupportedPhotoError,
    decode_photo,
)

__all__ = ["PICTURE_SUFFIXES", "file_fault", "os_fault", "read_picture"]

PICTURE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".gif"),
        *(".heic", ".heif", ".avif", ".bmp", ".jp2", ".j2k", ".jxl", ".dng"),
    )
)
"""Lower-case suffixes by which a file in a folder is taken for a picture: also those that are then refused by name."""


def read_picture(path: str, limits: PhotoLimits) -> Image.Image | Fault:
    """The picture, upright and RGB, or what is wrong with it; never raises for what lies at `path`."""
    try:
        data = _read_bytes(path, limits)
        return data if isinstance(data, Fault) else decode_photo(data, limits)
    except PhotoTooLargeError as exc:
        return Fault(Reason.IMAGE_TOO_LARGE, str(exc))
    except UnsupportedPhotoError as exc:
        return Fault(Reason.UNSUPPORTED_FORMAT, str(exc))
    except PhotoError as exc:
        return Fault(Reason.UNREADABLE_IMAGE, str(exc))
    except (OSError, ValueError) as exc:
        return os_fault(path, exc)


def file_fault(path: str) -> Fault | None:
    """What keeps `path` from being read as a file, as far as can be told without opening it; None: nothing."""
    try:
        return _kind_fault(path, os.stat(path).st_mode)
    except (OSError, ValueError) as exc:
        return os_fault(path, exc)


def os_fault(path: str, exc: OSError | ValueError) -> Fault:
    """The operating system's refusal as ours."""
    if isinstance(exc, FileNotFoundError | NotADirectoryError):
        return Fault(Reason.MISSING_FILE, f"there is no {path}")
    if isinstance(exc, PermissionError):
        return Fault(Reason.PERMISSION_DENIED, f"{path} may not be read by this user")
    return Fault(Reason.UNREADABLE_FILE, f"{path} cannot be opened ({exc})")


def _read_bytes(path: str, limits: PhotoLimits) -> bytes | Fault:
    # Asked before opening, as opening a pipe would wait for a writer.
    fault = file_fault(path)
    if fault is not None:
        return fault
    size = os.stat(path).st_size
    if size > limits.max_bytes:
        return Fault(Reason.IMAGE_TOO_LARGE, f"{path} has {size:,} bytes and {limits.max_bytes:,} are allowed")
    data = Path(path).read_bytes()
    return data or Fault(Reason.EMPTY_FILE, f"{path} has 0 bytes")


def _kind_fault(path: str, mode: int) -> Fault | None:
    if stat.S_ISREG(mode):
        return None
    kind = "a folder" if stat.S_ISDIR(mode) else "a device or a pipe"
    return Fault(Reason.NO_FILE, f"{path} is {kind}, not a file")
