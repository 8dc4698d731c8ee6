"""Rows of equal size in a file, each there and whole or not there, whatever kills the process or the machine.

A store is a directory with three files. `activations.bin`: row r at byte r * size, sparse until it is filled.
`activations.state`: a header that says what the rows are, then four bytes a row: 0 for a row that is not there, else
its CRC-32 (1 in place of 0). `activations.lock`: held by the one process that writes. A row's checksum is written after
its bytes have reached the disk, and compared when the row is first read: what a kill, a crash or a full disk cut off is
missing, never wrong. It knows nothing of what is in a row.
"""

import fcntl
import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.files import write_atomically

__all__ = ["HEADER_BYTES", "SUM_BYTES", "RowStore"]

COMMIT_BYTES = 64 << 20
"""Written before the disk is waited for: what a kill can cost."""

HEADER_BYTES, SUM_BYTES = 4096, 4
_FORMAT = "tilebeam-activations-1"

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]


class RowStore:
    """`fits` rows of `size` bytes, and the checksums of those that are there, (fits,) uint32, 0 for the others.

    `writes`: whether this process holds the lock. What a full or failing disk raises passes through as OSError.
    """

    def __init__(self, data: int, lock: int | None, state: int, sums: NDArray[np.uint32], size: int) -> None:
        self.sums, self.fits, self.writes = sums, len(sums), lock is not None
        self._data, self._lock, self._state, self._size = data, lock, state, size
        self._seen = np.zeros(self.fits, dtype=np.bool_)
        self._pending: list[int] = []
        with open(data, "rb", closefd=False) as file:
            self._map = np.asarray(np.memmap(file, dtype=np.uint8, mode="r", shape=(self.fits, size)))

    @classmethod
    def open(cls, directory: Path, facts: dict[str, Any], size: int, fits: int) -> "tuple[RowStore | None, str]":
        """For writing if nobody else does, else for reading what is of these `facts`; and a note. May raise OSError."""
        directory.mkdir(parents=True, exist_ok=True)
        lock = os.open(directory / "activations.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return cls._reader(directory, facts, size)
        try:
            return cls._writer(directory, facts, size, fits, lock), ""
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def _reader(cls, directory: Path, facts: dict[str, Any], size: int) -> "tuple[RowStore | None, str]":
        sums = _read_sums(directory, facts, size, live=True)
        if sums is None:
            return None, f"another run fills the cache in {directory} with other activations; none are kept here"
        data = os.open(directory / "activations.bin", os.O_RDONLY)
        return cls(data, None, -1, sums, size), f"another process fills the cache in {directory}; this one only reads"

    @classmethod
    def _writer(cls, directory: Path, facts: dict[str, Any], size: int, fits: int, lock: int) -> "RowStore":
        rows, state = directory / "activations.bin", directory / "activations.state"
        before = _read_sums(directory, facts, size, live=False)
        if before is None or len(before) > fits:
            state.unlink(missing_ok=True)  # unlinked, not emptied: whoever still reads the old ones keeps them
            rows.unlink(missing_ok=True)
            before = np.zeros(0, dtype=np.uint32)
        data = os.open(rows, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(data, fits * size)
        sums = np.zeros(fits, dtype=np.uint32)
        sums[: len(before)] = before
        if len(before) < fits:
            header = json.dumps({"format": _FORMAT, **facts, "fits": fits}).encode().ljust(HEADER_BYTES)
            write_atomically(state, lambda temporary: _write(temporary, header + sums.tobytes()))
        return cls(data, lock, os.open(state, os.O_RDWR), sums, size)

    def whole(self, rows: Rows) -> Flags:
        """Which rows, (m,), are there, checked against their sums when met first."""
        there = rows < self.fits
        there[there] = self.sums[rows[there]] != 0
        for n in np.flatnonzero(there):
            row = int(rows[n])
            if not self._seen[row]:
                there[n] = self._seen[row] = _checksum(self._map[row]) == self.sums[row]
                if not there[n] and self.writes:
                    self.sums[row] = 0
        return there

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        """(m, size) bytes of rows that are whole."""
        return np.take(self._map, rows, axis=0)

    def write(self, rows: Rows, raw: NDArray[np.uint8]) -> None:
        """Keep rows, (m,), of bytes (m, size), for this process at once, for others when committed.

        After an OSError nothing more is written; what was whole before it is kept.
        """
        try:
            for row, piece in zip(rows.tolist(), raw, strict=True):
                _pwrite(self._data, piece.tobytes(), row * self._size)
                self.sums[row], self._seen[row] = _checksum(piece), True
                self._pending.append(row)
        except OSError:
            self.writes = False
            self.commit()
            raise
        if len(self._pending) * self._size >= COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Bytes to the disk first, then the sums that vouch for them; rows that the disk does not confirm are none."""
        if not self._pending:
            return
        first, last = min(self._pending), max(self._pending)
        try:
            os.fsync(self._data)
            # All of this span is on the disk by now, also what was not pending.
            _pwrite(self._state, self.sums[first : last + 1].tobytes(), HEADER_BYTES + SUM_BYTES * first)
            os.fsync(self._state)
        except OSError:
            # Not tried again: Linux tells of bytes that it could not write once, and the next fsync succeeds.
            self.writes = False
            self.sums[self._pending] = 0
            raise
        finally:
            self._pending.clear()

    def close(self) -> None:
        """Unmap, close, unlock."""
        del self._map, self.sums
        for handle in (self._data, self._state, self._lock):
            if handle is not None and handle >= 0:
                os.close(handle)


def _read_sums(directory: Path, facts: dict[str, Any], size: int, *, live: bool) -> NDArray[np.uint32] | None:
    """The checksums of a cache of these facts, `live` as its writer changes them; None if it is another, or damaged."""
    state, rows = directory / "activations.state", directory / "activations.bin"
    try:
        with open(state, "rb") as file:
            header = json.loads(file.read(HEADER_BYTES))
        fits = header.pop("fits")
        whole = header == {"format": _FORMAT, **facts} and isinstance(fits, int) and 0 < fits <= facts["rows"]
        if not whole or state.stat().st_size != HEADER_BYTES + SUM_BYTES * fits or rows.stat().st_size < fits * size:
            return None
        sums = np.memmap(state, dtype=np.uint32, mode="r", offset=HEADER_BYTES, shape=(fits,))
        return np.asarray(sums) if live else np.array(sums)
    except (OSError, ValueError, AttributeError, KeyError, RecursionError):
        return None


def _checksum(row: NDArray[np.uint8]) -> int:
    return zlib.crc32(np.ascontiguousarray(row).data) or 1


def _pwrite(handle: int, data: bytes, at: int) -> None:
    left = memoryview(data)
    while left:
        written = os.pwrite(handle, left, at)
        left, at = left[written:], at + written


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
