"""Training steps with cached frozen activations against plain steps: milliseconds per step, and losses.

All paths train the last two blocks of a tower with seeded random weights (no download) on the same batches of random
pictures, with the loss and the Adam of `tilebeam train`. Plain: the photo tower and the whole map tower run in each
step, with gradients only in the trained layers. Cached: photos' embeddings come from a table, tiles' activations from a
cache on disk, in float32 (exact) or float16. The paths' steps alternate, so a slower machine affects all of them.

    python -m benchmarks.training [--quick] [--model ViT-B-32] [--batch 64] [--steps 6] [--threads N] [--disk DIR]
        [--json FILE]

Prints a Markdown table, writes JSON.
"""

import argparse
import copy
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.support import machine
from benchmarks.support.validity import Watch, figure, report
from indexer.learning.activations import ActivationCache, CacheLimits
from indexer.learning.trunk import SplitTower
from indexer.training.loss import in_batch_loss
from retrieval.encoders.open_clip import build_tower, trained_layers

Step = Callable[[np.ndarray], float]
Series = dict[str, list[float]]
SCALE = torch.tensor(1 / 0.07)


def main() -> None:
    """Run, print a table, write JSON."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(dir=arguments.disk) as name:
        result = measure(Path(name), arguments.model, arguments.batch, arguments.steps)
    print("| | ms per step | times faster than plain | by processor time | largest difference of losses |")
    print("|---|---:|---:|---:|---:|")
    for row, ms in result["ms"].items():
        faults = result["faults"].get(row, ())
        faster, by_cpu = (figure(f"{result[name][row]:.2f}", faults) for name in ("times_faster", "times_faster_cpu"))
        print(f"| {row} | {ms:,.0f} | {faster} | {by_cpu} | {result['loss_difference'][row]:.1e} |")
    epochs = figure(f"{result['epochs_to_break_even']:.1f}", ["void"] * report(result["faults"]))
    once, losses = result["once_ms"], result["losses"]["plain"]
    print(
        f"\n{result['model']}, batch {arguments.batch}, {arguments.steps} steps, {arguments.threads} threads; losses "
        f"from {losses[0]:.4f} to {losses[-1]:.4f}. Once per tile and zoom {once['tile']:.1f} ms, once per photo "
        f"{once['photo']:.1f} ms: amortised after {epochs} epochs of one zoom."
    )
    print(machine.sentence(result["machine"]))
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(folder: Path, model: str, batch: int, steps: int) -> dict[str, Any]:
    """Medians over `steps` steps of each path, after one warm-up step, and all losses."""
    torch.manual_seed(0)
    config = open_clip.get_model_config(model)
    tower = build_tower({k: config.get(k, False) for k in ("embed_dim", "vision_cfg", "quick_gelu")})
    tower = tower.eval().requires_grad_(False)
    photos, tiles = (_pictures(2 * batch, tower.image_size[0]) for _ in range(2))
    rng = np.random.default_rng(0)
    batches = [rng.choice(len(tiles), batch, replace=False) for _ in range(steps + 1)]

    paths: dict[str, Step] = {"plain": _plain(tower, photos, tiles)}
    table, photo_s = _timed(lambda: _embedded(tower, photos))
    once = {"photo": 1000 * photo_s / len(photos)}
    for dtype in ("float32", "float16"):
        (step, fill_s) = _cached(folder / dtype, tower, table, tiles, dtype)
        paths[f"cached, {dtype}"] = step
        once.setdefault("tile", 1000 * fill_s / len(tiles))
    with Watch() as watch:
        losses, seconds, cpu_s = _alternating(paths, batches)
    figures: dict[str, Any] = {"ms": {n: 1000 * statistics.median(s) for n, s in seconds.items()}}
    figures |= {"times_faster": _times_faster(seconds), "times_faster_cpu": _times_faster(cpu_s), "once_ms": once}
    saved = (figures["ms"]["plain"] - figures["ms"]["cached, float32"]) / batch
    faster = {name: np.divide(seconds["plain"], own).tolist() for name, own in seconds.items() if name != "plain"}
    return figures | {
        "faults": {name: watch.faults(series) for name, series in faster.items()},
        "loss_difference": {n: float(np.abs(np.subtract(own, losses["plain"])).max()) for n, own in losses.items()},
        "losses": losses,
        "epochs_to_break_even": sum(once.values()) / saved,
        "model": model,
        "batch": batch,
        "torch_threads": torch.get_num_threads(),
        "machine": machine.describe(),
    }


def _plain(tower: nn.Module, photos: Tensor, tiles: Tensor) -> Step:
    """A step through the whole map tower; autograd records only the last layers."""
    learner: Any = copy.deepcopy(tower)
    for name in trained_layers(learner):
        learner.get_parameter(name).requires_grad_(True)
    optimiser = _adam([p for p in learner.parameters() if p.requires_grad])

    def step(rows: np.ndarray) -> float:
        picked = torch.from_numpy(rows)
        with torch.no_grad():
            photo_embeddings = functional.normalize(tower(photos[picked]), dim=-1)
        return _learn(photo_embeddings, functional.normalize(learner(tiles[picked]), dim=-1), optimiser)

    return step


def _cached(folder: Path, tower: nn.Module, table: Tensor, tiles: Tensor, dtype: str) -> tuple[Step, float]:
    """A step of the cached path, and the seconds that filling the cache took."""
    split = SplitTower(tower)
    tail = split.tail()
    optimiser = _adam(list(tail.parameters()))

    def compute(rows: np.ndarray) -> Tensor:
        return split.trunk(tiles[torch.from_numpy(rows)])

    def opened() -> ActivationCache:
        return ActivationCache.open(folder, "benchmark", len(tiles), split.token_shape, CacheLimits(dtype=dtype))

    with opened() as cache:
        _, fill_s = _timed(lambda: cache.fill(compute, batch=32, on_progress=lambda done, total: None))
    cache = opened()  # opened again, as by a later run: checksums are compared when a row is first read
    assert cache.filled == len(tiles), cache.note

    def step(rows: np.ndarray) -> float:
        return _learn(table[torch.from_numpy(rows)], tail(cache.get(rows, compute)), optimiser)

    return step, fill_s


def _adam(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-4)


def _learn(photos: Tensor, tiles: Tensor, optimiser: torch.optim.Optimizer) -> float:
    loss = in_batch_loss(photos, tiles, torch.arange(len(tiles)), SCALE)
    optimiser.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimiser.step()
    return float(loss.detach())


def _alternating(paths: dict[str, Step], batches: list[np.ndarray]) -> tuple[Series, Series, Series]:
    """Losses, seconds and processor seconds of each path per step, without the times of the first step."""
    losses, seconds, cpu_s = (Series({name: [] for name in paths}) for _ in range(3))
    for rows in batches:
        for name, step in paths.items():
            cpu = time.process_time()
            loss, took = _timed(lambda step=step, rows=rows: step(rows))  # type: ignore[misc]
            losses[name].append(loss)
            seconds[name].append(took)
            cpu_s[name].append(time.process_time() - cpu)
    return losses, {name: s[1:] for name, s in seconds.items()}, {name: s[1:] for name, s in cpu_s.items()}


def _times_faster(seconds: Series) -> dict[str, float]:
    """The median over steps of the plain path's time over this path's."""
    return {n: float(np.median(np.divide(seconds["plain"], own))) for n, own in seconds.items()}


def _embedded(tower: nn.Module, photos: Tensor) -> Tensor:
    with torch.no_grad():
        return functional.normalize(torch.cat([tower(batch) for batch in photos.split(32)]), dim=-1)


def _pictures(n: int, size: int) -> Tensor:
    """Pictures, (n, 3, size, size) float32: random colours on a coarse grid, with noise."""
    coarse = functional.interpolate(torch.randn(n, 3, 7, 7), size=size, mode="bilinear")
    return coarse + 0.2 * torch.randn(n, 3, size, size)


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="ViT-B-32", help="an open_clip model; its shape counts, not its weights")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--disk", type=Path, default=None, help="folder for the caches; default: the temporary folder")
    parser.add_argument("--json", type=Path, default=Path("training.json"))
    parser.add_argument("--quick", action="store_true", help="two steps of eight pairs, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.batch, arguments.steps = 8, 2
    return arguments


if __name__ == "__main__":
    main()
