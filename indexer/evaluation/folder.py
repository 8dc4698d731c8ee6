"""An evaluation's folder: page, JSON, a table of answers and pictures for each row; there whole or not at all."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from indexer import out_folder
from indexer.errors import EvaluationError
from indexer.evaluation import plots
from indexer.evaluation.answerable import WRONG_KM, abstaining
from indexer.evaluation.figures import Row
from indexer.evaluation.loading import Subject
from indexer.evaluation.measuring import Measured
from indexer.evaluation.report import Evaluation
from indexer.photos.photo_set import PhotoSet, write_rejections
from retrieval.files import write_json

__all__ = ["check_out", "write_out"]

_JSON = "evaluation.json"


def check_out(out: Path) -> None:
    """Before any work: the place is free, empty, or an earlier evaluation. Raises EvaluationError."""
    out_folder.check_out(out, _JSON, EvaluationError)


def write_out(out: Path, evaluation: Evaluation) -> None:
    """Write the folder beside its place and put it there, instead of an earlier evaluation."""
    out_folder.write_out(out, lambda fresh: _fill(fresh, evaluation), EvaluationError)


def _fill(folder: Path, evaluation: Evaluation) -> None:
    photos = evaluation.loaded.photos
    write_json(folder / _JSON, evaluation.to_json())
    (folder / "evaluation.md").write_text(evaluation.markdown() + "\n", encoding="utf-8")
    write_rejections(folder / "rejected.csv", photos.rejected)
    names = {evaluation.name_of(m): m for m in evaluation.rows}
    _draw_all(folder, {name: m for name, m in names.items() if not m.row.exhaustive})
    subjects = {subject.label: subject for subject in evaluation.loaded.subjects}
    for number, (name, measured) in enumerate(names.items(), 1):
        _write_answers(folder / f"answers-{number:02d}.csv", photos, measured.row, subjects[measured.row.index])
        if not measured.row.exhaustive:  # the exhaustive search's pictures look like a wide beam's
            _draw(folder, number, name, measured, photos)


def _draw_all(folder: Path, names: Mapping[str, Measured]) -> None:
    """One curve for each beam."""
    plots.error_curve(folder / "errors.png", {name: m.row.outcomes.km for name, m in names.items()})
    title = f"What abstaining buys (wrong: over {WRONG_KM:g} km)"
    photos = {name: abstaining(m.row.outcomes, None) for name, m in names.items()}
    plots.risk_coverage_plot(folder / "risk-coverage.png", photos, title)
    told = {name: m.answerable for name, m in names.items()}
    both = {name: (t.score, t.wrong) for name, t in told.items() if t is not None}
    if both:
        title += ", with pictures that have no answer"
        plots.risk_coverage_plot(folder / "risk-coverage-elsewhere.png", both, title)


def _draw(folder: Path, number: int, name: str, measured: Measured, photos: PhotoSet) -> None:
    outcomes = measured.row.outcomes
    curves = {f"zoom {z.zoom}": (z.confidence[z.reached], z.right[z.reached]) for z in outcomes.zooms}
    title = f"Confidence against how often it is right: {name}"
    plots.reliability_diagram(folder / f"reliability-{number:02d}.png", curves, title)
    plots.error_map(folder / f"map-{number:02d}.png", photos.lng, photos.lat, outcomes.km, f"Errors by place: {name}")


def _write_answers(path: Path, photos: PhotoSet, row: Row, subject: Subject) -> None:
    """One line a photo; of a picture in `subject.outside` there is none."""
    zooms = subject.locator.index.zooms
    per_zoom = [f"{what}_{zoom}" for zoom in zooms for what in ("confidence", "right", "in_beam")]
    head = ["name", "latitude", "longitude", "answer_latitude", "answer_longitude", "km", "elsewhere"]
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*head, "radius_50_km", "radius_90_km", "search_ms", *per_zoom])
        writer.writerows(_lines(photos, row))


def _lines(photos: PhotoSet, row: Row) -> Iterator[list[str]]:
    o = row.outcomes
    for i, name in enumerate(photos.names):
        places = [f"{v:.6f}" for v in (photos.lat[i], photos.lng[i], o.lat[i], o.lng[i])]
        circles = ["" if np.isnan(r[i]) else f"{r[i]:.3f}" for r in (o.radius_50_km, o.radius_90_km)]
        line = [name, *places, f"{o.km[i]:.3f}", f"{o.elsewhere[i]:.6f}", *circles, f"{1000 * o.seconds[i]:.3f}"]
        for zoom in o.zooms:
            confidence = f"{zoom.confidence[i]:.6f}" if zoom.reached[i] else ""
            line += [confidence, str(int(zoom.right[i])), str(int(zoom.kept[i]))]
        yield line
