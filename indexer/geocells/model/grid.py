"""Paper G's grid of (tau, alpha): a model each, measured on the same test photos, in one table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.geocells.model.errors_table import ErrorRow, as_json, error_figures, error_table
from indexer.geocells.model.settings import GeocellRequest
from indexer.geocells.model.training import MODEL_NAME, train_geocells
from indexer.photos.embed import embed_photos
from indexer.photos.photo_set import PhotoSet
from indexer.photos.read import read_photos
from indexer.progress import OnProgress, Progress
from retrieval.files import write_atomically, write_json
from retrieval.priors.geocells import GeocellModel
from retrieval.sphere import great_circle_km

__all__ = ["PAPER_NOTE", "errors_km", "train_grid"]

PAPER_NOTE = (
    "Paper G's own averages, on 50 images of OSV-5M: human 1,219.8 km, ResNet-152 regression 9,328.7, ViT with the "
    "haversine loss 208.6, with the contrastive loss (tau, alpha) = (0.3, 0.5) 173.3, (0.5, 0.5) 167.2, (0.5, 0.75) "
    "185.2. An average over 50 images is moved by single ones; no interval is given."
)


def train_grid(
    request: GeocellRequest, taus: list[float], alphas: list[float], tell: OnProgress = lambda progress: None
) -> dict[str, Any]:
    """Train without the contrastive loss, then with every pair, and write grid.md and grid.json into `out`.

    Each model has a folder of its own below `out`; what is there is kept, so a killed grid goes on.
    """
    pairs = [(request.settings.temperature, 0.0), *((tau, alpha) for tau in taus for alpha in alphas if alpha)]
    rows = []
    for tau, alpha in pairs:
        name = f"tau {tau:g}, alpha {alpha:g}" if alpha else "haversine loss alone"
        tell(Progress("note", name))
        out = request.out / (f"tau-{tau:g}-alpha-{alpha:g}" if alpha else "alpha-0")
        settings = replace(request.settings, temperature=tau, alpha=alpha)
        made = train_geocells(replace(request, out=out, cache=request.cache_folder, settings=settings), tell)
        test = read_photos(Path(made["photos"])).only("test")
        model = GeocellModel.load(out / MODEL_NAME, device=request.device)
        rows.append(ErrorRow(name, errors_km(model, test, request.cache_folder)))
    figures = error_figures(rows)
    about = f"{len(rows[0].km):,} test photos; in brackets 95% bootstrap intervals; differences are paired."
    text = f"{error_table(rows, figures)}\n\n{about}\n\n{PAPER_NOTE}\n"
    write_atomically(request.out / "grid.md", lambda temporary: _write(temporary, text))
    found = {"rows": as_json(rows, figures), "table": str(request.out / "grid.md")}
    write_json(request.out / "grid.json", found["rows"])
    return found


def errors_km(model: GeocellModel, photos: PhotoSet, cache: Path | None) -> NDArray[np.float64]:
    """How far each photo's answer is off, (n,) km. Raises PhotoSetError where a photo cannot be read."""
    features = embed_photos(photos, model.encoder, cache=None if cache is None else cache / "photos")
    answers = model.answer(features.embeddings)
    lat, lng = np.array([(a.lat, a.lng) for a in answers], dtype=np.float64).T
    return great_circle_km(lng, lat, features.photos.lng, features.photos.lat)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
