"""A folder of tiles, ROOT/z/x/y.png (or .jpg, .jpeg, .webp), as gdal2tiles, mb-util and most crawlers write it.

Rows count from the north, as in URLs. They count from the south (TMS) if the folder has a `tilemapresource.xml`, which
gdal2tiles writes, or `"scheme": "tms"` in `metadata.json`. Other files are ignored.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from tile_cache.addressing import MAX_ZOOM, Tile, check_tile
from tile_cache.errors import SourceError, SourceUnavailableError
from tile_cache.images import BadImageError, image_size
from tile_cache.source import SourceInfo

__all__ = ["EXTENSIONS", "FolderSource"]

EXTENSIONS = ("png", "jpg", "jpeg", "webp")
"""File types in order of preference, for a tile that is there in several types."""


class FolderSource:
    """A z/x/y folder as a TileSource. Raises SourceError for a folder without tiles."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._described = _read_metadata(root / "metadata.json")
        self._tms = self._described.get("scheme") == "tms" or (root / "tilemapresource.xml").is_file()
        self._zooms = sorted(_numbers(root, below=MAX_ZOOM + 1))
        self._first = self._first_tile()

    @cached_property
    def info(self) -> SourceInfo:
        """The description. Its identity needs the whole listing, which is read once: a second for 200,000 tiles."""
        return SourceInfo(
            name=str(self._described.get("name") or self.root.resolve().name),
            identity=f"folder:{self._listing_hash()}",
            attribution=str(self._described.get("attribution") or ""),
            min_zoom=self._zooms[0],
            max_zoom=self._zooms[-1],
            tile_size=_width(self._first),
        )

    def read(self, tile: Tile) -> bytes | None:
        """The tile's bytes, or None if there is no file. Raises SourceUnavailableError if the file is unreadable."""
        check_tile(tile)
        y = (1 << tile.z) - 1 - tile.y if self._tms else tile.y
        for extension in EXTENSIONS:
            path = self.root / str(tile.z) / str(tile.x) / f"{y}.{extension}"
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                continue
            except OSError as exc:
                raise SourceUnavailableError(f"{path} cannot be read ({exc.strerror}): check its permissions") from exc
        return None

    def close(self) -> None:
        """Do nothing: no file stays open between reads."""

    def _first_tile(self) -> Path:
        if not self.root.is_dir():
            raise SourceError(f"{self.root} is not a folder: give a z/x/y folder")
        for path, _ in self._files():
            return path
        raise SourceError(f"{self.root} holds no tile: name the files ROOT/z/x/y.png (or .jpg, .jpeg, .webp)")

    def _files(self) -> Iterator[tuple[Path, int]]:
        """Every tile's path and its size in bytes, in order of zoom, column and name."""
        for z in self._zooms:
            for x in sorted(_numbers(self.root / str(z), below=1 << z)):
                column = self.root / str(z) / str(x)
                for name, size in _tiles_in(column, 1 << z):
                    yield column / name, size

    def _listing_hash(self) -> str:
        """SHA-256 of file names and sizes.

        A change of a file's bytes that keeps its size goes unnoticed; noticing it would need reading every tile.
        """
        digest = hashlib.sha256(b"tms\n" if self._tms else b"xyz\n")
        for path, size in self._files():
            digest.update(f"{path.relative_to(self.root).as_posix()} {size}\n".encode())
        return digest.hexdigest()


def _numbers(folder: Path, below: int) -> list[int]:
    """The subfolders whose name is a number below `below`, in its shortest form (not `04` or `-1`)."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [int(e.name) for e in entries if _is_number(e.name, below) and e.is_dir()]


def _tiles_in(column: Path, below: int) -> list[tuple[str, int]]:
    try:
        with os.scandir(column) as entries:
            return sorted((e.name, e.stat().st_size) for e in entries if _is_tile(e, below))
    except OSError as exc:
        raise SourceUnavailableError(
            f"{exc.filename or column} cannot be read ({exc.strerror}): check its permissions"
        ) from exc


def _is_number(text: str, below: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and str(int(text)) == text and int(text) < below


def _is_tile(entry: "os.DirEntry[str]", below: int) -> bool:
    stem, _, extension = entry.name.partition(".")
    return extension in EXTENSIONS and _is_number(stem, below) and entry.is_file()


def _width(path: Path) -> int:
    """The width of the first tile in pixels, or 256 if that tile is damaged, so that the folder can still be opened."""
    try:
        return image_size(path.read_bytes())[0]
    except (BadImageError, OSError):
        return 256


def _read_metadata(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as exc:
        raise SourceError(f"{path} is not readable JSON: repair or remove it") from exc
    return described if isinstance(described, dict) else {}
