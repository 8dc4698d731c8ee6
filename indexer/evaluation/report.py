"""An evaluation from request to result, and what it says as Markdown and JSON."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from indexer.evaluation.answerable import WRONG_KM, Answerable, Family
from indexer.evaluation.figures import Figures, milliseconds, plain
from indexer.evaluation.loading import Loaded, Subject, load
from indexer.evaluation.measuring import Measured, measure_all
from indexer.evaluation.request import EvaluationRequest
from indexer.evaluation.tables import markdown
from indexer.progress import OnProgress

__all__ = ["Evaluation", "evaluate"]

FORMAT, VERSION = "tilebeam-evaluation", 1


@dataclass(frozen=True)
class Evaluation:
    """Everything that was measured. `ranked`: index and zoom to where true tiles rank among all of the zoom."""

    request: EvaluationRequest
    loaded: Loaded
    rows: list[Measured]
    ranked: Mapping[str, Mapping[int, Figures]]

    def name_of(self, measured: Measured) -> str:
        """A row's name in pictures: with its index only where there are several."""
        row = measured.row
        return row.name if len(self.loaded.subjects) == 1 else f"{row.index} {row.name}"

    def markdown(self) -> str:
        """A page for people."""
        photos = self.loaded.photos
        refused = "; ".join(f"{count:,} {reason}" for reason, count in photos.summary().items())
        split = self.request.split or ("test" if photos.split is not None else "all")
        lines = [f"# {len(photos):,} photos of {self.request.photos.name} (split: {split})", ""]
        if refused:
            lines += [f"Not used: {refused}.", ""]
        lines += [_index_line(subject) for subject in self.loaded.subjects]
        return "\n".join([*lines, "", markdown(self.rows, self.ranked)])

    def to_json(self) -> dict[str, Any]:
        """All of it, figures as value, low and high; null is a figure that there is not."""
        photos, measures = self.loaded.photos, self.request.measures
        return {
            "format": FORMAT,
            "version": VERSION,
            "photos": {"n": len(photos), "digest": photos.digest(), "rejected": photos.summary()},
            "split": self.request.split or ("test" if photos.split is not None else None),
            "replicates": measures.replicates,
            "seed": measures.seed,
            "wrong_km": WRONG_KM,
            "platform": f"{platform.machine()} {platform.system()}",
            "indexes": [_index_json(subject) for subject in self.loaded.subjects],
            "retrieval": plain(self.ranked),
            "rows": [_row_json(number, measured) for number, measured in enumerate(self.rows, 1)],
        }


def evaluate(request: EvaluationRequest, on_progress: OnProgress) -> Evaluation:
    """Load, search, measure. Raises PhotoSetError, EvaluationError, QueryError, and what opening an index raises."""
    loaded = load(request, on_progress)
    rows, ranked = measure_all(loaded.subjects, request.measures, on_progress)
    return Evaluation(request, loaded, rows, ranked)


def _index_line(subject: Subject) -> str:
    locator = subject.locator
    rows = ", ".join(f"zoom {level.zoom}: {len(level.codes):,}" for level in locator.index.levels)
    calibration = f"calibrated at k = {locator.calibration.k}" if locator.calibration.id else "not calibrated"
    line = f"- **{subject.label}**: tiles at {rows}; photos by {locator.encoder.name}; {calibration}."
    for name, asked in locator.priors.by_name.items():
        fitted = f"calibrated with it at k = {asked.calibration.k}" if asked.fitted else "nothing fitted with it"
        line += f" Prior {name}: {fitted}."
    if subject.encode_seconds is not None and len(subject.encode_seconds):
        ms = milliseconds(subject.encode_seconds)
        timed = f"{ms['median']:.1f} ms median, {ms['p95']:.1f} ms p95 of {len(subject.encode_seconds)} photos"
        line += f" From file to embedding, one photo at a time: {timed}."
    return line


def _index_json(subject: Subject) -> dict[str, Any]:
    locator = subject.locator
    return {
        "label": subject.label,
        "id": locator.index.manifest.id,
        "calibration_id": locator.calibration.id,
        "calibrated_k": locator.calibration.k,
        "photo_encoder": locator.encoder.fingerprint,
        "priors": locator.priors.describe(),
        "rows": {str(level.zoom): len(level.codes) for level in locator.index.levels},
        "encode_ms": None if subject.encode_seconds is None else plain(milliseconds(subject.encode_seconds)),
    }


def _row_json(number: int, measured: Measured) -> dict[str, Any]:
    row, figures = measured.row, measured.figures
    told: dict[str, Any] = {
        "row": number,
        "index": row.index,
        "k": row.k,
        "scoring": None if row.alone else row.scoring,
        "prior": row.prior,
        "n": len(row.outcomes),
        "calibrated": bool(row.outcomes.calibrated.all()),
        "errors": plain(figures.errors),
        "zooms": plain(figures.zooms),
        "circles": plain(figures.circles),
        "differences_from_row_1": plain(figures.differences),
        "search_ms": plain(milliseconds(row.outcomes.seconds)),
        "peak_rss_mb": row.peak_mb,
        "aurc": plain(measured.aurc),
        "wrong_at_coverage": plain(measured.risk_at),
    }
    if measured.agreement is not None:
        agreed = measured.agreement
        told["exhaustive"] = {"row": agreed.exhaustive + 1, "same_tile": plain(agreed.same_tile)}
    if measured.answerable is not None:
        told["elsewhere"] = _answerable_json(measured.answerable)
    return told


def _answerable_json(told: Answerable) -> dict[str, Any]:
    groups, families = ({n: _family_json(f) for n, f in d.items()} for d in (told.groups, told.families))
    curve = {"aurc": plain(told.aurc), "wrong_at_coverage": plain(told.risk_at)}
    return {"groups": groups, "families": families} | curve


def _family_json(family: Family) -> Any:
    return plain({field.name: getattr(family, field.name) for field in fields(family)})
