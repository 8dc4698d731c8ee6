"""An evaluation as JSON, and as a folder of results: the page, the JSON, a CSV of answers and plots for each row."""

import csv
import itertools
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from indexer.errors import EvaluationError
from indexer.evaluation import page, plots
from indexer.evaluation.figures import WRONG_KM, Answerable, Family, Risk, Row, milliseconds, plain
from indexer.evaluation.load import Subject
from indexer.evaluation.run import Evaluation, Measured
from indexer.photos.photo_set import PhotoSet, write_rejections
from indexer.runs import check_results_folder, write_results_folder
from retrieval.files import write_json

__all__ = ["check_out", "to_json", "write_out"]

FORMAT, VERSION = "tilebeam-evaluation", 1

_JSON = "evaluation.json"
_LONGEST_NAME = 80


def check_out(out: Path) -> None:
    """Raise EvaluationError, before any work, unless plots can be drawn and the folder is absent, empty or an earlier
    evaluation.
    """
    plots.check_library()
    check_results_folder(out, _JSON, EvaluationError)


def write_out(out: Path, evaluation: Evaluation) -> None:
    """Write the folder, whole or not at all, and replace an earlier evaluation there."""
    write_results_folder(out, lambda fresh: _fill(fresh, evaluation), EvaluationError)


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """All figures as value, low and high; null where a figure does not exist."""
    photos, request = evaluation.loaded.photos, evaluation.request
    return {
        "format": FORMAT,
        "version": VERSION,
        "photos": {"n": len(photos), "digest": photos.digest(), "rejected": photos.summary()},
        "split": request.split or ("test" if photos.split is not None else None),
        "replicates": request.measures.replicates,
        "seed": request.measures.seed,
        "wrong_km": WRONG_KM,
        "platform": f"{platform.machine()} {platform.system()}",
        "indexes": [_index_json(subject) for subject in evaluation.loaded.subjects],
        "retrieval": plain(evaluation.ranked),
        "rows": [
            {"row": number, "name": evaluation.name_of(measured)} | _row_json(measured)
            for number, measured in enumerate(evaluation.rows, 1)
        ],
    }


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


def _row_json(measured: Measured) -> dict[str, Any]:
    row, figures = measured.row, measured.figures
    entries: dict[str, Any] = {
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
        **_risk_json(measured.risk),
    }
    if measured.agreement is not None:
        agreement = measured.agreement
        entries["exhaustive"] = {"row": agreement.exhaustive + 1, "same_tile": plain(agreement.same_tile)}
    if measured.answerable is not None:
        entries["elsewhere"] = _answerable_json(measured.answerable)
    return entries


def _risk_json(risk: Risk) -> dict[str, Any]:
    return {"aurc": plain(risk.aurc), "wrong_at_coverage": plain(risk.at)}


def _answerable_json(answerable: Answerable) -> dict[str, Any]:
    def by_name(families: Mapping[str, Family]) -> dict[str, Any]:
        return {n: plain({field.name: getattr(f, field.name) for field in fields(f)}) for n, f in families.items()}

    return {
        "groups": by_name(answerable.groups),
        "families": by_name(answerable.families),
        **_risk_json(answerable.risk),
    }


def _fill(folder: Path, evaluation: Evaluation) -> None:
    photos = evaluation.loaded.photos
    write_json(folder / _JSON, to_json(evaluation))
    (folder / "evaluation.md").write_text(page.markdown(evaluation) + "\n", encoding="utf-8")
    write_rejections(folder / "rejected.csv", photos.rejected)
    names = {evaluation.name_of(m): m for m in evaluation.rows}
    # The exhaustive search has a CSV but no plots: they look like a wide beam's.
    _plot_all(folder, {name: m for name, m in names.items() if not m.row.exhaustive})
    subjects = {subject.label: subject for subject in evaluation.loaded.subjects}
    files = file_names(names)
    for name, measured in names.items():
        zooms = subjects[measured.row.index].locator.index.zooms
        _write_answers(folder / f"answers-{files[name]}.csv", photos, measured.row, zooms)
        if not measured.row.exhaustive:
            _plot(folder, files[name], name, measured, photos)


def file_names(names: Iterable[str]) -> dict[str, str]:
    """A distinct part of a file name for each row's name: its letters, digits and dots, with hyphens between.

    `k=64 posterior + geocells` becomes `k64-posterior-geocells`.
    """
    files: dict[str, str] = {}
    for name in names:
        stem = "-".join(re.findall(r"[a-z0-9.]+", name.lower().replace("=", "")))[-_LONGEST_NAME:].strip("-.") or "row"
        numbered = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        files[name] = next(file for file in numbered if file not in files.values())
    return files


def _plot_all(folder: Path, names: Mapping[str, Measured]) -> None:
    """Plots with one curve for each row."""
    plots.error_curve(folder / "errors.png", {name: m.row.outcomes.km for name, m in names.items()})
    title = f"What abstaining buys (wrong: over {WRONG_KM:g} km)"
    photos = {name: (m.risk.score, m.risk.wrong) for name, m in names.items()}
    plots.risk_coverage_plot(folder / "risk-coverage.png", photos, title)
    risks = {name: m.answerable.risk for name, m in names.items() if m.answerable is not None}
    if risks:
        title += ", with pictures that have no answer"
        curves = {name: (risk.score, risk.wrong) for name, risk in risks.items()}
        plots.risk_coverage_plot(folder / "risk-coverage-elsewhere.png", curves, title)


def _plot(folder: Path, file: str, name: str, measured: Measured, photos: PhotoSet) -> None:
    """Plots of one row."""
    outcomes = measured.row.outcomes
    curves = {f"zoom {z.zoom}": (z.confidence[z.reached], z.right[z.reached]) for z in outcomes.zooms}
    title = f"Confidence and how often it is right: {name}"
    plots.reliability_diagram(folder / f"reliability-{file}.png", curves, title)
    plots.error_map(folder / f"map-{file}.png", photos.lng, photos.lat, outcomes.km, f"Errors by place: {name}")


def _write_answers(path: Path, photos: PhotoSet, row: Row, zooms: Sequence[int]) -> None:
    """One line per photo; pictures without an answer are not listed."""
    per_zoom = [f"{name}_{zoom}" for zoom in zooms for name in ("confidence", "right", "in_beam")]
    head = ["name", "latitude", "longitude", "answer_latitude", "answer_longitude", "km", "elsewhere"]
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*head, "radius_50_km", "radius_90_km", "search_ms", *per_zoom])
        writer.writerows(_answer_lines(photos, row))


def _answer_lines(photos: PhotoSet, row: Row) -> Iterator[list[str]]:
    o = row.outcomes
    for i, name in enumerate(photos.names):
        degrees = [f"{v:.6f}" for v in (photos.lat[i], photos.lng[i], o.lat[i], o.lng[i])]
        radii = ["" if np.isnan(r[i]) else f"{r[i]:.3f}" for r in (o.radius_50_km, o.radius_90_km)]
        line = [name, *degrees, f"{o.km[i]:.3f}", f"{o.elsewhere[i]:.6f}", *radii, f"{1000 * o.seconds[i]:.3f}"]
        for zoom in o.zooms:
            confidence = f"{zoom.confidence[i]:.6f}" if zoom.reached[i] else ""
            line += [confidence, str(int(zoom.right[i])), str(int(zoom.in_beam[i]))]
        yield line
