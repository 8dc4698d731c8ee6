"""Time and memory of each step of `tilebeam geocells fit`, on drawn places.

    python -m benchmarks.partition [--photos 100000] [--optics-photos 100000] [--min-samples 5,10,20,50]
                                   [--scikit-learn 10000] [--out DIR] [--json FILE]

Places are drawn on land: three in ten anywhere, the others around 1,500 towns of 10 to 100 km whose sizes fall as
1 / rank ** 0.9. `--scikit-learn N` also times one ordering of N places by scikit-learn's own loop and by Tilebeam's.
Both wall-clock and processor seconds are reported, as the machine may be busy. Prints a Markdown table, writes JSON.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.support import machine
from indexer.geocells.partition.fit import fit_photos
from indexer.geocells.partition.optics import chord_of, order
from indexer.geocells.partition.write import write_partition
from indexer.geocells.settings import FitRequest, Grid
from indexer.photos.photo_set import PhotoSet
from indexer.progress import Progress
from retrieval.sphere import degrees_of, unit_vectors
from tile_cache.bluemarble import load_land

TOWNS, ANYWHERE = 1500, 0.3
MAX_LATITUDE = 75.0
Floats = NDArray[np.float64]


class Watch:
    """A progress callback that measures seconds per step; a step begins with its first report."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[float, float]] = {}
        self._text, self._since = "drawing", (time.perf_counter(), time.process_time())

    def __call__(self, progress: Progress) -> None:
        """Begin another step if the text is new."""
        if progress.stage != "note" and progress.text != self._text:
            self.lap(progress.text)

    def lap(self, following: str) -> None:
        """End the current step and begin the step `following`."""
        now = (time.perf_counter(), time.process_time())
        clock, processor = (b - a for a, b in zip(self._since, now, strict=True))
        before = self.steps.get(self._text, (0.0, 0.0))
        self.steps[self._text] = (before[0] + clock, before[1] + processor)
        self._text, self._since = following, now


def on_land(count: int, rng: np.random.Generator) -> Floats:
    """Points drawn uniformly on land, (count, 3) unit vectors."""
    land, points = load_land(), np.zeros((0, 3))
    while len(points) < count:
        vectors = rng.normal(size=(4 * count, 3))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        lng, lat = degrees_of(vectors)
        rows = np.minimum((90 - lat) / 180 * land.shape[0], land.shape[0] - 1).astype(int)
        columns = ((lng + 180) / 360 * land.shape[1]).astype(int) % land.shape[1]
        points = np.concatenate([points, vectors[(land[rows, columns] > 0) & (np.abs(lat) < MAX_LATITUDE)]])
    return points[:count]


def drawn(count: int, seed: int = 0) -> PhotoSet:
    """A photo set at drawn places, without picture files."""
    rng = np.random.default_rng(seed)
    sizes = 1 / np.arange(1, TOWNS + 1) ** 0.9
    town = rng.choice(TOWNS, round(count * (1 - ANYWHERE)), p=sizes / sizes.sum())
    width = rng.choice([10, 30, 100], TOWNS)[town, None] / 6371
    around = on_land(TOWNS, rng)[town] + rng.normal(size=(len(town), 3)) * width
    lng, lat = degrees_of(np.concatenate([around, on_land(count - len(town), rng)]))
    names = tuple(map(str, range(count)))
    return PhotoSet(names, names, lng, lat)


def measure(photos: int, grid: Grid, out: Path | None) -> dict[str, Any]:
    """Fit and write a partition; returns seconds, memory and the outcome."""
    watch = Watch()
    places = drawn(photos)
    watch.lap("begin")
    fitted = fit_photos(places, FitRequest(Path("drawn"), grid=grid), watch)
    watch.lap("writing")
    if out is not None:
        write_partition(out, fitted)
    watch.lap("end")
    best = fitted.search.best
    return {
        "photos": photos,
        "seconds": {name: {"clock": c, "processor": p} for name, (c, p) in watch.steps.items()},
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "cells": len(fitted.partition),
        "clusters": len(fitted.partition.clusters),
        "setting": str(best.setting),
        "silhouette": best.silhouette,
        "davies_bouldin": best.davies_bouldin,
        "to_cluster_km": float(np.median(fitted.to_cluster_km)),
    }


def beside_scikit_learn(count: int, min_samples: int = 20, max_eps_km: float = 300.0) -> dict[str, float]:
    """Wall-clock seconds of one ordering by scikit-learn and by Tilebeam; fails if they differ."""
    from sklearn.cluster import compute_optics_graph

    places = drawn(count)
    vectors, limit = unit_vectors(places.lng, places.lat), float(chord_of(np.float64(max_eps_km)))
    more: dict[str, Any] = {"metric": "minkowski", "p": 2, "metric_params": None, "algorithm": "kd_tree"}
    begin = time.perf_counter()
    reference = compute_optics_graph(vectors, min_samples=min_samples, max_eps=limit, leaf_size=30, n_jobs=1, **more)
    between = time.perf_counter()
    ordering = order(vectors, min_samples, max_eps_km)
    end = time.perf_counter()
    if not np.array_equal(reference[0], ordering.order):
        raise SystemExit("the two orderings differ")
    return {"points": count, "scikit_learn": between - begin, "tilebeam": end - between}


def table(result: dict[str, Any]) -> str:
    """The seconds as a Markdown table."""
    rows = [f"| {name} | {s['clock']:.1f} | {s['processor']:.1f} |" for name, s in result["seconds"].items()]
    return "\n".join(["| step | clock, s | processor, s |", "|---|---|---|", *rows])


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=100_000)
    parser.add_argument("--optics-photos", type=int, default=100_000)
    parser.add_argument("--min-samples", default="5,10,20,50")
    parser.add_argument("--scikit-learn", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    samples = tuple(int(number) for number in arguments.min_samples.split(","))
    result = measure(arguments.photos, Grid(min_samples=samples, most_points=arguments.optics_photos), arguments.out)
    print(table(result), "", *(f"{k}: {v}" for k, v in result.items() if k != "seconds"), sep="\n")
    if arguments.scikit_learn:
        result["ordering"] = beside_scikit_learn(arguments.scikit_learn)
        print(f"one ordering: {result['ordering']}")
    described = machine.describe()
    print(machine.sentence(described))
    if arguments.json:
        arguments.json.write_text(json.dumps(result | {"machine": described}, indent=1) + "\n")


if __name__ == "__main__":
    main()
