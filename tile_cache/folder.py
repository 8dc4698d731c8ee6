"""A folder of tiles, ROOT/z/x/y.png (or .jpg, .jpeg, .webp), as gdal2tiles, mb-util and most crawlers write it.

Rows count from the north, as in URLs, unless a file beside the tiles says otherwise (`tile_cache.layout`): gdal2tiles'
`tilemapresource.xml`, or `"scheme": "tms"` in `metadata.json`. Whatever is not a regular file, or not named like a
tile, is ignored.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from tile_cache.addressing import MAX_ZOOM, Tile, check_tile
from tile_cache.errors import SourceError, SourceUnavailableError
from tile_cache.images import MAX_TILE_BYTES, BadImageError, image_size, sniff
from tile_cache.layout.decide import Extent, Layout, check_grid, decide
from tile_cache.layout.folder_claims import claims_of, read_descriptions
from tile_cache.regular_files import IrregularFileError, read_regular
from tile_cache.source import SourceInfo

__all__ = ["EXTENSIONS", "FolderSource"]

EXTENSIONS = ("png", "jpg", "jpeg", "webp")
"""File types in order of preference, for a tile that is there in several types."""

_SPELLINGS = tuple(s for e in EXTENSIONS for s in (e, e.upper(), e.capitalize()))
_COLUMNS = 32
"""Columns of a zoom whose rows are listed to compare them with the folder's bounds."""


class FolderSource:
    """A z/x/y folder as a TileSource. Raises SourceError for a folder without tiles, or not in Web Mercator."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._descriptions = read_descriptions(root)
        self._zooms = [z for z in sorted(_numbers(root)) if z <= MAX_ZOOM]
        self._first = self._first_tile()
        self._layout = self._decide()
        self._tms = self._layout.south_first

    @cached_property
    def info(self) -> SourceInfo:
        """The description. Its identity needs the whole listing, which is read once: a second for 200,000 tiles."""
        return SourceInfo(
            name=self._described("name") or self.root.resolve().name,
            identity=f"folder:{self._listing_hash()}",
            attribution=self._described("attribution"),
            min_zoom=self._zooms[0],
            max_zoom=self._zooms[-1],
            tile_size=_width(self._first),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What the reader should know: how rows are read if nothing in the folder says it."""
        if self._layout.said_by is not None:
            return ()
        return (
            f"{self.root}: rows are read from the north (XYZ), in Web Mercator; neither metadata.json nor"
            " tilemapresource.xml says otherwise",
        )

    def read(self, tile: Tile) -> bytes | None:
        """The tile's bytes, or None if there is no file. Raises SourceUnavailableError if the file is unreadable.

        Of a file over MAX_TILE_BYTES, only the beginning is read.
        """
        check_tile(tile)
        y = (1 << tile.z) - 1 - tile.y if self._tms else tile.y
        for extension in _SPELLINGS:
            path = self.root / str(tile.z) / str(tile.x) / f"{y}.{extension}"
            try:
                return read_regular(path, MAX_TILE_BYTES)
            except (FileNotFoundError, NotADirectoryError, IrregularFileError):
                continue
            except OSError as exc:
                raise SourceUnavailableError(f"{path} cannot be read ({exc.strerror}): check its permissions") from exc
        return None

    def close(self) -> None:
        """Do nothing: no file stays open between reads."""

    def _described(self, key: str) -> str:
        """What the first file that describes the tiles and has this key says, or nothing."""
        return next((str(d[key]) for d in self._descriptions.values() if d.get(key)), "")

    def _first_tile(self) -> Path:
        if not self.root.is_dir():
            raise SourceError(f"{self.root} is not a folder: give a z/x/y folder")
        for path, _ in self._files():
            return path
        raise SourceError(f"{self.root} holds no tile: name the files ROOT/z/x/y.png (or .jpg, .jpeg, .webp)")

    def _decide(self) -> Layout:
        deepest, _ = next(self._files(self._zooms[-1:]), (self._first, 0))  # coarse zooms say little of rows
        claims = claims_of(self.root, self._descriptions, deepest.parent)

        def extents() -> list[Extent]:
            return [e for zoom in self._zooms for e in self._extent(zoom)]

        layout = decide(str(self.root), claims, extents, south_first=False)
        for zoom in self._zooms:
            _check_columns(self.root, zoom)
        return layout

    def _extent(self, zoom: int) -> list[Extent]:
        """The columns and rows of a zoom, of some columns spread over it; empty without tiles."""
        columns = sorted(x for x in _numbers(self.root / str(zoom)) if x < 1 << zoom)
        spread = columns[:: max(1, len(columns) // _COLUMNS)] + columns[-1:]
        rows = [
            int(name.partition(".")[0])
            for x in spread
            for name, _ in _tiles_in(self.root / str(zoom) / str(x), 1 << zoom)
        ]
        return [Extent(zoom, columns[0], columns[-1], min(rows), max(rows))] if rows else []

    def _files(self, zooms: Sequence[int] | None = None) -> Iterator[tuple[Path, int]]:
        """Every tile's path and its size in bytes, in order of zoom, column and name; `zooms`: only these."""
        for z in self._zooms if zooms is None else zooms:
            for x in sorted(_numbers(self.root / str(z))):
                column = self.root / str(z) / str(x)
                for name, size in _tiles_in(column, 1 << z) if x < 1 << z else ():
                    yield column / name, size

    def _listing_hash(self) -> str:
        """SHA-256 of file names and sizes.

        A change of a file's bytes that keeps its size goes unnoticed; noticing it would need reading every tile.
        """
        digest = hashlib.sha256(b"tms\n" if self._tms else b"xyz\n")
        for path, size in self._files():
            digest.update(f"{path.relative_to(self.root).as_posix()} {size}\n".encode())
        return digest.hexdigest()


def _check_columns(root: Path, zoom: int) -> None:
    """Raise SourceError if a zoom has images in columns or rows beyond the grid of Web Mercator."""
    size = 1 << zoom
    columns = sorted(_numbers(root / str(zoom)))
    beyond = [x for x in columns if x >= size]
    for x in beyond[:_COLUMNS]:
        if _is_image(root / str(zoom) / str(x)):
            check_grid(str(root), Extent(zoom, 0, x, 0, 0))
    for x in columns[:: max(1, len(columns) // _COLUMNS)]:
        column = root / str(zoom) / str(x)
        rows = [int(name.partition(".")[0]) for name, _ in _tiles_in(column, 10**9)]
        if rows and max(rows) >= size and _is_image(column, beyond=size):
            check_grid(str(root), Extent(zoom, 0, 0, 0, max(rows)))


def _is_image(column: Path, beyond: int = 0) -> bool:
    """Whether the first tile of a column, of its rows from `beyond` on, is an image, and not a file with its name."""
    for name, _ in _tiles_in(column, 10**9):
        if int(name.partition(".")[0]) >= beyond:
            try:
                return sniff(read_regular(column / name, 64)) is not None
            except OSError:
                return False
    return False


def _numbers(folder: Path) -> list[int]:
    """The subfolders whose name is a number in its shortest form (not `04` or `-1`)."""
    if not folder.is_dir():
        return []
    try:
        with os.scandir(folder) as entries:
            return [int(e.name) for e in entries if _is_number(e.name) and e.is_dir()]
    except OSError as exc:
        raise SourceUnavailableError(f"{folder} cannot be read ({exc.strerror}): check its permissions") from exc


def _tiles_in(column: Path, below: int) -> list[tuple[str, int]]:
    """The names of a column's tiles with rows below `below`, sorted, and their sizes in bytes."""
    try:
        with os.scandir(column) as entries:
            return sorted((e.name, e.stat().st_size) for e in entries if _is_tile(e, below))
    except OSError as exc:
        raise SourceUnavailableError(
            f"{exc.filename or column} cannot be read ({exc.strerror}): check its permissions"
        ) from exc


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and str(int(text)) == text


def _is_tile(entry: "os.DirEntry[str]", below: int) -> bool:
    stem, _, extension = entry.name.partition(".")
    return extension in _SPELLINGS and _is_number(stem) and int(stem) < below and entry.is_file()


def _width(path: Path) -> int:
    """The width of the first tile in pixels, or 256 if that tile is damaged, so that the folder can still be opened."""
    try:
        return image_size(read_regular(path, MAX_TILE_BYTES))[0]
    except (BadImageError, OSError):
        return 256
