"""A set of photos with places, and what could not be used of the table that it came from. Knows nothing of pixels.

A photo keeps the name that its table gives it and the line where it stands there, so that whatever refuses it later
(decoding, encoding, a coverage without its tile) can say which one it was.
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
from retrieval.files import write_atomically

__all__ = ["SPLITS", "Fault", "PhotoSet", "Reason", "Rejection", "write_rejections"]

SPLITS = ("train", "validation", "test")


class Reason(StrEnum):
    """Why a row cannot be used; the strings are stable, as people count and filter by them."""

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
    """What is wrong with one row: why, and in words."""

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
    """Photos with places, in the order of their table. Raises PhotoSetError where columns differ in length."""

    paths: tuple[str, ...]
    """Where each picture lies."""
    names: tuple[str, ...]
    """As the table names it (id or relative path); unique."""
    lng: NDArray[np.float64]
    """(n,) degrees; nan where no place is known."""
    lat: NDArray[np.float64]
    """(n,) degrees; nan where no place is known."""
    split: tuple[str, ...] | None = None
    """One of SPLITS each, where that has been decided."""
    families: tuple[str, ...] | None = None
    """Kind of picture: the table's `family` column, in a folder the first folder below the root."""
    rejected: tuple[Rejection, ...] = ()
    """Rows of the same table that are not among the photos, in the order in which they were refused."""
    lines: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(n,) where each stands in its table, as in Rejection; if none are given, as though no row had been refused."""

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
        """Some of the photos, in the given order; what was refused stays on record."""
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
        """The photos of one split; raises PhotoSetError, naming the splits that there are, where it has none."""
        chosen = np.flatnonzero(np.array(self.split or (), dtype=object) == split)
        if not len(chosen):
            there = Counter(self.split or ())
            listed = ", ".join(f"{name} ({count:,})" for name, count in sorted(there.items()))
            raise PhotoSetError(f"no photo is in split {split!r}; there are: {listed or 'no splits'}")
        return self.take(chosen)

    def without(self, faults: Mapping[int, Fault]) -> "PhotoSet":
        """The set without the photos at these positions, which are put on record with what is wrong with them.

        It may become empty; `check_not_empty` says so in words.
        """
        if not faults:
            return self
        refused = tuple(
            Rejection(int(self.lines[row]), self.names[row], str(faults[row].reason), faults[row].detail)
            for row in sorted(faults)
        )
        stay = np.ones(len(self), dtype=np.bool_)
        stay[list(faults)] = False
        return replace(self.take(np.flatnonzero(stay)), rejected=(*self.rejected, *refused))

    def check_not_empty(self) -> "PhotoSet":
        """The set itself; raises PhotoSetError with the counts by reason where no photo is left."""
        if not len(self):
            counts = "; ".join(f"{count:,} {reason}" for reason, count in self.summary().items())
            first = f"; the first: row {self.rejected[0].row}, {self.rejected[0].detail}" if self.rejected else ""
            raise PhotoSetError(f"no photo can be used of {len(self.rejected):,} ({counts or 'no rows'}){first}")
        return self

    def digest(self) -> str:
        """SHA-256 (hex) over names, coordinates and split in order: the data hash of a training run."""
        sha = hashlib.sha256(f"photos 1 {len(self)} {self.split is not None}\n".encode())
        for values in (self.lng, self.lat):
            sha.update((values + 0.0).astype("<f8").tobytes())  # + 0.0 makes -0.0 and 0.0 one
        for column in (self.names, self.split or ()):
            for text in column:
                data = text.encode("utf-8", "surrogateescape")
                sha.update(len(data).to_bytes(4, "little") + data)
        return sha.hexdigest()

    def summary(self) -> dict[str, int]:
        """How many rows were refused, by reason, most frequent first."""
        counts = Counter(rejection.reason for rejection in self.rejected)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def write(self, path: Path) -> None:
        """Write a CSV, whole or not at all, that `read_photos` reads back equal (but for lines and what was refused).

        Columns: path, name, latitude, longitude, and split and family where known. Pictures below the table's folder
        are written relative to it, so that both can be moved together.
        """
        below = os.path.join(os.path.abspath(path.parent), "")
        columns: dict[str, Iterable[str]] = {
            "path": (p[len(below) :] if p.startswith(below) else p for p in self.paths),
            "name": self.names,
            "latitude": map(_degrees, self.lat.tolist()),
            "longitude": map(_degrees, self.lng.tolist()),
        }
        if self.split is not None:
            columns["split"] = self.split
        if self.families is not None:
            columns["family"] = self.families
        _write_csv(path, tuple(columns), zip(*columns.values(), strict=True))


def write_rejections(path: Path, rejected: Iterable[Rejection]) -> None:
    """Write what was refused as CSV (row, name, reason, detail), whole or not at all."""
    _write_csv(path, Rejection._fields, ((str(r.row), r.name, r.reason, r.detail) for r in rejected))


def _write_csv(path: Path, header: Sequence[str], rows: Iterator[Sequence[str]]) -> None:
    def write(temporary: Path) -> None:
        # Names that are no text in any encoding reach the list of refused rows; there they are shown escaped.
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(header)
            writer.writerows(rows)

    write_atomically(path, write)


def _picked(values: tuple[str, ...], rows: NDArray[np.intp]) -> tuple[str, ...]:
    return tuple(values[row] for row in rows.tolist())


def _degrees(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
