"""Frozen activations on disk: rows that are computed once, memory-mapped, and what does not fit computed each time.

It knows nothing of towers and tiles, nor (`row_store` does) of how rows lie in files.

Several processes of one run: the first opens the cache and fills it, the others open it after a barrier, find the lock
taken, and only read; so does an unrelated run that is given the same directory, if its key is the same.
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
    """How much disk a cache may take, and how exactly it keeps numbers.

    `bytes`: of all its files together, in bytes. `dtype`: `float32` (exact), or `float16`, `bfloat16` (half the disk).
    """

    bytes: int = 20 * 2**30
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES:
            raise TrainingError(f"activations cannot be kept as {self.dtype!r}: use {', '.join(_DTYPES)}")
        if self.bytes < 0:
            raise TrainingError(f"a cache of {self.bytes} bytes is none: 0 (no cache) or more is needed")


class ActivationCache:
    """Rows of frozen activations on disk, memory-mapped, filled as they are asked for; what does not fit is computed.

    The first `fits` rows can be kept, `filled` of them are. `writes`: whether this process holds the lock. `note`: why
    not all is as hoped (a full disk, another writer, a limit that holds few rows), for people; empty if all is.
    A row comes back with the bits that `limits.dtype` keeps of it, whether it was read or has just been computed.
    For one thread; use `with`, or `close`.
    """

    def __init__(self, store: RowStore | None, rows: int, shape: tuple[int, int], dtype: str, note: str) -> None:
        self.rows, self.shape, self.note = rows, shape, note
        self._store, self._dtype = store, _DTYPES[dtype]

    @classmethod
    def open(
        cls, directory: Path, key: str, rows: int, shape: tuple[int, int], limits: CacheLimits | None = None
    ) -> "ActivationCache":
        """Open or begin the cache in `directory`, made if missing, of `rows` rows of `shape` (t, width).

        `key`: all that the rows depend on. A cache of another key, shape or dtype, or a damaged one, starts anew; a
        larger limit keeps what is there. A disk that refuses leaves a cache that keeps nothing, and a note.
        """
        limits = limits or CacheLimits()
        size = shape[0] * shape[1] * _DTYPES[limits.dtype].itemsize
        facts = {"key": sha256(key.encode()).hexdigest(), "rows": rows, "shape": list(shape)}
        facts |= {"dtype": limits.dtype, "order": sys.byteorder}
        fits = min(rows, max(0, limits.bytes - HEADER_BYTES) // (size + SUM_BYTES))
        store, note = None, f"a limit of {limits.bytes:,} bytes holds no activations ({size:,} bytes a tile)"
        if fits > 0:
            try:
                store, note = RowStore.open(directory, facts, size, fits)
            except OSError as exc:
                note = f"no cache in {directory}: {exc.strerror or exc}; all activations are computed each time"
        if not note and fits < rows:
            note = f"{fits:,} of {rows:,} tiles' activations fit in {limits.bytes:,} bytes; the others are computed"
        return cls(store, rows, shape, limits.dtype, note)

    @property
    def fits(self) -> int:
        """Rows that can be kept: the first so many."""
        return self._store.fits if self._store else 0

    @property
    def filled(self) -> int:
        """Rows that are kept."""
        return int(np.count_nonzero(self._store.sums)) if self._store else 0

    @property
    def writes(self) -> bool:
        """Whether this process keeps what it computes."""
        return self._store is not None and self._store.writes

    def get(self, rows: Rows, compute: Compute) -> Tensor:
        """Rows by number, (m,), repeats allowed, to (m, t, width) float32 on the CPU, in the order asked for.

        `compute`: distinct row numbers, (k,) ascending, to (k, t, width) of any float on any device; asked for what is
        missing, all at once.
        """
        rows = self._checked(rows)
        if not len(rows):
            return torch.empty((0, *self.shape))
        there = self._store.whole(rows) if self._store else np.zeros(len(rows), dtype=np.bool_)
        if there.all():
            return self._read(rows)
        missing, places = np.unique(rows[~there], return_inverse=True)
        made = self._made(missing, compute)
        tokens = torch.empty((len(rows), *self.shape))
        tokens[torch.from_numpy(~there)] = made.float()[torch.from_numpy(places)]
        if there.any():
            tokens[torch.from_numpy(there)] = self._read(rows[there])
        self._keep(missing, made)
        return tokens

    def fill(self, compute: Compute, *, batch: int, on_progress: Callable[[int, int], None]) -> None:
        """Compute and keep all that fits, in runs of `batch` rows; `on_progress` is told (rows done, rows that fit).

        A run of which any row is missing is computed whole: rows made again after a kill have the same bits as before.
        A process that does not hold the lock fills nothing.
        """
        for first in range(0, self.fits, batch):
            if self._store is None or not self._store.writes:
                return
            rows = np.arange(first, min(first + batch, self.fits))
            there = self._store.whole(rows)
            if not there.all():
                self._keep(rows[~there], self._made(rows, compute)[torch.from_numpy(~there)])
            on_progress(int(rows[-1]) + 1, self.fits)
        self.commit()

    def commit(self) -> None:
        """Make what was computed last for good; done every 64 MiB and by `close` too."""
        if self._store:
            try:
                self._store.commit()
            except OSError as exc:
                self._stop_keeping(exc)

    def close(self) -> None:
        """Commit and let go of the lock; what is kept can be read no more, and everything is computed."""
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
            raise TrainingError(
                f"rows {rows!r} were asked of a cache of {self.rows}: give (m,) from 0 to {self.rows - 1}"
            )
        return rows

    def _made(self, rows: Rows, compute: Compute) -> Tensor:
        """(k, t, width) in the dtype that is kept."""
        made = compute(rows).detach().to("cpu")
        if made.shape != (len(rows), *self.shape):
            raise TrainingError(f"activations of shape {tuple(made.shape)} came for {len(rows)} rows of {self.shape}")
        kept = made.to(self._dtype)
        if bool((torch.isinf(kept) & torch.isfinite(made)).any()):
            raise TrainingError(f"activations reach {float(made.abs().max()):.3g}, beyond {self._dtype}: use bfloat16")
        return kept.contiguous()

    def _read(self, rows: Rows) -> Tensor:
        assert self._store is not None
        return torch.from_numpy(self._store.read(rows)).view(self._dtype).reshape(len(rows), *self.shape).float()

    def _keep(self, rows: Rows, made: Tensor) -> None:
        inside = rows < self.fits
        if self._store and self._store.writes and inside.any():
            raw = made[torch.from_numpy(inside)].view(torch.uint8).numpy().reshape(int(inside.sum()), -1)
            try:
                self._store.write(rows[inside], raw)
            except OSError as exc:
                self._stop_keeping(exc)

    def _stop_keeping(self, exc: OSError) -> None:
        """The store only reads from now on: a disk that is full stays so for a while, and training goes on."""
        self.note = f"{exc.strerror or exc}: {self.filled:,} of {self.rows:,} tiles' activations are kept, no more"
