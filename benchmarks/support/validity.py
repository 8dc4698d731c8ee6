"""Whether a run's figures mean something: the load of others on the machine, and the spread of the repetitions.

    with Watch() as watch:
        ratios = [...]                      # of neighbours, one a round
    print(figure(f"{median(ratios):.0%}", watch.faults(ratios)))

A ratio that was measured while other processes took the processors, or once only, or that scatters, is not printed: the
table has `void` in its place, and `report` says why. The raw series stay in the JSON.
"""

import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

__all__ = ["Watch", "figure", "report", "spread"]

PRESSURE = Path("/proc/pressure/cpu")
MOST_PRESSURE = 0.2
"""Share of the time in which a process of others waited for a processor while this one slept."""
MOST_SPREAD = 0.5
"""Interquartile range of the repetitions, as a share of what they are compared with."""
LEAST_REPETITIONS = 3
_SAMPLE_S = 0.5


class Watch:
    """Samples the processors' pressure before and after a run, while this process sleeps: it is that of others."""

    def __init__(self, pressure: Callable[[], float | None] | None = None) -> None:
        self._pressure = pressure or _pressure_of_others
        self._samples: list[float] = []

    def __enter__(self) -> Self:
        self._sample()
        return self

    def __exit__(self, *exc: object) -> None:
        self._sample()

    def _sample(self) -> None:
        share = self._pressure()
        if share is not None:
            self._samples.append(share)

    def faults(self, series: Sequence[float], base: float | None = None) -> list[str]:
        """Why a figure of these repetitions means nothing; empty if it does.

        `base`: what a spread is compared with, by default the median; for differences, the time that they are added to.
        """
        faults = []
        if self._samples and (worst := max(self._samples)) > MOST_PRESSURE:
            faults.append(f"other processes waited for a processor in {worst:.0%} of the time")
        if len(series) < LEAST_REPETITIONS:
            faults.append(f"{len(series)} repetitions are too few, {LEAST_REPETITIONS} are needed")
        elif (width := spread(series, base)) > MOST_SPREAD:
            faults.append(f"the repetitions scatter by {width:.0%}")
        return faults


def spread(series: Sequence[float], base: float | None = None) -> float:
    """The interquartile range as a share of `base`, by default of the median."""
    low, middle, high = statistics.quantiles(series, n=4, method="inclusive")
    reference = abs(middle if base is None else base)
    return (high - low) / reference if reference else float("inf")


def figure(text: str, faults: Iterable[str]) -> str:
    """A figure for a table: its text, or `void`."""
    return "void" if list(faults) else text


def report(faults: dict[str, list[str]]) -> bool:
    """Say on standard error which figures are void and why; returns whether any is."""
    void = {name: reasons for name, reasons in faults.items() if reasons}
    for name, reasons in void.items():
        print(f"void: {name}: {'; '.join(reasons)}. Repeat it on a quiet machine, not --quick.", file=sys.stderr)
    return bool(void)


def _pressure_of_others() -> float | None:
    """The share of the next half second in which a process waited for a processor; None where Linux does not say."""
    before, started = _stalled_us(), time.monotonic()
    time.sleep(_SAMPLE_S)
    after, took_s = _stalled_us(), time.monotonic() - started
    return None if before is None or after is None else (after - before) / 1e6 / took_s


def _stalled_us() -> int | None:
    try:
        match = re.search(r"^some .*total=(\d+)", PRESSURE.read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if match is None else int(match[1])
