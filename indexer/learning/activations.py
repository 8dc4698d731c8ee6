"""A cache of frozen activations: rows are computed once and then read; rows that do not fit are computed each time.

It knows nothing of towers and tiles; `row_store` knows how rows are stored in files.

In a run of several processes the first one opens and fills the cache. The others open it after a barrier, find it
locked, and only read. An unrelated run with the same directory and key only reads, too.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from indexer.errors import TrainingError
from indexer.learning.row_store import HEADER_BYTES, SUM_BYTES, RowStore

__all__ = ["ActivationCache", "CacheLimits"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

Rows = NDArray[np.int64]
Compute = Callable[[Rows], Tensor]


@dataclass(frozen=True)
class CacheLimits:
    """A cache's maximum size and number format.

    `bytes`: of all its files together. `dtype`: `float32` (exact), or `float16`, `bfloat16` (half the disk).
    """

    bytes: int = 20 * 2**30
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise TrainingError(f"unknown cache dtype {self.dtype!r}: use {', '.join(_DTYPES)}")
        if self.bytes < 0:
            raise TrainingError(f"a cache limit of {self.bytes} bytes: give 0 (no cache) or more")


class ActivationCache:
    """Rows of frozen activations in a memory-mapped file, filled on demand.

    The first `fits` rows can be stored; `filled` of them are. `writes`: whether this process holds the lock. `note`:
    a sentence for people about a restriction (a full disk, another writer, a small limit), or empty.
    A row always has the precision of `limits.dtype`, whether it is read or has just been computed.
    Not thread-safe. Use it in a `with` statement, or call `close`.
    """

    def __init__(self, store: RowStore | None, rows: int, shape: tuple[int, int], dtype: str, note: str) -> None:
        self.rows, self.shape, self.note = rows, shape, note
        self._store, self._dtype = store, _DTYPES[dtype]

    @classmethod
    def open(
        cls, directory: Path, key: str, rows: int, shape: tuple[int, int], limits: CacheLimits | None = None
    ) -> "ActivationCache":
        """Open the cache in `directory`, or create it, for `rows` rows of `shape` (t, width).

        `key`: everything that the rows depend on. A cache with another key, shape or dtype, or a damaged one, is
        replaced by an empty one. A larger limit keeps stored rows. If the disk refuses, nothing is stored, and `note`
        says so.
        """
        limits = limits or CacheLimits()
        size = shape[0] * shape[1] * _DTYPES[limits.dtype].itemsize
        identity = {"key": sha256(key.encode()).hexdigest(), "rows": rows, "shape": list(shape)}
        identity |= {"dtype": limits.dtype, "order": sys.byteorder}
        fits = min(rows, max(0, limits.bytes - HEADER_BYTES) // (size + SUM_BYTES))
        store, note = None, f"a limit of {limits.bytes:,} bytes holds no activations ({size:,} bytes a tile)"
        if fits > 0:
            try:
                store, note = RowStore.open(directory, identity, size, fits)
            except OSError as exc:
                note = f"no cache in {directory}: {exc.strerror or exc}; all activations are computed each time"
        if not note and fits < rows:
            note = f"{fits:,} of {rows:,} tiles' activations fit in {limits.bytes:,} bytes; the others are computed"
        return cls(store, rows, shape, limits.dtype, note)

    @property
    def fits(self) -> int:
        """How many rows, the first ones, can be stored."""
        return self._store.fits if self._store else 0

    @property
    def filled(self) -> int:
        """How many rows are stored."""
        return int(np.count_nonzero(self._store.sums)) if self._store else 0

    @property
    def writes(self) -> bool:
        """Whether this process stores the rows that it computes."""
        return self._store is not None and self._store.writes

    def get(self, rows: Rows, compute: Compute) -> Tensor:
        """Rows by number, (m,), repeats allowed, to (m, t, width) float32 on the CPU, in the same order.

        `compute` gets all missing rows in one call, (k,) distinct and ascending, and returns (k, t, width) of any float
        type on any device.
        """
        rows = self._checked(rows)
        if not len(rows):
            return torch.empty((0, *self.shape))
        stored = self._store.whole(rows) if self._store else np.zeros(len(rows), dtype=np.bool_)
        if stored.all():
            return self._read(rows)
        missing, positions = np.unique(rows[~stored], return_inverse=True)
        computed = self._computed(missing, compute)
        values = torch.empty((len(rows), *self.shape))
        values[torch.from_numpy(~stored)] = computed.float()[torch.from_numpy(positions)]
        if stored.any():
            values[torch.from_numpy(stored)] = self._read(rows[stored])
        self._write(missing, computed)
        return values

    def fill(self, compute: Compute, *, batch: int, on_progress: Callable[[int, int], None]) -> None:
        """Compute and store all rows that fit, `batch` at a time; `on_progress` gets (rows done, rows that fit).

        A batch with any missing row is computed as a whole, so that rows computed again after a kill have the same bits
        as before. A process without the lock fills nothing.
        """
        for first in range(0, self.fits, batch):
            if self._store is None or not self._store.writes:
                return
            rows = np.arange(first, min(first + batch, self.fits))
            stored = self._store.whole(rows)
            if not stored.all():
                self._write(rows[~stored], self._computed(rows, compute)[torch.from_numpy(~stored)])
            on_progress(int(rows[-1]) + 1, self.fits)
        self.commit()

    def commit(self) -> None:
        """Flush stored rows to the disk. Also done after every 64 MiB and by `close`."""
        if self._store:
            try:
                self._store.commit()
            except OSError as exc:
                self._stop_writing(exc)

    def close(self) -> None:
        """Commit and release the lock. Afterwards all rows are computed."""
        self.commit()
        if self._store:
            self._store.close()
            self._store = None

    def __enter__(self) -> "ActivationCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _checked(self, rows: Rows) -> Rows:
        rows = np.asarray(rows, dtype=np.int64)
        if rows.ndim != 1 or (len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < self.rows):
            raise TrainingError(f"rows {rows!r} of a cache of {self.rows}: give (m,) numbers from 0 to {self.rows - 1}")
        return rows

    def _computed(self, rows: Rows, compute: Compute) -> Tensor:
        """Compute rows, (k,), to (k, t, width) of the cache's dtype."""
        exact = compute(rows).detach().to("cpu")
        if exact.shape != (len(rows), *self.shape):
            raise TrainingError(f"activations of shape {tuple(exact.shape)} for {len(rows)} rows of shape {self.shape}")
        rounded = exact.to(self._dtype)
        if bool((torch.isinf(rounded) & torch.isfinite(exact)).any()):
            maximum = float(exact.abs().max())
            raise TrainingError(f"activations reach {maximum:.3g}, beyond {self._dtype}: use --cache-dtype bfloat16")
        return rounded.contiguous()

    def _read(self, rows: Rows) -> Tensor:
        assert self._store is not None
        return torch.from_numpy(self._store.read(rows)).view(self._dtype).reshape(len(rows), *self.shape).float()

    def _write(self, rows: Rows, values: Tensor) -> None:
        inside = rows < self.fits
        if self._store and self._store.writes and inside.any():
            raw = values[torch.from_numpy(inside)].view(torch.uint8).numpy().reshape(int(inside.sum()), -1)
            try:
                self._store.write(rows[inside], raw)
            except OSError as exc:
                self._stop_writing(exc)

    def _stop_writing(self, exc: OSError) -> None:
        """Note the error. The store only reads from now on, and training continues."""
        self.note = f"{exc.strerror or exc}: {self.filled:,} of {self.rows:,} tiles' activations are cached, no more"
