"""Rows of a table, one after another, to a PhotoSet: what is wrong with a row is put on record and stops nothing."""

import math

import numpy as np

from indexer.photos.photo_set import SPLITS, Fault, PhotoSet, Reason, Rejection
from indexer.photos.places import Place

__all__ = ["Collector", "split_of", "text_fault"]

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
