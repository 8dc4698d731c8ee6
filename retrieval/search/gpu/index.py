"""An index's levels as tensors on one device: vectors, codes, and which vectors lie beneath which.

Only rows with a vector are there, numbered 0 to v - 1 in row order; `rows` leads back. It knows nothing of posteriors.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from retrieval.errors import DeviceMemoryError
from retrieval.index.reader import Level, TileIndex
from retrieval.index.shards import CODECS

_BLOCK_ROWS = 1 << 16
_TYPES = {"fp16": torch.float16, "fp32": torch.float32}
_log = logging.getLogger("tilebeam.retrieval")


@dataclass(frozen=True)
class DeviceLevel:
    """One zoom's v vectors; u is the number of vectors of the level above (the first level has one pseudo-parent)."""

    level: Level
    rows: NDArray[np.int64]  # (v,) on the host: each vector's row, ascending
    vectors: Tensor  # (v, d)
    codes: Tensor  # (v,) int64 Morton codes, ascending
    starts: Tensor  # (u,) int64: the vectors beneath p are starts[p] to stops[p]
    stops: Tensor  # (u,) int64
    width: int  # the most vectors beneath one tile, at least 1


@dataclass(frozen=True)
class DeviceIndex:
    """The levels that a search can reach: down to the first one without any vector."""

    levels: tuple[DeviceLevel, ...]
    device: torch.device
    dtype: torch.dtype
    dim: int

    @classmethod
    def of(
        cls,
        index: TileIndex,
        device: torch.device,
        dtype: torch.dtype | None = None,
        *,
        scratch: int = 0,
        free: int | None = None,
    ) -> "DeviceIndex":
        """Copy an index to a device; `dtype` is float16 or float32, None as it is stored.

        `scratch`: bytes that a search needs besides; `free`: bytes to be had, None asks the device. Raises
        DeviceMemoryError before anything is copied.
        """
        dtype = dtype or _TYPES[index.manifest.codec]
        needed = needed_bytes(index, dtype) + scratch
        free = free_bytes(device) if free is None else free
        if needed > free:
            raise DeviceMemoryError(
                f"a search of {index.directory} on {device} needs {needed:,} bytes there, {free:,} are free: "
                "use --device cpu, a larger device, or an index of fewer zooms"
            )
        levels: list[DeviceLevel] = []
        for level in index.levels:
            if not level.vector_starts[-1]:
                break
            above = levels[-1].rows if levels else np.zeros(1, dtype=np.int64)
            levels.append(_level(index, level, above, device, dtype))
        _log.info("%s lies on %s as %s, %s bytes", index.directory, device, dtype, f"{needed - scratch:,}")
        return cls(tuple(levels), device, dtype, index.dim)


def needed_bytes(index: TileIndex, dtype: torch.dtype) -> int:
    """Bytes of an index's tensors on a device: vectors, codes and ranges."""
    counts = [int(level.vector_starts[-1]) for level in index.levels]
    return sum(
        n * (index.dim * dtype.itemsize + 8) + 16 * max(u, 1) for n, u in zip(counts, [1, *counts], strict=False)
    )


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be had on a device; for the CPU, of memory that the system can give without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _cached_bytes()


def _cached_bytes() -> int:
    """What the system holds of files and gives back when it is asked for memory; 0 where it does not tell."""
    try:
        with open("/proc/meminfo") as lines:
            return sum(int(v.split()[1]) << 10 for v in lines if v.startswith(("Cached:", "SReclaimable:")))
    except (OSError, ValueError, IndexError):
        return 0


def _level(
    index: TileIndex, level: Level, above: NDArray[np.int64], device: torch.device, dtype: torch.dtype
) -> DeviceLevel:
    starts, stops = level.vector_starts[above], level.vector_starts[above + 1]
    rows = _rows(level)
    vectors = torch.empty((len(rows), index.dim), dtype=dtype, device=device)
    at = 0
    for block in _stored(level, CODECS[index.manifest.codec]):
        vectors[at : at + len(block)] = torch.from_numpy(block).to(device)
        at += len(block)
    codes = level.codes[rows].astype(np.int64)
    codes_there, first, last = (torch.from_numpy(v).to(device) for v in (codes, starts, stops))
    return DeviceLevel(level, rows, vectors, codes_there, first, last, width=max(1, int((stops - starts).max())))


def _rows(level: Level) -> NDArray[np.int64]:
    """The rows that have a vector, (v,)."""
    if level.vector_starts[-1] == len(level.codes):
        return np.arange(len(level.codes))
    found = [
        shard.rows_of(number) + first
        for shard, first in zip(level.shards, level.first_rows, strict=True)
        for number in np.flatnonzero(shard.list_sizes()).tolist()
    ]
    return np.concatenate(found)


def _stored(level: Level, kind: np.dtype[np.generic]) -> Iterator[NDArray[np.generic]]:
    """The vectors in row order, some (n, d) of the stored type at a time: lists lie in the order of their parents."""
    waiting: list[NDArray[np.uint8]] = []
    count = 0
    for shard in level.shards:
        for number in np.flatnonzero(shard.list_sizes()).tolist():
            waiting.append(shard.stored(number))
            count += len(waiting[-1])
            if count >= _BLOCK_ROWS:
                yield np.concatenate(waiting).view(kind)
                waiting, count = [], 0
    if waiting:
        yield np.concatenate(waiting).view(kind)
