"""How good are the answers? Error in km, and how well confidences and circles keep what they promise.

    python -m benchmarks.accuracy                        the built-in index on the sets `clean` and `degraded`
    python -m benchmarks.accuracy --index DIR --set left-out

The sets are drawn anew from accuracy_sets.json: seeds that no training or fitting used. Markdown goes to standard
output, the same figures as JSON to --json FILE. For photos in files, and with intervals, there is `tilebeam evaluate`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tilebeam
from benchmarks.machine import describe, sentence
from indexer.builtin.pictures import PictureSet, embed_set
from indexer.builtin.views import Centres, Earth
from indexer.evaluation.bootstrap import Resamples
from indexer.evaluation.figures import Figures, Row, figures_of
from indexer.evaluation.metrics import reliability
from indexer.evaluation.outcomes import Outcomes, Pictures, ZoomOutcomes, search_all
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
    """Draw and embed a set."""
    pictures = embed_set(chosen, Earth(chosen.products), Centres(-60, 78, 8, 0.01), locator.encoder)
    n = len(pictures) if count is None else count
    return KnownPictures(pictures.embeddings[:n], pictures.lng[:n], pictures.lat[:n])


def measure(locator: Locator, pictures: KnownPictures, query: LocateQuery) -> dict[str, Any]:
    """All figures of one set, without intervals (`tilebeam evaluate` gives them)."""
    outcomes = search_all(locator, Pictures.of(pictures, locator.index), query)
    found = figures_of(Row("", query.k, query.scoring, outcomes, 0.0), None, Resamples(len(outcomes), 0))
    return {
        "n": len(outcomes),
        "median_km": found.errors["median_km"].value,
        "mean_km": found.errors["mean_km"].value,
        "within_km": {str(limit): found.errors[f"within_{limit}_km"].value for limit in WITHIN_KM},
        "circles": {share: _circle(found.circles, outcomes, share) for share in ("50", "90")},
        "elsewhere": float(outcomes.elsewhere.mean()),
        "zooms": {str(z.zoom): _zoom(z) for z in outcomes.zooms},
    }


def _circle(circles: Figures, outcomes: Outcomes, share: str) -> dict[str, float]:
    """The share of truths that a circle holds, among answers that give one."""
    radius = np.nan_to_num(outcomes.radius_50_km if share == "50" else outcomes.radius_90_km)
    holds, given = (circles[f"{what}_{share}"].value for what in ("holds", "given"))
    return {"holds": holds, "given": given, "median_km": float(np.median(radius))}


def _zoom(zoom: ZoomOutcomes) -> dict[str, float]:
    """Reliability of one zoom's confidences, over the answers that reach it."""
    some = zoom.reached
    return {"reached": float(some.mean()), **vars(reliability(zoom.confidence[some], zoom.right[some]))}


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """Two tables: errors and circles, then confidences."""
    lines = [
        "| set | n | median km | within 25 | 200 | 750 | 2500 km | 50% circle holds | 90% circle holds |",
        "|" + "---|" * 9,
    ]
    for name, r in results.items():
        shares = " | ".join(f"{r['within_km'][str(limit)]:.1%}" for limit in WITHIN_KM)
        circles = " | ".join(f"{r['circles'][s]['holds']:.1%}" for s in ("50", "90"))
        lines.append(f"| {name} | {r['n']} | {r['median_km']:.0f} | {shares} | {circles} |")
    lines += ["", "| set | zoom | right | mean confidence | ECE | NLL | AUROC |", "|" + "---|" * 7]
    for name, r in results.items():
        for z, f in r["zooms"].items():
            figures = f"{f['ece']:.3f} | {f['nll']:.3f} | {f['auroc']:.3f}"
            lines.append(f"| {name} | {z} | {f['accuracy']:.1%} | {f['confidence']:.1%} | {figures} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
