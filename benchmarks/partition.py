"""What parting the Earth costs: `tilebeam geocells fit` on drawn places, step by step, in time and memory.

    python -m benchmarks.partition [--photos 100000] [--optics-photos 100000] [--min-samples 5,10,20,50]
                                   [--scikit-learn 10000] [--out DIR] [--json FILE]

Places are drawn on land: three in ten anywhere, the others around 1,500 towns, whose sizes fall as 1 / rank ** 0.9, of
10 to 100 km. `--scikit-learn N` also times one ordering of N places by scikit-learn's own loop and by ours. Seconds are
of the clock, beside those of the processor, as the machine may be busy. Prints a Markdown table, writes JSON.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine
from indexer.geocells.partition.fit import fit_photos
from indexer.geocells.partition.optics import chord_of, order
from indexer.geocells.partition.write import write_partition
from indexer.geocells.settings import FitRequest, Grid
from indexer.photos.photo_set import PhotoSet
from indexer.progress import Progress
from retrieval.sphere import degrees_of, unit_vectors
from tile_cache.bluemarble import load_land

TOWNS, ANYWHERE = 1500, 0.3
MOST_LATITUDE = 75.0
Floats = NDArray[np.float64]


class Watch:
    """Seconds between what a run tells; a step's begin when it is first told of."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[float, float]] = {}
        self._text, self._since = "drawing", (time.perf_counter(), time.process_time())

    def __call__(self, progress: Progress) -> None:
        """Take note of a step."""
        if progress.stage != "note" and progress.text != self._text:
            self.lap(progress.text)

    def lap(self, following: str) -> None:
        """End a step, begin another."""
        now = (time.perf_counter(), time.process_time())
        clock, processor = (b - a for a, b in zip(self._since, now, strict=True))
        before = self.steps.get(self._text, (0.0, 0.0))
        self.steps[self._text] = (before[0] + clock, before[1] + processor)
        self._text, self._since = following, now


def on_land(count: int, rng: np.random.Generator) -> Floats:
    """(count, 3) unit vectors, even over land."""
    land, found = load_land(), np.zeros((0, 3))
    while len(found) < count:
        vectors = rng.normal(size=(4 * count, 3))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        lng, lat = degrees_of(vectors)
        rows = np.minimum((90 - lat) / 180 * land.shape[0], land.shape[0] - 1).astype(int)
        columns = ((lng + 180) / 360 * land.shape[1]).astype(int) % land.shape[1]
        found = np.concatenate([found, vectors[(land[rows, columns] > 0) & (np.abs(lat) < MOST_LATITUDE)]])
    return found[:count]


def drawn(count: int, seed: int = 0) -> PhotoSet:
    """Photos at drawn places; there are no pictures."""
    rng = np.random.default_rng(seed)
    sizes = 1 / np.arange(1, TOWNS + 1) ** 0.9
    town = rng.choice(TOWNS, round(count * (1 - ANYWHERE)), p=sizes / sizes.sum())
    width = rng.choice([10, 30, 100], TOWNS)[town, None] / 6371
    around = on_land(TOWNS, rng)[town] + rng.normal(size=(len(town), 3)) * width
    lng, lat = degrees_of(np.concatenate([around, on_land(count - len(town), rng)]))
    names = tuple(map(str, range(count)))
    return PhotoSet(names, names, lng, lat)


def fitted(photos: int, grid: Grid, out: Path | None) -> dict[str, Any]:
    """Fit, write, and tell what it took."""
    watch = Watch()
    places = drawn(photos)
    watch.lap("begin")
    made = fit_photos(places, FitRequest(Path("drawn"), grid=grid), watch)
    watch.lap("writing")
    if out is not None:
        write_partition(out, made)
    watch.lap("end")
    picked = made.search.best
    return {
        "photos": photos,
        "seconds": {name: {"clock": c, "processor": p} for name, (c, p) in watch.steps.items()},
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
        "cells": len(made.partition),
        "clusters": len(made.partition.clusters),
        "setting": str(picked.setting),
        "silhouette": picked.silhouette,
        "davies_bouldin": picked.davies_bouldin,
        "to_cluster_km": float(np.median(made.to_cluster_km)),
    }


def beside_scikit_learn(count: int, min_samples: int = 20, max_eps_km: float = 300.0) -> dict[str, float]:
    """Seconds of the clock for one ordering, by either loop."""
    from sklearn.cluster import compute_optics_graph

    places = drawn(count)
    vectors, limit = unit_vectors(places.lng, places.lat), float(chord_of(np.float64(max_eps_km)))
    more: dict[str, Any] = {"metric": "minkowski", "p": 2, "metric_params": None, "algorithm": "kd_tree"}
    begin = time.perf_counter()
    theirs = compute_optics_graph(vectors, min_samples=min_samples, max_eps=limit, leaf_size=30, n_jobs=1, **more)
    between = time.perf_counter()
    ours = order(vectors, min_samples, max_eps_km)
    end = time.perf_counter()
    if not np.array_equal(theirs[0], ours.order):
        raise SystemExit("the two orderings differ")
    return {"points": count, "scikit_learn": between - begin, "ours": end - between}


def table(result: dict[str, Any]) -> str:
    """For people."""
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
    given = parser.parse_args()
    samples = tuple(int(part) for part in given.min_samples.split(","))
    result = fitted(given.photos, Grid(min_samples=samples, most_points=given.optics_photos), given.out)
    print(table(result), "", *(f"{k}: {v}" for k, v in result.items() if k != "seconds"), sep="\n")
    if given.scikit_learn:
        result["ordering"] = beside_scikit_learn(given.scikit_learn)
        print(f"one ordering: {result['ordering']}")
    described = machine.describe()
    print(machine.sentence(described))
    if given.json:
        given.json.write_text(json.dumps(result | {"machine": described}, indent=1) + "\n")


if __name__ == "__main__":
    main()
