"""Rows of equal size in a file; a row is either complete or missing, whatever kills the process or the machine.

A store is a directory with three files. `activations.bin`: row r at byte r * size, sparse until it is filled.
`activations.state`: a header with the rows' identity, then four bytes per row: 0 for a missing row, else its CRC-32
(1 in place of 0). `activations.lock`: locked by the one process that writes. A row's checksum is written after its
bytes have reached the disk, and compared when the row is first read: a row cut off by a kill, a crash or a full disk is
missing, never wrong. The module does not know what is in a row.
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
"""Bytes written between two flushes to the disk: the most that a kill can lose."""

HEADER_BYTES, SUM_BYTES = 4096, 4
_FORMAT = "tilebeam-activations-1"

Rows = NDArray[np.int64]
Flags = NDArray[np.bool_]


class RowStore:
    """`fits` rows of `size` bytes, with `sums`, (fits,) uint32: checksums of stored rows, 0 for missing ones.

    `writes`: whether this process holds the lock. OSErrors of a full or failing disk pass through.
    """

    def __init__(self, data: int, lock: int | None, state: int, sums: NDArray[np.uint32], size: int) -> None:
        self.sums, self.fits, self.writes = sums, len(sums), lock is not None
        self._data, self._lock, self._state, self._size = data, lock, state, size
        self._checked = np.zeros(self.fits, dtype=np.bool_)
        self._pending: list[int] = []
        with open(data, "rb", closefd=False) as file:
            self._map = np.asarray(np.memmap(file, dtype=np.uint8, mode="r", shape=(self.fits, size)))

    @classmethod
    def open(cls, directory: Path, facts: dict[str, Any], size: int, fits: int) -> "tuple[RowStore | None, str]":
        """Open for writing, or for reading if another process writes rows of the same identity; and a note for people.

        `facts`: the rows' identity, as JSON values. None if another process writes rows of another identity. May raise
        OSError.
        """
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
            return None, f"another run fills the cache in {directory} with other activations; this run caches nothing"
        data = os.open(directory / "activations.bin", os.O_RDONLY)
        return cls(data, None, -1, sums, size), f"another process fills the cache in {directory}; this one only reads"

    @classmethod
    def _writer(cls, directory: Path, facts: dict[str, Any], size: int, fits: int, lock: int) -> "RowStore":
        rows, state = directory / "activations.bin", directory / "activations.state"
        before = _read_sums(directory, facts, size, live=False)
        if before is None or len(before) > fits:
            state.unlink(missing_ok=True)  # unlinked, not truncated: a process that has the old files open keeps them
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
        """Which of these rows, (m,), are stored. A row is compared with its checksum when it is first asked for."""
        stored = rows < self.fits
        stored[stored] = self.sums[rows[stored]] != 0
        for n in np.flatnonzero(stored):
            row = int(rows[n])
            if not self._checked[row]:
                stored[n] = self._checked[row] = _checksum(self._map[row]) == self.sums[row]
                if not stored[n] and self.writes:
                    self.sums[row] = 0
        return stored

    def read(self, rows: Rows) -> NDArray[np.uint8]:
        """The bytes of stored rows, (m,), as (m, size)."""
        return np.take(self._map, rows, axis=0)

    def write(self, rows: Rows, raw: NDArray[np.uint8]) -> None:
        """Store rows, (m,), from bytes, (m, size). Other processes see them after the next commit.

        After an OSError nothing more is written; rows stored before it stay.
        """
        try:
            for row, piece in zip(rows.tolist(), raw, strict=True):
                _pwrite(self._data, piece.tobytes(), row * self._size)
                self.sums[row], self._checked[row] = _checksum(piece), True
                self._pending.append(row)
        except OSError:
            self.writes = False
            self.commit()
            raise
        if len(self._pending) * self._size >= COMMIT_BYTES:
            self.commit()

    def commit(self) -> None:
        """Flush the rows' bytes, then write their checksums. Rows that cannot be flushed count as missing."""
        if not self._pending:
            return
        first, last = min(self._pending), max(self._pending)
        try:
            os.fsync(self._data)
            # All rows between the two are on the disk by now, so their checksums may be written, too.
            _pwrite(self._state, self.sums[first : last + 1].tobytes(), HEADER_BYTES + SUM_BYTES * first)
            os.fsync(self._state)
        except OSError:
            # No second attempt: Linux reports a failed write once, and the next fsync succeeds without it.
            self.writes = False
            self.sums[self._pending] = 0
            raise
        finally:
            self._pending.clear()

    def close(self) -> None:
        """Close the files and release the lock."""
        del self._map, self.sums
        for handle in (self._data, self._state, self._lock):
            if handle is not None and handle >= 0:
                os.close(handle)


def _read_sums(directory: Path, facts: dict[str, Any], size: int, *, live: bool) -> NDArray[np.uint32] | None:
    """The checksums of a store with this identity, or None if it has another or is damaged.

    `live`: as a mapping that follows the writer's changes.
    """
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
