"""What the service promises under attack, checked against what was seen: one phase after another of one run.

A time counts against the first quiet phase of the same run, by the same client in the same process, sending the same
picture. Where other processes took the processors, times are void, which is said; statuses and memory count always.
"""

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.support.observer import Seen
from benchmarks.support.validity import figure

__all__ = ["LEAST_VISITS", "MEMORY_BYTES", "Phase", "broken_promises", "row", "table"]

MEMORY_BYTES = 1_500_000_000
MOST_HEALTHZ_MS = 1_000.0
MOST_TIMES_QUIET = 3.0
LEAST_VISITS = 12
"""The median of fewer visits is not judged: a phase of a second or two shows its beginning only."""


@dataclass(frozen=True)
class Phase:
    """A part of the run.

    `outcomes`: of the attackers, if they are counted; `right`: those that are right, or None if all are. `one_key`:
    the attackers are one caller, so that the other one's batches too must be accepted. `memory`: the highest so far, in
    bytes. `busy`: why its times are void; empty if they are not.
    """

    name: str
    seen: Seen
    memory: int
    outcomes: Counter[str] = field(default_factory=Counter)
    right: frozenset[str] | None = None
    one_key: bool = False
    busy: Sequence[str] = ()

    @property
    def locate_faults(self) -> list[str]:
        """Why the median of the other caller's `/locate` is not judged; empty if it is."""
        visits = len(self.seen.took_ms("locate"))
        return [*self.busy, *([f"{visits} visits are too few, {LEAST_VISITS} are needed"] * (visits < LEAST_VISITS))]

    @property
    def locate_ms(self) -> float:
        """The median of the other caller's `/locate`, in ms; NaN without one."""
        return statistics.median(self.seen.took_ms("locate") or [float("nan")])

    @property
    def locate_p95_ms(self) -> float:
        """The 95th percentile of the same."""
        times = self.seen.took_ms("locate")
        return statistics.quantiles(times, n=20, method="inclusive")[-1] if len(times) > 1 else self.locate_ms

    @property
    def healthz_ms(self) -> float:
        """The longest `/healthz`, in ms; NaN without one."""
        return max(self.seen.took_ms("healthz"), default=float("nan"))


def broken_promises(quiet: Phase, phases: Sequence[Phase]) -> Iterator[str]:
    """Say what did not hold in which phase; `quiet` is what times are compared with."""
    for phase in (quiet, *phases):
        yield from _statuses(phase)
        if not phase.busy:
            yield from _times(quiet, phase)
    over = next((phase for phase in (quiet, *phases) if phase.memory > MEMORY_BYTES), None)
    if over is not None:  # the figure is the highest so far, so later phases have it too
        yield f"{over.name}: {over.memory:,} bytes of memory, and {MEMORY_BYTES:,} are allowed"


def _statuses(phase: Phase) -> Iterator[str]:
    kinds = ("locate", "healthz", "batch") if phase.one_key else ("locate", "healthz")
    for kind in kinds:
        wrong = {status: count for status, count in phase.seen.statuses(kind).items() if status != 200}
        if wrong:
            yield f"{phase.name}: the other caller's {kind} had statuses {wrong} (0: no answer, 1: not a document)"
    for kind in ("locate", "healthz"):
        if not phase.seen.took_ms(kind):
            yield f"{phase.name}: no {kind} was answered"
    if phase.right is not None and (wrong_outcomes := phase.outcomes.keys() - phase.right):
        counts = {name: phase.outcomes[name] for name in sorted(wrong_outcomes)}
        yield f"{phase.name}: outcomes {counts}; {', '.join(sorted(phase.right))} are right"


def _times(quiet: Phase, phase: Phase) -> Iterator[str]:
    if phase.healthz_ms > MOST_HEALTHZ_MS:
        yield f"{phase.name}: /healthz took {phase.healthz_ms:,.0f} ms, and {MOST_HEALTHZ_MS:,.0f} are allowed"
    if quiet.busy or phase.locate_faults:
        return
    allowed = MOST_TIMES_QUIET * quiet.locate_ms
    if phase.locate_ms > allowed:
        yield (
            f"{phase.name}: the other caller's /locate took {phase.locate_ms:.0f} ms (median of "
            f"{len(phase.seen.took_ms('locate'))}), and {allowed:.0f} are allowed, {MOST_TIMES_QUIET:g} times "
            "the median of the quiet phase"
        )


def table(quiet: Phase, phases: Sequence[Phase]) -> str:
    """Format as Markdown: times in ms, void ones in brackets behind the word."""
    head = (
        "| phase | the other caller's `/locate`: median / p95 | times quiet | longest `/healthz` "
        "| anonymous memory so far | outcomes of the attackers |\n|---|---:|---:|---:|---:|---|\n"
    )
    return head + "\n".join(row(phase, quiet) for phase in (quiet, *phases))


def row(phase: Phase, quiet: Phase | None = None) -> str:
    """One line of the table; without `quiet` no ratio."""
    ratio = "" if quiet is None else f"{phase.locate_ms / quiet.locate_ms:.1f}"
    if ratio and (faults := [*phase.locate_faults, *(quiet.busy if quiet else ())]):
        ratio = f"{figure(ratio, faults)} ({ratio})"
    outcomes = ", ".join(f"{name}: {count:,}" for name, count in sorted(phase.outcomes.items()))
    return (
        f"| {phase.name} | {phase.locate_ms:.0f} / {phase.locate_p95_ms:.0f} ms | {ratio} "
        f"| {phase.healthz_ms:.0f} ms | {phase.memory / 1e6:,.0f} MB | {outcomes} |"
    )
