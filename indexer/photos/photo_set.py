"""A set of photos with places, and a record of the rejected rows of its table. Knows nothing of pixels.

Each photo keeps its name and line number from the table, so that a later rejection (by decoding, encoding, or a
coverage without its tile) can name it. Places are checked here as well: `check_place` and `parse_place`.
"""

import csv
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.errors import PhotoSetError
from indexer.photos.angles import degrees_of_text
from retrieval.files import write_atomically
from tile_cache.addressing import MAX_LATITUDE

__all__ = [
    "NOWHERE",
    "SPLITS",
    "Fault",
    "PhotoSet",
    "Place",
    "Reason",
    "Rejection",
    "check_place",
    "parse_place",
    "sample_rows",
    "write_rejections",
]

SPLITS = ("train", "validation", "test")

Place = tuple[float, float]
"""(lng, lat) in degrees; (nan, nan) if no place is known."""

NOWHERE: Place = (math.nan, math.nan)

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "nil", "-", "?"})


class Reason(StrEnum):
    """Why a row cannot be used. The strings are stable, because people count and filter by them."""

    MALFORMED_ROW = "malformed row"
    UNDECODABLE_TEXT = "undecodable text"
    NUL_BYTE = "NUL byte"
    UNKNOWN_SPLIT = "unknown split"
    EMPTY_PATH = "empty path"
    MISSING_FILE = "missing file"
    NO_FILE = "not a file"
    PERMISSION_DENIED = "permission denied"
    UNREADABLE_FILE = "unreadable file"
    DUPLICATE_ROW = "duplicate row"
    CONFLICTING_DUPLICATE = "conflicting duplicate"
    COORDINATES_MISSING = "coordinates missing"
    NOT_A_NUMBER = "coordinates not a number"
    OUT_OF_RANGE = "coordinates out of range"
    SWAPPED = "coordinates look swapped"
    BEYOND_MERCATOR = "beyond Web-Mercator's limit"
    NULL_ISLAND = "null island"
    NO_GPS = "EXIF without GPS"
    BROKEN_GPS = "broken EXIF GPS"
    EMPTY_FILE = "empty file"
    UNREADABLE_IMAGE = "unreadable image"
    IMAGE_TOO_LARGE = "image too large"
    UNSUPPORTED_FORMAT = "unsupported format"
    NOT_FINITE = "embedding not finite"
    NO_TILE = "no tile"


class Fault(NamedTuple):
    """Why one row cannot be used, and the details in words."""

    reason: Reason
    detail: str


class Rejection(NamedTuple):
    """A row that cannot be used. `row`: its line in the table (the header is 1), or the number of a file from 0."""

    row: int
    name: str
    reason: str
    detail: str


@dataclass(frozen=True, eq=False)
class PhotoSet:
    """Photos with places, in the order of their table. Raises PhotoSetError if the columns differ in length."""

    paths: tuple[str, ...]
    """The absolute path of each picture."""
    names: tuple[str, ...]
    """The name in the table (an id or a relative path); unique."""
    lng: NDArray[np.float64]
    """(n,) degrees; nan if no place is known."""
    lat: NDArray[np.float64]
    """(n,) degrees; nan if no place is known."""
    split: tuple[str, ...] | None = None
    """One of SPLITS for each photo; None if the set is not split."""
    families: tuple[str, ...] | None = None
    """The kind of picture: the table's `family` column, or in a folder the first folder below the root."""
    rejected: tuple[Rejection, ...] = ()
    """Rows of the same table that cannot be used, in the order of their rejection."""
    lines: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) line numbers in the table, as in Rejection; the default counts as if no row had been rejected."""

    def __post_init__(self) -> None:
        if len(self.lines) == 0 and len(self.paths):
            object.__setattr__(self, "lines", np.arange(2, len(self.paths) + 2, dtype=np.int64))
        columns = (self.names, self.lng, self.lat, self.lines, self.split, self.families)
        lengths = {len(column) for column in columns if column is not None}
        if lengths != {len(self.paths)}:
            raise PhotoSetError(f"a photo set of {len(self.paths)} paths has columns of {sorted(lengths)} rows")

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: NDArray[np.intp]) -> "PhotoSet":
        """The photos of these rows, in the given order; `rejected` stays as it is."""
        rows = np.asarray(rows, dtype=np.intp)
        return replace(
            self,
            paths=_picked(self.paths, rows),
            names=_picked(self.names, rows),
            lng=self.lng[rows],
            lat=self.lat[rows],
            split=None if self.split is None else _picked(self.split, rows),
            families=None if self.families is None else _picked(self.families, rows),
            lines=self.lines[rows],
        )

    def only(self, split: str) -> "PhotoSet":
        """The photos of one split. Raises PhotoSetError, which lists the splits of the set, if there are none."""
        rows = np.flatnonzero(np.array(self.split or (), dtype=object) == split)
        if not len(rows):
            counts = Counter(self.split or ())
            listed = ", ".join(f"{name} ({count:,})" for name, count in sorted(counts.items()))
            raise PhotoSetError(f"no photo is in split {split!r}; there are: {listed or 'no splits'}")
        return self.take(rows)

    def sample(self, limit: int | None, seed: int) -> "PhotoSet":
        """At most `limit` photos, drawn by the seed and in table order; None takes all."""
        return self if limit is None or limit >= len(self) else self.take(sample_rows(len(self), limit, seed))

    def without(self, faults: Mapping[int, Fault]) -> "PhotoSet":
        """The set without the photos at these positions, which are added to `rejected` with their faults.

        The result may be empty: see `check_not_empty`.
        """
        if not faults:
            return self
        rejected = tuple(
            Rejection(int(self.lines[row]), self.names[row], str(faults[row].reason), faults[row].detail)
            for row in sorted(faults)
        )
        usable = np.ones(len(self), dtype=np.bool_)
        usable[list(faults)] = False
        return replace(self.take(np.flatnonzero(usable)), rejected=(*self.rejected, *rejected))

    def check_not_empty(self) -> "PhotoSet":
        """The set itself. Raises PhotoSetError with the counts by reason if no photo is left."""
        if not len(self):
            counts = "; ".join(f"{count:,} {reason}" for reason, count in self.summary().items())
            first = f"; the first: row {self.rejected[0].row}, {self.rejected[0].detail}" if self.rejected else ""
            raise PhotoSetError(f"no photo can be used of {len(self.rejected):,} ({counts or 'no rows'}){first}")
        return self

    def digest(self) -> str:
        """SHA-256 (hex) over names, coordinates and split in order: the data hash of a training run."""
        sha = hashlib.sha256(f"photos 1 {len(self)} {self.split is not None}\n".encode())
        for values in (self.lng, self.lat):
            sha.update((values + 0.0).astype("<f8").tobytes())  # + 0.0 turns -0.0 into 0.0
        for column in (self.names, self.split or ()):
            for text in column:
                data = text.encode("utf-8", "surrogateescape")
                sha.update(len(data).to_bytes(4, "little") + data)
        return sha.hexdigest()

    def summary(self) -> dict[str, int]:
        """The number of rejected rows by reason, most frequent first."""
        counts = Counter(rejection.reason for rejection in self.rejected)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def write(self, path: Path) -> None:
        """Write a CSV, whole or not at all, that `read_photos` reads back equal except for lines and rejected rows.

        Columns: path, name, latitude, longitude, and split and family if known. Paths are relative to the table's
        folder, so that it can be moved or published together with the pictures; a picture that shares no folder with
        the table but the root keeps its absolute path.
        """
        folder = os.path.abspath(path.parent)
        columns: dict[str, Iterable[str]] = {
            "path": (_from_folder(p, folder) for p in self.paths),
            "name": self.names,
            "latitude": map(_degrees, self.lat.tolist()),
            "longitude": map(_degrees, self.lng.tolist()),
        }
        if self.split is not None:
            columns["split"] = self.split
        if self.families is not None:
            columns["family"] = self.families
        _write_csv(path, tuple(columns), zip(*columns.values(), strict=True))


def sample_rows(n: int, limit: int, seed: int) -> NDArray[np.intp]:
    """At most `limit` of the rows 0 to n - 1, drawn by the seed without replacement, ascending."""
    if n <= limit:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, limit, replace=False))


def parse_place(
    longitude: str, latitude: str, *, need_place: bool, longitude_side: str = "", latitude_side: str = ""
) -> Place | Fault:
    """Two cells of a table as a place; NOWHERE if both are empty and `need_place` is False.

    The sides are cells that name the hemispheres, empty where the table has none. `angles` says what is understood.
    """
    lng, lat = longitude.strip(), latitude.strip()
    missing = [name for name, text in (("latitude", lat), ("longitude", lng)) if text.lower() in _MISSING]
    if missing:
        if len(missing) == 2 and not need_place:
            return NOWHERE
        return Fault(Reason.COORDINATES_MISSING, f"no {' and no '.join(missing)}")
    sides = ["" if side.strip().lower() in _MISSING else side for side in (longitude_side, latitude_side)]
    try:
        return check_place(
            degrees_of_text(lng, "longitude", sides[0]),
            degrees_of_text(lat, "latitude", sides[1]),
        )
    except ValueError as exc:
        way_out = "decimal degrees are expected, or degrees, minutes and seconds with N, S, E or W"
        return Fault(Reason.NOT_A_NUMBER, f"latitude {lat[:60]!r}, longitude {lng[:60]!r}: {exc}; {way_out}")


def check_place(lng: float, lat: float) -> Place | Fault:
    """The place itself, or why no photo can have been taken there or be placed on a Web-Mercator map."""
    text = f"latitude {lat:.7g}, longitude {lng:.7g}"
    if not -90 <= lat <= 90 or not -180 <= lng <= 180:
        if 90 < abs(lat) <= 180 and abs(lng) <= 90:
            return Fault(Reason.SWAPPED, f"{text}: the two look swapped")
        return Fault(Reason.OUT_OF_RANGE, f"{text}: latitudes end at 90 degrees, longitudes at 180")
    if abs(lat) > MAX_LATITUDE:
        return Fault(Reason.BEYOND_MERCATOR, f"{text}: Web-Mercator maps end at latitude {MAX_LATITUDE:.4f}")
    if lng == 0 and lat == 0:
        return Fault(Reason.NULL_ISLAND, "latitude 0, longitude 0: devices and tables write this for no place")
    return lng, lat


def write_rejections(path: Path, rejected: Iterable[Rejection]) -> None:
    """Write the rejected rows as CSV (row, name, reason, detail), whole or not at all."""
    _write_csv(path, Rejection._fields, ((str(r.row), r.name, r.reason, r.detail) for r in rejected))


def _write_csv(path: Path, header: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    def write(temporary: Path) -> None:
        # A rejected row's name may be text in no encoding; its bytes are written escaped.
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            writer.writerows(rows)

    write_atomically(path, write)


def _from_folder(path: str, folder: str) -> str:
    apart = os.path.commonpath([path, folder]) == os.path.abspath(os.sep)
    return path if apart else os.path.relpath(path, folder)


def _picked(values: tuple[str, ...], rows: NDArray[np.intp]) -> tuple[str, ...]:
    return tuple(values[row] for row in rows.tolist())


def _degrees(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
