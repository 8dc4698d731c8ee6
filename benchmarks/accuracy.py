"""How good are the answers? Error in km, and how well confidences and circles keep what they promise.

    python -m benchmarks.accuracy                        the built-in index on the sets `clean` and `degraded`
    python -m benchmarks.accuracy --index DIR --set left-out

The sets are drawn anew from accuracy_sets.json: seeds that no training or fitting used. Markdown goes to standard
output, the same figures as JSON to --json FILE.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tilebeam
from benchmarks.machine import describe, sentence
from indexer.metrics import great_circle_km, reliability
from indexer.photos.known import KnownPictures
from indexer.retrieval.answers import Answer
from indexer.retrieval.locator import Locator
from indexer.retrieval.query import LocateQuery
from indexer.training.pictures import PictureSet, embed_set
from indexer.training.views import Centres, Earth

SETS = Path(__file__).with_name("accuracy_sets.json")
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
        results[name] = measure(pictures, locator.locate(pictures.embeddings, query))
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


def measure(pictures: KnownPictures, answers: list[Answer]) -> dict[str, Any]:
    """All figures of one set."""
    lng, lat = (np.array([getattr(a, name) for a in answers]) for name in ("lng", "lat"))
    km = great_circle_km(lng, lat, pictures.lng, pictures.lat)
    within = {str(limit): float((km <= limit).mean()) for limit in WITHIN_KM}
    circles = {share: _held(km, [getattr(a, f"radius_{share}_km") for a in answers]) for share in ("50", "90")}
    return {
        "n": len(answers),
        "median_km": float(np.median(km)),
        "mean_km": float(km.mean()),
        "within_km": within,
        "circles": circles,
        "elsewhere": float(np.mean([a.elsewhere for a in answers])),
        "zooms": {str(z): _zoom(pictures, answers, z) for z in answers[0].zooms},
    }


def _held(km: np.ndarray, radii: list[float | None]) -> dict[str, float]:
    """The share of truths that a circle holds, among answers that give one."""
    given = np.array([r is not None for r in radii])
    radius = np.array([r or 0.0 for r in radii])
    return {
        "holds": float((km <= radius)[given].mean()),
        "given": float(given.mean()),
        "median_km": float(np.median(radius)),
    }


def _zoom(pictures: KnownPictures, answers: list[Answer], zoom: int) -> dict[str, float]:
    """Reliability of one zoom's confidences, over the answers that reach it."""
    from tile_cache.addressing import code_of_tile

    codes, _ = pictures.codes(zoom)
    confidence, right = [], []
    for code, answer in zip(codes, answers, strict=True):
        for level in answer.levels:
            if level.tile.z == zoom:
                confidence.append(level.confidence)
                right.append(code_of_tile(level.tile) == int(code))
    return {"reached": len(right) / len(answers), **vars(reliability(np.array(confidence), np.array(right)))}


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
