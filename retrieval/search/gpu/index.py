"""An index's levels as tensors on one device: vectors, Morton codes, and the range of vectors beneath each vector.

Only rows that have a vector are copied. They are numbered 0 to v - 1 in row order; `DeviceLevel.rows` gives the row of
each. It knows no probabilities.
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
    """One zoom's v vectors. u: the number of vectors of the level above (1 pseudo-parent above the first level)."""

    level: Level
    rows: NDArray[np.int64]  # (v,) on the host: each vector's row, ascending
    vectors: Tensor  # (v, d)
    codes: Tensor  # (v,) int64 Morton codes, ascending
    starts: Tensor  # (u,) int64: the vectors beneath p are starts[p] to stops[p]
    stops: Tensor  # (u,) int64
    width: int  # the most vectors beneath one tile, at least 1


@dataclass(frozen=True)
class DeviceIndex:
    """The levels that a search can reach: all above the first one that has no vector."""

    levels: tuple[DeviceLevel, ...]
    device: torch.device
    dtype: torch.dtype
    dim: int

    @classmethod
    def of(
        cls, index: TileIndex, device: torch.device, dtype: torch.dtype | None = None, *, scratch: int = 0
    ) -> "DeviceIndex":
        """Copy an index to a device. `dtype`: float16 or float32, None for the stored type.

        `scratch`: bytes that a search needs besides the index. Raises DeviceMemoryError before anything is copied if
        the device has too little free memory.
        """
        dtype = dtype or _TYPES[index.manifest.codec]
        needed = needed_bytes(index, dtype) + scratch
        free = free_bytes(device)
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
            levels.append(_copied(index, level, above, device, dtype))
        _log.info("copied %s to %s as %s, %s bytes", index.directory, device, dtype, f"{needed - scratch:,}")
        return cls(tuple(levels), device, dtype, index.dim)


def needed_bytes(index: TileIndex, dtype: torch.dtype) -> int:
    """Bytes of an index's tensors on a device: vectors, codes and ranges."""
    counts = [int(level.vector_starts[-1]) for level in index.levels]
    return sum(
        n * (index.dim * dtype.itemsize + 8) + 16 * max(u, 1) for n, u in zip(counts, [1, *counts], strict=False)
    )


def free_bytes(device: torch.device) -> int:
    """Free bytes of a device; for the CPU, the memory that the system can give without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _cached_bytes()


def _cached_bytes() -> int:
    """Bytes of the system's file cache, which it frees on demand; 0 on a system without /proc/meminfo."""
    try:
        with open("/proc/meminfo") as lines:
            return sum(int(v.split()[1]) << 10 for v in lines if v.startswith(("Cached:", "SReclaimable:")))
    except (OSError, ValueError, IndexError):
        return 0


def _copied(
    index: TileIndex, level: Level, above: NDArray[np.int64], device: torch.device, dtype: torch.dtype
) -> DeviceLevel:
    starts, stops = level.vector_starts[above], level.vector_starts[above + 1]
    rows = _rows_with_vectors(level)
    vectors = torch.empty((len(rows), index.dim), dtype=dtype, device=device)
    offset = 0
    for block in _stored_vectors(level, CODECS[index.manifest.codec]):
        vectors[offset : offset + len(block)] = torch.from_numpy(block).to(device)
        offset += len(block)
    codes, first, stop = (torch.from_numpy(v).to(device) for v in (level.codes[rows].astype(np.int64), starts, stops))
    width = max(1, int((stops - starts).max()))
    return DeviceLevel(level, rows, vectors, codes, first, stop, width)


def _rows_with_vectors(level: Level) -> NDArray[np.int64]:
    """The rows that have a vector, (v,)."""
    if level.vector_starts[-1] == len(level.codes):
        return np.arange(len(level.codes))
    rows = [
        shard.rows_of(number) + first
        for shard, first in zip(level.shards, level.first_rows, strict=True)
        for number in np.flatnonzero(shard.list_sizes()).tolist()
    ]
    return np.concatenate(rows)


def _stored_vectors(level: Level, dtype: np.dtype[np.generic]) -> Iterator[NDArray[np.generic]]:
    """Blocks of the stored vectors, (n, d) each, in row order: lists lie in the order of their parents."""
    block: list[NDArray[np.uint8]] = []
    count = 0
    for shard in level.shards:
        for number in np.flatnonzero(shard.list_sizes()).tolist():
            block.append(shard.stored(number))
            count += len(block[-1])
            if count >= _BLOCK_ROWS:
                yield np.concatenate(block).view(dtype)
                block, count = [], 0
    if block:
        yield np.concatenate(block).view(dtype)
