"""The geoembeddings paper's grid of (tau, alpha): train a model for each pair and compare their errors in one table.

The error table serves the regression baseline and benchmarks too. See docs/method.md, section "Geocells".
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation.bootstrap import Figure, Resamples, Statistic, difference, mean, median
from indexer.evaluation.figures import plain
from indexer.evaluation.metrics import WITHIN_KM
from indexer.evaluation.tables import figure_text, markdown_table, percent
from indexer.geocells.model.train import MODEL_NAME, train_geocells
from indexer.geocells.settings import GeocellRequest
from indexer.photos.embed import embed_photos
from indexer.photos.photo_set import PhotoSet
from indexer.photos.read import read_photos
from indexer.progress import OnProgress, Progress, silent
from retrieval.files import write_atomically, write_json
from retrieval.priors.geocells import GeocellModel
from retrieval.sphere import great_circle_km

__all__ = ["ErrorRow", "error_figures", "error_table", "errors_as_json", "errors_km", "train_grid"]

Floats = NDArray[np.float64]
_LIMITS_KM = tuple(limit for limit in WITHIN_KM if limit >= 25)
_PAPER_NOTE = (
    "The geoembeddings paper's own averages, on 50 images of OSV-5M: human 1,219.8 km, ResNet-152 regression 9,328.7, "
    "ViT with the haversine loss 208.6, with the contrastive loss (tau, alpha) = (0.3, 0.5) 173.3, (0.5, 0.5) 167.2, "
    "(0.5, 0.75) 185.2. Single images change an average over 50 images; the paper gives no interval."
)


@dataclass(frozen=True)
class ErrorRow:
    """The errors of one method, (n,) km. All rows of a table hold the same photos in the same order."""

    name: str
    km: Floats


def train_grid(
    request: GeocellRequest, taus: list[float], alphas: list[float], on_progress: OnProgress = silent
) -> dict[str, Any]:
    """Train a model without the contrastive loss and one for every pair; write grid.md and grid.json into `out`.

    Each model has its own folder below `out`. Finished models are kept, so an interrupted grid continues.
    """
    pairs = [(taus[0], 0.0), *((tau, alpha) for tau in taus for alpha in alphas if alpha)]
    rows = []
    for tau, alpha in pairs:
        name = f"tau {tau:g}, alpha {alpha:g}" if alpha else "haversine loss alone"
        on_progress(Progress("note", name))
        out = request.out / (f"tau-{tau:g}-alpha-{alpha:g}" if alpha else "alpha-0")
        settings = replace(request.settings, temperature=tau, alpha=alpha)
        run = train_geocells(replace(request, out=out, cache=request.cache_folder, settings=settings), on_progress)
        test = read_photos(Path(run["photos"])).only("test")
        model = GeocellModel.load(out / MODEL_NAME, device=request.device)
        rows.append(ErrorRow(name, errors_km(model, test, request.cache_folder)))
    figures = error_figures(rows)
    about = f"{len(rows[0].km):,} test photos; in brackets 95% bootstrap intervals; differences are paired."
    text = f"{error_table(rows, figures)}\n\n{about}\n\n{_PAPER_NOTE}\n"
    write_atomically(request.out / "grid.md", lambda temporary: _write(temporary, text))
    result = {"rows": errors_as_json(rows, figures), "table": str(request.out / "grid.md")}
    write_json(request.out / "grid.json", result["rows"])
    return result


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def errors_km(model: GeocellModel, photos: PhotoSet, cache: Path | None) -> Floats:
    """The error of each photo's answer, (n,) km. Raises PhotoSetError if a photo cannot be read."""
    features = embed_photos(photos, model.encoder, cache=None if cache is None else cache / "photos")
    answers = model.answer(features.embeddings)
    lat, lng = np.array([(a.lat, a.lng) for a in answers], dtype=np.float64).T
    return great_circle_km(lng, lat, features.photos.lng, features.photos.lat)


def error_figures(rows: list[ErrorRow], replicates: int = 1000, seed: int = 0) -> list[dict[str, Figure]]:
    """Mean, median, shares within the usual limits, and the mean minus the first row's, with 95% intervals.

    All rows use the same resamples, so differences are paired.
    """
    return [Resamples(len(row.km), replicates, seed).figures(_statistics(row.km, rows[0].km)) for row in rows]


def error_table(rows: list[ErrorRow], figures: list[dict[str, Figure]]) -> str:
    """A Markdown table with a line for each row."""
    limits = (f"≤ {limit:,} km %" for limit in _LIMITS_KM)
    head = ["", "average km", "median km", *limits, "average minus first row's"]
    lines = []
    for row, named in zip(rows, figures, strict=True):
        averages = [figure_text(named[name], ",.1f") for name in ("mean_km", "median_km")]
        shares = [percent(named[f"within_{limit}_km"]) for limit in _LIMITS_KM]
        difference_text = "" if row is rows[0] else figure_text(named["less_first"], ",.1f")
        lines.append([row.name, *averages, *shares, difference_text])
    return markdown_table(head, lines)


def errors_as_json(rows: list[ErrorRow], figures: list[dict[str, Figure]]) -> list[Mapping[str, object]]:
    """The rows and their figures as JSON values."""
    return [{"name": row.name, "n": len(row.km), **plain(named)} for row, named in zip(rows, figures, strict=True)]


def _statistics(km: Floats, first: Floats) -> dict[str, Statistic]:
    shares = {f"within_{limit}_km": mean(km <= limit) for limit in _LIMITS_KM}
    averages = {"mean_km": mean(km), "median_km": median(km)}
    return averages | shares | {"less_first": difference(mean(km), mean(first))}
