"""The rows of a zoom during a build: their codes on disk, their vectors in units.

Rows are numbered in Morton order over the whole zoom. It knows nothing of sources, encoders and shards.
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.build.coverage import Coverage
from indexer.build.units import Unit, hash_codes, read_unit, unit_path
from indexer.errors import BuildError
from retrieval.files import write_atomically

__all__ = ["ZoomRows", "stored_codes"]

Codes = NDArray[np.uint64]


class ZoomRows:
    """The rows of one zoom: codes, (n,) uint64 (perhaps memory-mapped), and vectors from unit files.

    A unit under `filled` stands in for the one under `units`: there, rows without imagery have their children's mean.
    """

    def __init__(self, zoom: int, codes: Codes, units: Path, filled: Path, unit_rows: int) -> None:
        self.zoom, self.codes, self.unit_rows = zoom, codes, unit_rows
        self.units, self.filled = units, filled
        # Parents and shards ask for neighbouring rows again and again.
        self._cached = lru_cache(maxsize=8)(self.unit)

    @property
    def unit_count(self) -> int:
        """Units of this zoom."""
        return -(-len(self.codes) // self.unit_rows)

    def unit(self, number: int) -> Unit:
        """A unit with its means, if it has been filled. Raises BuildError if it is not whole."""
        return read_unit(unit_path(self.filled, self.zoom, number)) or self.original(number)

    def original(self, number: int) -> Unit:
        """A unit as it was embedded."""
        path = unit_path(self.units, self.zoom, number)
        unit = read_unit(path)
        start = number * self.unit_rows
        if unit is None or unit.codes_hash != hash_codes(self.codes[start : start + self.unit_rows]):
            raise BuildError(f"{path} is not whole: run the same command again, and it is made again")
        return unit

    def gather(self, start: int, stop: int) -> tuple[NDArray[np.bool_], NDArray[np.floating[Any]]]:
        """Rows [start, stop): which have a vector, (n,) bool, and those vectors, (m, d)."""
        flags, vectors = [], []
        for number in range(start // self.unit_rows, -(-stop // self.unit_rows)):
            unit, first = self._cached(number), number * self.unit_rows
            low, high = max(start - first, 0), min(stop - first, len(unit.has_imagery))
            before = int(np.count_nonzero(unit.has_imagery[:low]))
            part = unit.has_imagery[low:high]
            flags.append(part)
            vectors.append(unit.vectors[before : before + int(np.count_nonzero(part))])
        return np.concatenate(flags), np.concatenate(vectors)


def stored_codes(path: Path, coverage: Coverage, zoom: int, expected: int) -> Codes:
    """The covered codes of a zoom, (expected,) uint64, memory-mapped from a file that is made where it is not whole."""
    codes = _load(path, expected)
    if codes is None:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, lambda temporary: _write(temporary, coverage, zoom, expected))
        codes = _load(path, expected)
    if codes is None:
        raise BuildError(f"{path} does not hold the {expected:,} codes just written: is the disk failing?")
    return codes


def _load(path: Path, expected: int) -> NDArray[np.uint64] | None:
    try:
        codes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return codes if codes.dtype == np.uint64 and codes.shape == (expected,) else None


def _write(path: Path, coverage: Coverage, zoom: int, expected: int) -> None:
    """An .npy file of known length, written as the codes stream by."""
    with open(path, "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, {"descr": "<u8", "fortran_order": False, "shape": (expected,)})
        for codes in coverage.chunks(zoom):
            stream.write(codes.astype("<u8").tobytes())
