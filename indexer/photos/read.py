"""Read a photo set from a CSV or Parquet table of pictures and places, or from a folder of pictures with GPS in EXIF.

A row that cannot be used is listed with its reason and does not stop the run. What affects the whole set (a missing
file, unknown columns, latitude and longitude swapped) raises PhotoSetError. Pictures are not decoded here.
"""

import math
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from indexer.errors import OptionError, PhotoSetError
from indexer.photos.columns import LAYOUTS, YFCC_COLUMNS, Columns, is_yfcc, recognise
from indexer.photos.exif import place_of
from indexer.photos.files import Finder, walk_pictures
from indexer.photos.photo_set import NOWHERE, SPLITS, Fault, PhotoSet, Place, Reason, Rejection, parse_place
from indexer.photos.records import MAX_CELL, Table
from indexer.photos.table import TextTable, open_table
from indexer.threads import ahead
from retrieval.pictures.limits import PhotoLimits

__all__ = ["ReadOptions", "read_photos"]

_THREADS = 4
_SWAPPED_ROWS, _SWAPPED_SHARE = 5, 0.2
"""If at least so many rows, and at least this share of them, look swapped, the header is taken to be swapped."""
_SPLITS = {"train": 0, "training": 0, "val": 1, "valid": 1, "validation": 1, "dev": 1, "test": 2, "testing": 2}


@dataclass(frozen=True)
class ReadOptions:
    """How a photo set is read; the defaults detect everything."""

    layout: str = "auto"
    """auto, folder, table, mp16, osv5m, im2gps, im2gps3k or yfcc4k."""
    images: Path | None = None
    """The folder that the table's paths or ids are in; by default the table's own folder."""
    path_column: str | None = None
    """The column of paths or ids; by default recognised by its name."""
    latitude_column: str | None = None
    """The column of latitudes, in degrees; by default recognised by its name."""
    longitude_column: str | None = None
    """The column of longitudes, in degrees; by default recognised by its name."""
    need_place: bool = True
    """False accepts pictures without a place, as nan; a place that is given must still be valid."""


def read_photos(path: Path, options: ReadOptions = ReadOptions()) -> PhotoSet:
    """Read a table or a folder. Paths in the set are absolute; rows that cannot be used are in `.rejected`.

    Raises PhotoSetError if the whole cannot be used: a missing file, unknown columns, or no usable row; OptionError for
    an unknown layout.
    """
    layouts = ("auto", "folder", *LAYOUTS)
    if options.layout not in layouts:
        raise OptionError(f"unknown --layout {options.layout!r}: use one of {', '.join(layouts)}")
    if path.is_dir():
        if options.layout not in ("auto", "folder"):
            raise PhotoSetError(
                f"{path} is a folder: layout {options.layout} is read from its table, --photos FILE.csv"
            )
        return _read_folder(path, options)
    if options.layout == "folder":
        raise PhotoSetError(f"{path} is not a folder: give a folder of pictures, or leave out --layout folder")
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
        raise PhotoSetError(f"--images {images} is not a folder: name the folder that the table's paths are in")
    return _TableRows(table, columns, Finder(str(images), by_stem=columns.by_stem), options).read()


class _TableRows:
    """Checks the rows of a table one by one, the cheap checks first, and counts swapped coordinates."""

    def __init__(self, table: Table, columns: Columns, finder: Finder, options: ReadOptions) -> None:
        self._table, self._columns, self._finder, self._options = table, columns, finder, options
        self._collector = _Collector()
        self._swapped = self._placed = 0

    def read(self) -> PhotoSet:
        """All rows as a set; raises PhotoSetError if the table as a whole cannot be used."""
        for line, cells, fault in self._table.rows(self._columns.used()):
            if cells is None:
                self._collector.reject(line, "", Fault(Reason.MALFORMED_ROW, fault))
            else:
                self._take(line, cells)
        self._check_not_swapped()
        return self._collector.finish()

    def _take(self, line: int, cells: tuple[str, ...]) -> None:
        key, latitude, longitude, name, split, family, latitude_side, longitude_side = cells
        row = self._row(cells, key, (longitude, latitude), (longitude_side, latitude_side), split)
        if isinstance(row, Fault):
            self._collector.reject(line, key[:MAX_CELL], row)
        else:
            path, place, split = row
            self._collector.add(line, path, key, place, name=name, split=split, family=family)

    def _row(
        self, cells: tuple[str, ...], key: str, angles: tuple[str, str], sides: tuple[str, str], split: str
    ) -> tuple[str, Place, str] | Fault:
        for cell in cells:
            fault = _text_fault(cell)
            if fault is not None:
                return fault
        place = self._place(angles, sides)
        if isinstance(place, Fault):
            return place if key.strip() else Fault(Reason.EMPTY_PATH, "the row has no path or id of a picture")
        split_name = "" if self._columns.split is None else _split_of(split)
        if isinstance(split_name, Fault):
            return split_name
        path = self._finder.find(key)
        return path if isinstance(path, Fault) else (path, place, split_name)

    def _place(self, angles: tuple[str, str], sides: tuple[str, str]) -> Place | Fault:
        """The place in the cells of longitude and latitude, and in those of their hemispheres."""
        if self._columns.latitude is None:
            return NOWHERE
        need = self._options.need_place
        place = parse_place(*angles, need_place=need, longitude_side=sides[0], latitude_side=sides[1])
        fault = isinstance(place, Fault)
        self._placed += not fault or place[0] in (Reason.SWAPPED, Reason.OUT_OF_RANGE, Reason.BEYOND_MERCATOR)
        self._swapped += fault and place[0] is Reason.SWAPPED
        return place

    def _check_not_swapped(self) -> None:
        # One published table of IM2GPS3k has its two columns swapped: the rows that are valid both ways would
        # silently be placed wrongly, so the whole table is refused.
        if self._swapped < max(_SWAPPED_ROWS, _SWAPPED_SHARE * self._placed):
            return
        latitude, longitude = (self._table.columns[i or 0] for i in (self._columns.latitude, self._columns.longitude))
        raise PhotoSetError(
            f"latitude and longitude look swapped: in {self._swapped:,} of {self._placed:,} rows, column {latitude!r} "
            f"is beyond 90 degrees and {longitude!r} is not, so the other rows would silently be misplaced; "
            f"give --latitude-column {longitude} --longitude-column {latitude}"
        )


class _Collector:
    """Collects rows in order into a PhotoSet.

    A picture that two rows place differently is used from neither, because nothing says which row is right.
    """

    def __init__(self) -> None:
        self._rows: list[tuple[int, str, str, str, Place, str, str]] = []
        self._rejected: list[Rejection] = []
        self._first: dict[str, int] = {}
        self._conflicts: set[str] = set()

    def add(
        self, line: int, path: str, key: str, place: Place, *, name: str = "", split: str = "", family: str = ""
    ) -> None:
        """Add a row. `key`: the table's path or id; `name`: used instead of it if all rows have unique names."""
        first = self._first.setdefault(path, len(self._rows))
        if first == len(self._rows):
            self._rows.append((line, path, key, name, place, split, family))
        elif path not in self._conflicts and _same(self._rows[first][4], place):
            self.reject(line, key, Fault(Reason.DUPLICATE_ROW, f"the same as row {self._rows[first][0]}"))
        else:
            self._conflicts.add(path)
            self.reject(line, key, _conflict(self._rows[first][0]))

    def reject(self, line: int, key: str, fault: Fault) -> None:
        """Record a row that cannot be used."""
        self._rejected.append(Rejection(line, key, str(fault.reason), fault.detail))

    def finish(self) -> PhotoSet:
        """The set of usable rows; raises PhotoSetError with the counts if there are none."""
        for path in self._conflicts:
            line, _, key, *_ = self._rows[self._first[path]]
            self.reject(line, key, _conflict(None))
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


def _same(a: Place, b: Place) -> bool:
    return a == b or (math.isnan(a[0]) and math.isnan(b[0]))


def _conflict(line: int | None) -> Fault:
    other = "another row" if line is None else f"row {line}"
    return Fault(Reason.CONFLICTING_DUPLICATE, f"{other} has the same picture at another place")


def _split_of(text: str) -> str | Fault:
    """A cell of the split column as one of SPLITS."""
    number = _SPLITS.get(text.strip().lower())
    if number is None:
        return Fault(Reason.UNKNOWN_SPLIT, f"unknown split {text!r}: use one of {', '.join(SPLITS)}")
    return SPLITS[number]


def _text_fault(cell: str) -> Fault | None:
    """Why a cell is not a text to use, or None if it is."""
    if len(cell) > MAX_CELL:
        return Fault(Reason.MALFORMED_ROW, f"a cell has {len(cell):,} characters, at most {MAX_CELL:,} are read")
    if "\0" in cell:
        return Fault(Reason.NUL_BYTE, f"a NUL byte in {cell[:80]!r}")
    if not cell.isascii():
        try:
            cell.encode()
        except UnicodeEncodeError:
            return Fault(Reason.UNDECODABLE_TEXT, f"{cell[:80]!r} is not UTF-8: save the table as UTF-8")
    return None


def _read_folder(root: Path, options: ReadOptions) -> PhotoSet:
    """Every picture below a folder, at the place in its EXIF; the first folder below the root is its family."""
    top, collector, number = os.path.abspath(root), _Collector(), -1
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="exif") as pool, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # damaged EXIF is reported as a rejected row
        work = partial(_folder_place, top, need_place=options.need_place)
        for number, (relative, place) in enumerate(ahead(pool, work, walk_pictures(top), window=64 * _THREADS)):
            if isinstance(place, Fault):
                collector.reject(number, relative, place)
            else:
                family, below, _ = relative.partition(os.sep)
                collector.add(number, os.path.join(top, relative), relative, place, family=family if below else "")
    if number < 0:
        raise PhotoSetError(
            f"{root} and its sub-folders hold no picture (recognised by suffix, such as .jpg): name another folder"
        )
    return collector.finish()


def _folder_place(top: str, entry: tuple[str, Fault | None], *, need_place: bool) -> tuple[str, Place | Fault]:
    relative, fault = entry
    if fault is None and (fault := _text_fault(relative)) and fault.reason is Reason.UNDECODABLE_TEXT:
        fault = Fault(fault.reason, f"the file's name {relative[:80]!r} is not UTF-8: rename the file")
    place = place_of(os.path.join(top, relative), PhotoLimits()) if fault is None else fault
    if isinstance(place, Fault) and place.reason is Reason.NO_GPS and not need_place:
        return relative, NOWHERE
    return relative, place
