"""Words and JSON for people: cost estimates, fetches, builds, and what is in an index.

Reads an index's manifest and calibration, no vectors. It does not know where the figures of a report come from.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from indexer.build.estimate import Plan
from indexer.build.request import BuildReport
from retrieval.index.calibration import Calibration
from retrieval.index.manifest import FORMAT_VERSION, Manifest

__all__ = [
    "describe_index",
    "fetch_in_words",
    "index_in_words",
    "plan_in_words",
    "repeated_in_words",
    "report_in_words",
]


def plan_in_words(plan: Plan) -> list[str]:
    """A cost estimate as a table and its sums."""
    lines = list(plan.notes)
    lines.append(f"{'zoom':>4}{'rows':>16}{'margin':>14}{'to fetch':>16}")
    lines += [f"{z.zoom:>4}{z.rows:>16,}{z.margin:>14,}{z.to_fetch:>16,}" for z in plan.zooms]
    if plan.overlay_to_fetch:
        lines.append(f"and {plan.overlay_to_fetch:,} tiles of the overlay to fetch")
    if plan.fetch_rate is not None and plan.fetch_hours is not None:
        size = f"{plan.tile_bytes.value:,.0f} bytes a tile ({plan.tile_bytes.origin})"
        rate = f"{plan.fetch_rate.value:g} a second ({plan.fetch_rate.origin})"
        lines.append(f"fetch   {_bytes(plan.fetch_bytes)} at {size}; {_hours(plan.fetch_hours)} at {rate}")
    if plan.embed_rate is not None and plan.embed_hours is not None:
        rate = f"{plan.embed_rate.value:,.4g} tiles a second ({plan.embed_rate.origin})"
        lines.append(f"embed   {_hours(plan.embed_hours)} at {rate}")
    lines.append(f"disk    {_bytes(plan.index_bytes)} for the index, {_bytes(plan.work_bytes)} while it is built")
    return lines


def fetch_in_words(summary: dict[str, Any]) -> str:
    """The summary of a fetch in one line."""
    parts = [f"{summary[k]:,} {k}" for k in ("kept", "known", "absent", "failed")]
    if by_status := summary.get("absent_by_status"):
        parts[2] += f" ({', '.join(f'{n:,} x HTTP {status}' for status, n in by_status.items())})"
    reasons = "".join(f"; {n:,} x {reason}" for reason, n in summary["reasons"].items())
    where = f" ({summary['cache']})" if "cache" in summary else ""
    return f"{summary['source']}: {', '.join(parts)}, {_bytes(summary['bytes'])}{reasons}{where}"


def repeated_in_words(repeated: Sequence[Mapping[str, Any]], absent: Collection[str]) -> list[str]:
    """Pictures that stand at many tiles, one line each; `absent`: those that were named as absent."""
    lines = []
    for r in repeated:
        where = (
            f"{r['count']:,} of {r['tiles']:,} tiles show the same picture, e.g. {r['example']} (SHA-256 {r['sha256']})"
        )
        named = "named with --absent-image: they count as tiles without imagery"
        way_out = f"if it says that there is no data, leave it out with --absent-image {r['sha256']}"
        lines.append(f"{where}: {named if r['sha256'] in absent else way_out}")
    return lines


def report_in_words(report: BuildReport) -> list[str]:
    """The report of a build, one line each."""
    rows = ", ".join(f"z{z} {n:,}" for z, n in report.rows.items())
    if report.already:
        return [f"{report.out} is there already, built with the same arguments ({rows} tiles)"]
    lines = [fetch_in_words(f) for f in report.fetches]
    problems = report.problems
    if problems.missing or problems.broken:
        first = problems.examples[0]
        where = f"{first.z}/{first.x}/{first.y} ({first.layer}: {first.reason})"
        lines.append(
            f"{problems.missing:,} tiles without imagery and {problems.broken:,} broken ones, e.g. {where}; "
            f"all of them are in {report.out / 'problems.jsonl'}"
        )
    lines += repeated_in_words(report.repeated, report.absent_images)
    if any(report.vectors.values()):
        lines += [
            f"zoom {z}: not one of its {n:,} tiles has a vector"
            for z, n in report.rows.items()
            if not report.vectors[z]
        ]
    inferred = sum(report.inferred.values())
    means = f", {inferred:,} of them means of their children" if inferred else ""
    lines.append(f"{report.out}: {rows} tiles, {sum(report.vectors.values()):,} vectors{means}")
    if not any(report.vectors.values()):
        lines.append(f"rows only, in {report.seconds:.0f} s: it needs a prior to answer; index {report.index_id[:12]}")
        return lines
    lines.append(f"{report.encoded:,} pictures encoded in {report.seconds:.0f} s; index {report.index_id[:12]}")
    return lines


def describe_index(directory: Path) -> dict[str, Any]:
    """The facts about an index as plain JSON values. Raises IndexFormatError kinds and CalibrationError."""
    manifest = Manifest.read(directory)
    manifest.check_files(directory)
    calibration = Calibration.read(directory)
    zooms = [
        {
            "zoom": z.zoom,
            "rows": z.rows,
            "vectors": z.vectors,
            "inferred": z.inferred,
            "shards": len(z.shards),
            "context": z.context,
            "encoder": z.encoder,
        }
        for z in manifest.zooms
    ]
    return {
        "id": manifest.id,
        "format_version": FORMAT_VERSION,
        "calibration_id": calibration.id,
        "calibrated_at_k": calibration.k,
        "prior": manifest.prior,
        "priors": [_prior(directory, name, about) for name, about in manifest.priors.items()],
        "dim": manifest.dim,
        "codec": manifest.codec,
        "zooms": zooms,
        "photo_encoder": dict(manifest.photo_encoder),
        "source": dict(manifest.source),
        "attribution": manifest.attribution,
        "coverage": dict(manifest.coverage),
        "files": len(manifest.files),
        "bytes": sum(f.bytes for f in manifest.files),
    }


def index_in_words(facts: dict[str, Any]) -> list[str]:
    """The facts of `describe_index`, one line each."""
    source = facts["source"]["name"] + (f" under {facts['source']['overlay']}" if "overlay" in facts["source"] else "")
    calibration = facts["calibration_id"]
    fitted = f"{calibration[:12]}, fitted at k = {facts['calibrated_at_k']}" if calibration else "none"
    lines = [
        f"index        {facts['id']}",
        f"source       {source}",
        f"attribution  {facts['attribution'] or '-'}",
        f"photos by    {facts['photo_encoder'].get('name')} ({facts['photo_encoder']['fingerprint'][:12]})",
        f"calibration  {fitted}",
        f"priors       {'; '.join(_prior_in_words(p, facts['prior']) for p in facts['priors']) or 'none'}",
        f"vectors      {facts['dim']} x {facts['codec']}" if facts["dim"] else "vectors      none: a prior answers",
        f"size         {facts['bytes']:,} bytes in {facts['files']} files",
        "zoom         rows      vectors     inferred  shards  margin",
    ]
    for z in facts["zooms"]:
        counts = f"{z['rows']:>13,}{z['vectors']:>13,}{z['inferred']:>13,}{z['shards']:>8}{z['context']:>8g}"
        lines.append(f"{z['zoom']:>4}{counts}")
    return lines


def _prior(directory: Path, name: str, about: Mapping[str, Any]) -> dict[str, Any]:
    fitted = Calibration.read(directory, name)
    return {"name": name, **about, "calibration_id": fitted.id, "calibrated_at_k": fitted.k}


def _prior_in_words(prior: dict[str, Any], default: str | None) -> str:
    use = "default" if prior["name"] == default else "on request"
    fitted = f"fitted at k = {prior['calibrated_at_k']}" if prior["calibration_id"] else "not fitted"
    return f"{prior['name']} ({use}, {fitted})"


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
