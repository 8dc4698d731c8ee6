"""Reading a photo set: a CSV or Parquet table of pictures and places, or a folder of pictures whose EXIF holds GPS.

What is wrong with a row is counted, listed and stops nothing; what is wrong with the whole (no such file, columns that
nobody knows, latitude and longitude swapped) is a PhotoSetError. Pictures are not decoded here.
"""

import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from indexer.errors import PhotoSetError
from indexer.photos.columns import LAYOUTS, YFCC_COLUMNS, Columns, is_yfcc, recognise
from indexer.photos.exif import place_of
from indexer.photos.files import Finder, walk_pictures
from indexer.photos.photo_set import NOWHERE, SPLITS, Fault, PhotoSet, Place, Reason, Rejection, parse_place
from indexer.photos.table import Table, TextTable, open_table
from indexer.threads import ahead
from retrieval.encoders.photo import PhotoLimits

__all__ = ["Collector", "ReadOptions", "read_photos", "split_of", "text_fault"]

_THREADS = 4
_SWAPPED_ROWS, _SWAPPED_SHARE = 5, 0.2
"""From how many rows on, and from which share, swapped coordinates are taken for a swapped header."""


@dataclass(frozen=True)
class ReadOptions:
    """How a photo set is read; the defaults find out."""

    layout: str = "auto"
    """`auto`, `folder`, or a table's: `table`, `mp16`, `osv5m`, `im2gps`, `im2gps3k`, `yfcc4k` (see `layouts`)."""
    images: Path | None = None
    """The folder that relative paths and ids are looked up in; None: the table's own."""
    path_column: str | None = None
    """The column that names the pictures; None: recognised by its name."""
    latitude_column: str | None = None
    """The column of latitudes, in degrees; None: recognised by its name."""
    longitude_column: str | None = None
    """The column of longitudes, in degrees; None: recognised by its name."""
    need_place: bool = True
    """False keeps pictures without a place, with nan; a place that is there must still be one."""


def read_photos(path: Path, options: ReadOptions = ReadOptions()) -> PhotoSet:
    """Read a table or a folder; paths in the set are absolute, rows that cannot be used are in `.rejected`.

    Raises PhotoSetError where the whole cannot be used: nothing there, no known columns, no row that is any good.
    """
    layouts = ("auto", "folder", *LAYOUTS)
    if options.layout not in layouts:
        raise PhotoSetError(f"--layout {options.layout!r} is none of {', '.join(layouts)}")
    if path.is_dir():
        if options.layout not in ("auto", "folder"):
            raise PhotoSetError(
                f"{path} is a folder: layout {options.layout} is read from its table, --photos FILE.csv"
            )
        return _read_folder(path, options)
    if options.layout == "folder":
        raise PhotoSetError(f"{path} is no folder of pictures")
    return _read_table(path, options)


def _read_table(path: Path, options: ReadOptions) -> PhotoSet:
    table = open_table(path)
    if options.layout in ("auto", "yfcc4k") and isinstance(table, TextTable) and is_yfcc(table.columns):
        table = table.without_header(YFCC_COLUMNS)
    columns = recognise(
        table.columns,
        options.layout,
        path=options.path_column,
        latitude=options.latitude_column,
        longitude=options.longitude_column,
        need_place=options.need_place,
    )
    images = options.images or path.parent
    if not images.is_dir():
        raise PhotoSetError(f"--images {images} is no folder")
    rows = _TableRows(table, columns, Finder(str(images), by_stem=columns.by_stem), options)
    return rows.read()


class _TableRows:
    """Rows of a table as photos: each check once, the cheap ones first."""

    def __init__(self, table: Table, columns: Columns, finder: Finder, options: ReadOptions) -> None:
        self._table, self._columns, self._finder, self._options = table, columns, finder, options
        self._collector = Collector()
        self._placed = self._swapped = 0

    def read(self) -> PhotoSet:
        for line, cells, fault in self._table.rows(self._columns.used()):
            if cells is None:
                self._collector.refuse(line, "", Fault(Reason.MALFORMED_ROW, fault))
            else:
                self._take(line, cells)
        self._check_not_swapped()
        return self._collector.finish()

    def _take(self, line: int, cells: tuple[str, ...]) -> None:
        key, latitude, longitude, name, split, family = cells
        row = self._row(cells, key, latitude, longitude, split)
        if isinstance(row, Fault):
            self._collector.refuse(line, key, row)
        else:
            path, place, split = row
            self._collector.add(line, path, key, place, name=name, split=split, family=family)

    def _row(
        self, cells: tuple[str, ...], key: str, latitude: str, longitude: str, split: str
    ) -> tuple[str, Place, str] | Fault:
        for cell in cells:
            fault = text_fault(cell)
            if fault is not None:
                return fault
        place = self._place(longitude, latitude)
        if isinstance(place, Fault):
            return place if key.strip() else Fault(Reason.EMPTY_PATH, "the row names no picture")
        part = "" if self._columns.split is None else split_of(split)
        if isinstance(part, Fault):
            return part
        path = self._finder.find(key)
        return path if isinstance(path, Fault) else (path, place, part)

    def _place(self, longitude: str, latitude: str) -> Place | Fault:
        if self._columns.latitude is None:
            return NOWHERE
        need, comma = self._options.need_place, self._table.decimal_comma
        place = parse_place(longitude, latitude, need_place=need, decimal_comma=comma)
        wrong = isinstance(place, Fault)
        self._placed += not wrong or place[0] in (Reason.SWAPPED, Reason.OUT_OF_RANGE, Reason.BEYOND_MERCATOR)
        self._swapped += wrong and place[0] is Reason.SWAPPED
        return place

    def _check_not_swapped(self) -> None:
        if self._swapped < max(_SWAPPED_ROWS, _SWAPPED_SHARE * self._placed):
            return
        latitude, longitude = (self._table.columns[i or 0] for i in (self._columns.latitude, self._columns.longitude))
        raise PhotoSetError(
            f"latitude and longitude look swapped: in {self._swapped:,} of {self._placed:,} rows, column {latitude!r} "
            f"is beyond 90 degrees and {longitude!r} is not, so the others would be misplaced unnoticed; "
            f"give --latitude-column {longitude} --longitude-column {latitude}"
        )


def _read_folder(root: Path, options: ReadOptions) -> PhotoSet:
    """Every picture below a folder at the place in its EXIF; the first folder on its way is its family."""
    top, collector, number = os.path.abspath(root), Collector(), -1
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="exif") as pool:
        work = partial(_folder_place, top, need_place=options.need_place)
        for number, (relative, place) in enumerate(ahead(pool, work, walk_pictures(top), window=64 * _THREADS)):
            if isinstance(place, Fault):
                collector.refuse(number, relative, place)
            else:
                family, below, _ = relative.partition(os.sep)
                collector.add(number, os.path.join(top, relative), relative, place, family=family if below else "")
    if number < 0:
        raise PhotoSetError(f"{root} holds no picture, also not in its sub-folders (looked for by suffix, as .jpg)")
    return collector.finish()


def _folder_place(top: str, found: tuple[str, Fault | None], *, need_place: bool) -> tuple[str, Place | Fault]:
    relative, fault = found
    fault = fault or text_fault(relative)
    place = place_of(os.path.join(top, relative), PhotoLimits()) if fault is None else fault
    if isinstance(place, Fault) and place.reason is Reason.NO_GPS and not need_place:
        return relative, NOWHERE
    return relative, place


_SPLITS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2, "testing": 2}


class Collector:
    """Takes rows in order; `finish` gives the set.

    A picture that two rows place differently is taken from neither: nothing says which of them is right.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[int, str, str, str, Place, str, str]] = []
        self._rejected: list[Rejection] = []
        self._first: dict[str, int] = {}
        self._conflicts: set[str] = set()

    def add(
        self, line: int, path: str, key: str, place: Place, *, name: str = "", split: str = "", family: str = ""
    ) -> None:
        """Take a row. `key`: the table's word for the picture; `name`: its name instead, if every one has its own."""
        first = self._first.setdefault(path, len(self._rows))
        if first == len(self._rows):
            self._rows.append((line, path, key, name, place, split, family))
        elif path not in self._conflicts and _same(self._rows[first][4], place):
            self.refuse(line, key, Fault(Reason.DUPLICATE_ROW, f"the same as row {self._rows[first][0]}"))
        else:
            self._conflicts.add(path)
            self.refuse(line, key, _conflict(self._rows[first][0]))

    def refuse(self, line: int, key: str, fault: Fault) -> None:
        """Put a row on record as unusable."""
        self._rejected.append(Rejection(line, key, str(fault.reason), fault.detail))

    def finish(self) -> PhotoSet:
        """The set of what can be used; raises PhotoSetError with the counts where nothing can."""
        for path in self._conflicts:
            line, _, key, *_ = self._rows[self._first[path]]
            self.refuse(line, key, _conflict(None))
        rows = [row for row in self._rows if row[1] not in self._conflicts]
        lines, paths, keys, names, places, splits, families = zip(*rows, strict=True) if rows else ((),) * 7
        lng_lat = np.array(places, dtype=np.float64).reshape(-1, 2)
        return PhotoSet(
            paths=paths,
            names=names if all(names) and len(set(names)) == len(names) else keys,
            lng=lng_lat[:, 0].copy(),
            lat=lng_lat[:, 1].copy(),
            split=splits if any(splits) else None,
            families=families if any(families) else None,
            rejected=tuple(sorted(self._rejected, key=lambda rejection: rejection.row)),
            lines=np.array(lines, dtype=np.int64),
        ).check_not_empty()


def split_of(text: str) -> str | Fault:
    """A cell of a split column as one of SPLITS."""
    number = _SPLITS.get(text.strip().lower())
    if number is None:
        return Fault(Reason.UNKNOWN_SPLIT, f"split {text!r} is none of {', '.join(SPLITS)}")
    return SPLITS[number]


def text_fault(cell: str) -> Fault | None:
    """Whether a cell is text at all."""
    if "\0" in cell:
        return Fault(Reason.NUL_BYTE, f"a NUL byte in {cell[:80]!r}")
    if not cell.isascii():
        try:
            cell.encode()
        except UnicodeEncodeError:
            return Fault(Reason.UNDECODABLE_TEXT, f"{cell[:80]!r} is not UTF-8: save the table as UTF-8")
    return None


def _same(a: Place, b: Place) -> bool:
    return a == b or (math.isnan(a[0]) and math.isnan(b[0]))


def _conflict(line: int | None) -> Fault:
    other = "another row" if line is None else f"row {line}"
    return Fault(Reason.CONFLICTING_DUPLICATE, f"{other} has the same picture at another place")
