"""Reading photo sets."""

from dataclasses import dataclass
from pathlib import Path

from indexer.photos.photo_set import PhotoSet

__all__ = ["ReadOptions", "read_photos"]


@dataclass(frozen=True)
class ReadOptions:
    """How a photo set is read."""

    layout: str = "auto"
    images: Path | None = None
    path_column: str | None = None
    latitude_column: str | None = None
    longitude_column: str | None = None
    need_place: bool = True


def read_photos(path: Path, options: ReadOptions = ReadOptions()) -> PhotoSet:
    """Read a table or a folder."""
    raise NotImplementedError
