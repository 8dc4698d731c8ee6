"""Samples of any depth to 8 bits: from their nominal range where they use it, else from the range that they have.

Sensors deliver 10 to 14 bits in 16-bit words, reflectances in thousands, and floats in any unit: scaled from the
nominal range they would be black. A picture is stretched as a whole, all its bands alike, so that colours keep their
balance, and the range is reported.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PERCENTILES", "TOP_BIT_SHARE", "Kind", "Range", "Scale", "in_words"]

Kind = Literal["u", "i", "f"]
"""Unsigned, signed, floating."""
PERCENTILES = (0.5, 99.5)
TOP_BIT_SHARE = 0.001
"""Fewer samples than this with the top bit are hot pixels."""
_OFFSET_PART = 16
"""Where all samples lie right above the middle of their nominal range, in this part of it, the middle is an offset."""
_FILL_SHARE = 0.005
_FILL_GAP = 2.0
"""Of the range of all other samples."""
_MOST_SAMPLES = 2_000_000
"""Of 32-bit samples so many are looked at, evenly spread; shorter ones are all counted."""


class Scale(NamedTuple):
    """`low` becomes 0 and `high` 255; what lies beyond is clipped. `note`: what to tell, None for a nominal range."""

    low: float
    high: float
    note: str | None

    def to_bytes(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Samples of any shape to uint8; a flat picture becomes black. Values have to be finite."""
        if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
            # A table of every possible value, so that no float copy of a large picture is made.
            table = self._scaled(np.arange(1 << 8 * values.dtype.itemsize))
            return np.asarray(table[values])
        return self._scaled(values)

    def _scaled(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        span = self.high - self.low
        if not (span > 0 and np.isfinite(span)):
            return np.zeros(values.shape, dtype=np.uint8)
        factor = 255.0 / span
        scaled = np.clip(values.astype(np.float64), self.low, self.high)
        scaled -= self.low
        scaled *= factor
        return np.asarray(np.rint(scaled, out=scaled).astype(np.uint8))


class Range:
    """Which values a picture's samples have; fed piece by piece. `total`: how many samples will come, at most."""

    def __init__(self, bits: int, kind: Kind, total: int) -> None:
        self._bits, self._kind = bits, kind
        self._counts = np.zeros(1 << 16, dtype=np.int64) if kind == "u" and bits <= 16 else None
        self._step = 1 if self._counts is not None else -(-total // _MOST_SAMPLES)
        self._kept: list[NDArray[np.float64]] = []
        self._low, self._high = np.inf, -np.inf

    def add(self, values: NDArray[Any]) -> None:
        """Count valid samples, (n,)."""
        if not len(values):
            return
        self._low, self._high = min(self._low, float(values.min())), max(self._high, float(values.max()))
        if self._counts is not None:
            self._counts += np.bincount(values, minlength=1 << 16)
        else:
            self._kept.append(values[:: self._step].astype(np.float64))

    @property
    def is_empty(self) -> bool:
        """Whether no valid sample came."""
        return self._high < self._low

    def fills(self) -> tuple[float, ...]:
        """Values at the ends that many samples have and that lie far from all others: nodata that no tag names."""
        if self._kind == "u" and self._bits <= 8:
            return ()
        values, counts = self._distinct()
        for low, high in ((1, 1), (1, 0), (0, 1)):  # both ends, or one of them
            if _stand_apart(values, counts, low, high):
                return tuple(float(end) for end in (*values[:low], *values[len(values) - high :]))
        return ()

    def scale(self) -> Scale:
        """How to show these samples; call it once all have come, and there are any."""
        top = float((1 << self._bits) - 1)
        if self._kind == "u" and self._bits <= 8:
            return Scale(0.0, top, None)
        values, counts = self._distinct()
        kept = ~np.isin(values, self.fills())
        values, counts = values[kept], counts[kept]
        low, high = _percentiles(values, counts) if self._counts is not None else self._interpolated(values)
        if self._kind == "u" and _uses_top_bit(values, counts, top):
            return Scale(0.0, top, None)
        if low == high:
            low, high = float(values[0]), float(values[-1])
        name = {"u": f"{self._bits}-bit", "i": f"{self._bits}-bit signed", "f": f"{self._bits}-bit float"}[self._kind]
        return Scale(low, high, f"{name} samples stretched from {low:.6g}..{high:.6g}")

    def _distinct(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The values, ascending, and how many samples have each; of long samples those that are looked at."""
        if self._counts is not None:
            used = np.flatnonzero(self._counts)
            return used.astype(np.float64), self._counts[used]
        values, counts = np.unique(np.concatenate([*self._kept, [self._low, self._high]]), return_counts=True)
        return values, counts.astype(np.int64)

    def _interpolated(self, values: NDArray[np.float64]) -> tuple[float, float]:
        kept = np.concatenate(self._kept)
        kept = kept[(kept >= values[0]) & (kept <= values[-1])]
        with np.errstate(all="ignore"):  # of floats near the end of their range
            low, high = np.percentile(kept if len(kept) else values, PERCENTILES)
        return float(low), float(high)


def _percentiles(values: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[float, float]:
    """PERCENTILES of samples of these ascending values."""
    below = np.cumsum(counts)
    low, high = np.searchsorted(below, np.array(PERCENTILES) / 100 * below[-1], side="right")
    return float(values[low]), float(values[min(high, len(values) - 1)])


def _stand_apart(values: NDArray[np.float64], counts: NDArray[np.int64], low: int, high: int) -> bool:
    """Whether the first `low` and the last `high` values are no measurements.

    So it is where many samples have each of them, and the others lie close to each other and far away.
    """
    inner = slice(low, len(values) - high)
    if len(values[inner]) < 2 or (np.delete(counts, np.s_[inner]) < _FILL_SHARE * counts.sum()).any():
        return False
    lowest, highest = _percentiles(values[inner], counts[inner])
    gaps = np.append(np.diff(values)[:low], np.diff(values)[len(values) - 1 - high :])
    return bool((gaps > _FILL_GAP * (highest - lowest)).all() and highest > lowest)


def _uses_top_bit(values: NDArray[np.float64], counts: NDArray[np.int64], top: float) -> bool:
    """Whether samples use their nominal range. A few hot pixels do not; nor does an offset with little above it."""
    share = counts[values > top / 2].sum() / counts.sum()
    is_offset = share > 1 - TOP_BIT_SHARE and _percentiles(values, counts)[1] < top / 2 + top / _OFFSET_PART
    return bool(share >= TOP_BIT_SHARE and not is_offset)


def in_words(values: tuple[float, ...]) -> str:
    """`-9999 and 65535`."""
    return " and ".join(f"{value:g}" for value in values)
