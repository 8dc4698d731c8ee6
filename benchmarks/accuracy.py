"""Accuracy of the answers: error in km, calibration of the confidences, and coverage of the circles.

    python -m benchmarks.accuracy                        the built-in index on the sets `clean` and `degraded`
    python -m benchmarks.accuracy --index DIR --set left-out

The sets are drawn from the seeds in accuracy_sets.json, which no training or fitting used. Markdown goes to standard
output, and the same figures as JSON to --json FILE. For photos in files, and for intervals, use `tilebeam evaluate`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tilebeam
from benchmarks.support.machine import describe, sentence
from indexer.builtin.pictures import PictureSet, embed_views
from indexer.builtin.styles import Stylist
from indexer.builtin.views import Centres, Earth, draw_views
from indexer.evaluation.bootstrap import Resamples
from indexer.evaluation.figures import Figures, Row, figures_of
from indexer.evaluation.metrics import reliability
from indexer.evaluation.outcomes import Outcomes, Pictures, ZoomOutcomes, search_all
from indexer.evaluation.tables import markdown_table
from indexer.photos.embed import KnownPictures
from retrieval.locator import Locator
from retrieval.search.query import LocateQuery

SETS = Path(__file__).parents[1] / "indexer/sample_data/accuracy_sets.json"
WITHIN_KM = (25, 200, 750, 2500)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, help="an index of the built-in Earth's zooms; default: the built-in one")
    parser.add_argument("--set", action="append", dest="sets", help="a set of accuracy_sets.json; may be repeated")
    parser.add_argument("--count", type=int, help="fewer pictures than the set says, for a quick look")
    parser.add_argument("--k", type=int, default=64, help="beam width")
    parser.add_argument("--scoring", choices=["posterior", "paper"], default="posterior")
    parser.add_argument("--json", type=Path, help="write the figures there too")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    locator = Locator.open(arguments.index or built_in(), device="cpu")
    query = LocateQuery(k=arguments.k, scoring=arguments.scoring)
    known = PictureSet.read(SETS)
    results = {}
    for name in arguments.sets or ["clean", "degraded"]:
        pictures = draw(known[name], locator, arguments.count)
        results[name] = measure(locator, pictures, query)
    machine = describe()
    print(f"{markdown(results)}\n\nk = {query.k}, scoring {query.scoring}. {sentence(machine)}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "k": query.k, "sets": results}, indent=1) + "\n")


def built_in() -> Path:
    """The built-in index, built if it is missing."""
    index = tilebeam.builtin_index()
    tilebeam.build_builtin(index)
    return index


def draw(chosen: PictureSet, locator: Locator, count: int | None) -> KnownPictures:
    """Draw and embed a set; `count`: only its first pictures."""
    stylist, rng = Stylist(Earth(chosen.products), chosen.style), np.random.default_rng([chosen.seed, 0])
    views = draw_views(Centres(-60, 78, 8, 0.01), chosen.count, chosen.footprint_km, chosen.turn, rng)
    pictures = embed_views(stylist, views, chosen.size, locator.encoder, rng)
    n = len(pictures) if count is None else count
    return KnownPictures(pictures.embeddings[:n], pictures.lng[:n], pictures.lat[:n])


def measure(locator: Locator, pictures: KnownPictures, query: LocateQuery) -> dict[str, Any]:
    """All figures of one set, without intervals."""
    outcomes = search_all(locator, Pictures.of(pictures, locator.index), locator.plan(query))
    figures = figures_of(Row("", query.k, query.scoring, outcomes, 0.0), None, Resamples(len(outcomes), 0))
    return {
        "n": len(outcomes),
        "median_km": figures.errors["median_km"].value,
        "mean_km": figures.errors["mean_km"].value,
        "within_km": {str(limit): figures.errors[f"within_{limit}_km"].value for limit in WITHIN_KM},
        "circles": {share: _circle(figures.circles, outcomes, share) for share in ("50", "90")},
        "elsewhere": float(outcomes.elsewhere.mean()),
        "zooms": {str(z.zoom): _zoom(z) for z in outcomes.zooms},
    }


def _circle(circles: Figures, outcomes: Outcomes, share: str) -> dict[str, float]:
    """The share of circles that hold the true place, the share of answers with a circle, and the median radius."""
    radius = np.nan_to_num(outcomes.radius_50_km if share == "50" else outcomes.radius_90_km)
    holds, with_circle = (circles[f"{name}_{share}"].value for name in ("holds", "given"))
    return {"holds": holds, "given": with_circle, "median_km": float(np.median(radius))}


def _zoom(zoom: ZoomOutcomes) -> dict[str, float]:
    """Reliability of one zoom's confidences, over the answers that reach it."""
    reached = zoom.reached
    return {"reached": float(reached.mean()), **vars(reliability(zoom.confidence[reached], zoom.right[reached]))}


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Two tables: errors and circles, then confidences."""
    head = ["set", "n", "median km", "within 25", "200", "750", "2500 km", "50% circle holds", "90% circle holds"]
    errors = []
    for name, r in results.items():
        shares = [f"{r['within_km'][str(limit)]:.1%}" for limit in WITHIN_KM]
        circles = [f"{r['circles'][s]['holds']:.1%}" for s in ("50", "90")]
        errors.append([name, str(r["n"]), f"{r['median_km']:.0f}", *shares, *circles])
    zoom_head = ["set", "zoom", "right", "mean confidence", "ECE", "NLL", "AUROC"]
    zooms = []
    for name, r in results.items():
        for z, f in r["zooms"].items():
            figures = [f"{f[key]:.3f}" for key in ("ece", "nll", "auroc")]
            zooms.append([name, z, f"{f['accuracy']:.1%}", f"{f['confidence']:.1%}", *figures])
    return f"{markdown_table(head, errors)}\n\n{markdown_table(zoom_head, zooms)}"


if __name__ == "__main__":
    main()
