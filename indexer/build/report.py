"""Figures of plans, fetches and builds in words, for people. Knows units, not where figures come from."""

from typing import Any

from indexer.build.estimate import Plan
from indexer.build.problems import PROBLEMS_NAME
from indexer.build.request import BuildReport

__all__ = ["fetch_in_words", "plan_in_words", "report_in_words"]


def plan_in_words(made: Plan) -> list[str]:
    """A plan as a table and what it adds up to."""
    lines = list(made.notes)
    lines.append(f"{'zoom':>4}{'rows':>16}{'margin':>14}{'to fetch':>16}")
    lines += [f"{z.zoom:>4}{z.rows:>16,}{z.margin:>14,}{z.to_fetch:>16,}" for z in made.zooms]
    if made.overlay_to_fetch:
        lines.append(f"and {made.overlay_to_fetch:,} tiles of the overlay to fetch")
    if made.fetch_rate is not None and made.fetch_hours is not None:
        size = f"{made.tile_bytes.value:,.0f} bytes a tile ({made.tile_bytes.origin})"
        rate = f"{made.fetch_rate.value:g} a second ({made.fetch_rate.origin})"
        lines.append(f"fetch   {_bytes(made.fetch_bytes)} at {size}; {_hours(made.fetch_hours)} at {rate}")
    if made.embed_rate is not None and made.embed_hours is not None:
        rate = f"{made.embed_rate.value:,.4g} tiles a second ({made.embed_rate.origin})"
        lines.append(f"embed   {_hours(made.embed_hours)} at {rate}")
    lines.append(f"disk    {_bytes(made.index_bytes)} for the index, {_bytes(made.work_bytes)} while it is made")
    return lines


def fetch_in_words(summary: dict[str, Any]) -> str:
    """A fetch's summary, in a line."""
    parts = [f"{summary[k]:,} {k}" for k in ("kept", "known", "absent", "failed")]
    reasons = "".join(f"; {n:,} x {reason}" for reason, n in summary["reasons"].items())
    where = f" ({summary['cache']})" if "cache" in summary else ""
    return f"{summary['source']}: {', '.join(parts)}, {_bytes(summary['bytes'])}{reasons}{where}"


def report_in_words(report: BuildReport) -> list[str]:
    """What came of a build."""
    rows = ", ".join(f"z{z} {n:,}" for z, n in report.rows.items())
    if report.already:
        return [f"{report.out} is there already, made with the same arguments ({rows} tiles)"]
    lines = [fetch_in_words(f) for f in report.fetches]
    problems = report.problems
    if problems.missing or problems.broken:
        first = problems.examples[0]
        where = f"{first.z}/{first.x}/{first.y} ({first.layer}: {first.reason})"
        lines.append(
            f"{problems.missing:,} tiles without imagery and {problems.broken:,} broken ones, e.g. {where}; "
            f"all of them in {report.out / PROBLEMS_NAME}"
        )
    inferred = sum(report.inferred.values())
    means = f", {inferred:,} of them means of their children" if inferred else ""
    lines.append(f"{report.out}: {rows} tiles, {sum(report.vectors.values()):,} vectors{means}")
    if not any(report.vectors.values()):
        lines.append(f"rows only, in {report.seconds:.0f} s: ask it with a prior; index {report.index_id[:12]}")
        return lines
    lines.append(f"{report.encoded:,} pictures encoded in {report.seconds:.0f} s; index {report.index_id[:12]}")
    return lines


def _bytes(n: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if n < 1000 or unit == "TB":
            break
        n /= 1000
    return f"{n:,.0f} {unit}" if unit == "bytes" else f"{n:,.1f} {unit}"


def _hours(hours: float) -> str:
    if hours < 1:
        return f"{hours * 60:.1f} minutes"
    return f"{hours:,.1f} hours" if hours < 48 else f"{hours / 24:,.1f} days"
