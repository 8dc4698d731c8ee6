"""The cost of GeoCLIP as a prior: tables, encoding a picture, its belief, and deeper tiles.

    python -m benchmarks.geoclip                 minutes: embeds 165,536 places first, unless they are kept already
    python -m benchmarks.geoclip --threads 1 [--quick]

CLIP is of the real shape with random weights, as the hub may be out of reach: its time is real, its features are not.
Features are location embeddings instead. Markdown goes to standard output.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from benchmarks.support.machine import describe, sentence
from retrieval.encoders.preprocess import Preprocess
from retrieval.priors.geoclip import GeoclipPrior
from retrieval.priors.geoclip_data import gallery, tables_folder
from retrieval.priors.geoclip_models import GeoclipPhotos, LocationEncoder
from tile_cache.addressing import children_of_codes

PLACES = np.array([[48.8584, 2.2945], [47.37, 8.54], [-33.86, 151.2], [40.71, -74.0], [35.68, 139.77]])
MEAN, STD = (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)
KEPT = 64
T = TypeVar("T")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--quick", action="store_true", help="a small gallery and CLIP of one layer, to see that it runs"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with TemporaryDirectory() as scratch:
        if options.quick:
            measure(of_clips_shape(layers=1), gallery()[:1000], Path(scratch), options.threads)
        else:
            measure(of_clips_shape(), gallery(), tables_folder(), options.threads)


def measure(photos: GeoclipPhotos, known: np.ndarray, tables: Path, threads: int) -> None:
    """Measure and print the table; `known`: (n, 2) the gallery's places; `tables`: where embeddings are kept."""
    places = LocationEncoder.load("cpu")
    before = memory_mb()
    prior, opened_s = timed(lambda: GeoclipPrior(places, photos, known, folders=[tables]))
    print(f"{sentence(describe())}; {threads} thread(s), processor time.\n\n| what | |\n|---|---|")
    print(f"| opening, tables made or read | {opened_s:.1f} s |")
    print(f"| memory that it takes beside the encoders, at its peak | {memory_mb() - before:,.0f} MB |")
    picture = np.zeros((1, 3, 224, 224), dtype=np.float32)
    photos.encode(picture)
    encode_s = min(timed(lambda: photos.encode(picture))[1] for _ in range(3))
    print(f"| encoding a picture by CLIP ViT-L/14 | {encode_s:.2f} s |")
    features = places.encode(*PLACES.T)
    beliefs, all_s = timed(lambda: prior.beliefs(features))
    print(f"| a belief, of {len(features)} at once | {1000 * all_s / len(features):.0f} ms |")
    alone = [timed(lambda one=one: prior.beliefs(one[None]))[1] for one in features]
    print(f"| a belief alone, median | {1000 * np.median(alone):.0f} ms |")
    for zoom, cold, warm in deeper(beliefs[0]):
        print(f"| candidates of zoom {zoom}, first time; again | {1000 * cold:.0f} ms; {1000 * warm:.1f} ms |")


def deeper(belief: object) -> list[tuple[int, float, float]]:
    """Zooms, and the seconds for the children of the best 64 tiles two zooms up."""
    ask: Callable[..., np.ndarray] = belief.log_mass  # type: ignore[attr-defined]
    tiles, times = np.arange(4**8, dtype=np.uint64), []
    kept = np.sort(tiles[np.argsort(-ask(tiles, 8))[:KEPT]])
    for zoom in (10, 12, 14, 16):
        tiles = children_of_codes(kept, 2)
        masses, cold = timed(lambda zoom=zoom, tiles=tiles: ask(tiles, zoom))
        times.append((zoom, cold, timed(lambda zoom=zoom, tiles=tiles: ask(tiles, zoom))[1]))
        kept = np.sort(tiles[np.argsort(-masses)[:KEPT]])
    return times


def of_clips_shape(layers: int = 24) -> GeoclipPhotos:
    """CLIP ViT-L/14's image tower and GeoCLIP's head, both with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": layers, "num_attention_heads": 16}
    config = CLIPVisionConfig(**shape, patch_size=14, projection_dim=768)
    head = nn.Sequential(nn.Linear(768, 768), nn.ReLU(), nn.Linear(768, 512))
    return GeoclipPhotos(CLIPVisionModelWithProjection(config), head, Preprocess(224, MEAN, STD), "cpu")


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result of a call, and its processor seconds over all threads."""
    started = time.process_time()
    return work(), time.process_time() - started


def memory_mb() -> float:
    """The peak memory of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
