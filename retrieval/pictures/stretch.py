"""Samples of any depth to 8 bits: from their nominal range where they use it, else from the range that they have.

Sensors deliver 10 to 14 bits in 16-bit words, reflectances in thousands, and floats in any unit: scaled from the
nominal range they would be black. A picture is stretched as a whole, all its bands alike, so that colours keep their
balance, and the range is reported.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["PERCENTILES", "Kind", "Range", "Scale"]

Kind = Literal["u", "i", "f"]
"""Unsigned, signed, floating."""
PERCENTILES = (0.5, 99.5)
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

    def scale(self) -> Scale:
        """How to show these samples; call it once all have come, and there are any."""
        top = float((1 << self._bits) - 1)
        if self._kind == "u" and (self._bits <= 8 or self._high > top / 2):
            return Scale(0.0, top, None)
        low, high = self._percentiles()
        if low == high:
            low, high = self._low, self._high
        name = {"u": f"{self._bits}-bit", "i": f"{self._bits}-bit signed", "f": f"{self._bits}-bit float"}[self._kind]
        return Scale(low, high, f"{name} samples stretched from {low:.6g}..{high:.6g}")

    def _percentiles(self) -> tuple[float, float]:
        if self._counts is None:
            with np.errstate(all="ignore"):  # of floats near the end of their range
                low, high = np.percentile(np.concatenate(self._kept), PERCENTILES)
            return float(low), float(high)
        below = np.cumsum(self._counts)
        low, high = np.searchsorted(below, np.array(PERCENTILES) / 100 * below[-1], side="right")
        return float(low), float(min(high, self._high))
