"""First stage of the built-in model: the photo tower against learned tables of tile vectors.

Each tile's vector is the unit sum of its own row and its ancestors' rows, so that a zoom-8 tile starts from what its
zoom-6 tile knows. Every query is told apart from all tiles of every zoom (full softmax). Resumable to the step: batches
depend on the seed and the step only, and the state is saved every few hundred steps.
"""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from indexer.builtin.muon import Muon
from indexer.builtin.pyramid import Pyramid
from indexer.builtin.tower import forward
from indexer.errors import TrainingError
from indexer.learning.state import load_state, optimiser_tensors, restore_optimiser, save_state
from retrieval.encoders.open_clip import Tower

Batch = tuple[Tensor, dict[int, NDArray[np.int64]]]
"""Prepared pictures (n, 3, s, s) float32, and for each zoom the row of the tile that contains each, (n,) int64."""


@dataclass(frozen=True)
class PhotoStage:
    """Numbers of the first stage."""

    steps: int
    batch: int = 128
    muon_lr: float = 0.02
    adam_lr: float = 1.5e-3
    table_lr: float = 3e-3
    weight_decay: float = 0.02
    warmup: int = 200
    save_every: int = 500
    optimiser: str = "muon"


class Tables(nn.Module):
    """A learned vector for every tile: rows by zoom, (n, dim) each, and a log scale a zoom."""

    def __init__(self, pyramid: Pyramid, dim: int) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.rows = nn.ParameterDict(
            {str(z): nn.Parameter(torch.randn(len(pyramid.codes[z]), dim) * dim**-0.5) for z in pyramid.zooms}
        )
        self.log_scale = nn.ParameterDict({str(z): nn.Parameter(torch.tensor(math.log(16.0))) for z in pyramid.zooms})

    def vectors(self) -> dict[int, Tensor]:
        """Unit vectors by zoom, (n, dim) float32 each."""
        vectors: dict[int, Tensor] = {}
        above: Tensor | None = None
        for z in self.pyramid.zooms:
            rows: Tensor = self.rows[str(z)]
            above = rows if above is None else rows + above[torch.from_numpy(self.pyramid.parents[z])]
            vectors[z] = functional.normalize(above, dim=-1)
        return vectors

    def scale(self, zoom: int) -> Tensor:
        """What cosines are multiplied with before the softmax."""
        log_scale: Tensor = self.log_scale[str(zoom)]
        return log_scale.clamp(max=math.log(100.0)).exp()


def softmax_loss(embeddings: Tensor, vectors: Tensor, scale: Tensor, rows: Tensor) -> Tensor:
    """Mean cross-entropy of telling the right row from all; queries outside the coverage (row -1) do not count."""
    logits = (embeddings.bfloat16() @ vectors.bfloat16().t()).float() * scale
    return functional.cross_entropy(logits, rows, ignore_index=-1)


def schedule(step: int, steps: int, warmup: int) -> float:
    """Share of the full learning rate: linear warm-up, flat, then down to zero over the last 60%."""
    if step < warmup:
        return (step + 1) / warmup
    return min(1.0, (steps - step) / (0.6 * steps))


def train_photo_tower(
    tower: Tower,
    tables: Tables,
    batches: Callable[[int], Batch],
    stage: PhotoStage,
    checkpoint: Path,
    log: Callable[[dict[str, Any]], None],
) -> None:
    """Train both in place, from `checkpoint` if it is there; `batches(step)` must depend on the step alone."""
    optimisers = _optimisers(tower, tables, stage)
    first = _restore(tower, tables, optimisers, checkpoint)
    started, seen = time.monotonic(), 0
    for step, (pictures, rows) in _ahead(batches, first, stage.steps):
        share = schedule(step, stage.steps, stage.warmup)
        losses = _step(tower, tables, optimisers, pictures, rows, share)
        seen += len(pictures)
        if (step + 1) % 100 == 0:
            log({"step": step + 1, "queries_per_second": seen / (time.monotonic() - started), **losses})
        if (step + 1) % stage.save_every == 0 or step + 1 == stage.steps:
            _save(tower, tables, optimisers, checkpoint, step + 1)


def _step(
    tower: Tower,
    tables: Tables,
    optimisers: dict[str, torch.optim.Optimizer],
    pictures: Tensor,
    rows: dict[int, NDArray[np.int64]],
    share: float,
) -> dict[str, float]:
    embeddings = forward(tower, pictures)
    losses = {
        z: softmax_loss(embeddings, vectors, tables.scale(z), torch.from_numpy(rows[z]))
        for z, vectors in tables.vectors().items()
    }
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    for optimiser in optimisers.values():
        for group in optimiser.param_groups:
            group["lr"] = group["full_lr"] * share
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return {f"loss_z{z}": float(loss.detach()) for z, loss in losses.items()}


def _optimisers(tower: Tower, tables: Tables, stage: PhotoStage) -> dict[str, torch.optim.Optimizer]:
    matrices = [p for p in tower.transformer.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    others = [p for p in tower.parameters() if id(p) not in known]
    groups: list[dict[str, Any]] = [
        {"params": others, "lr": stage.adam_lr, "weight_decay": 0.0},
        {"params": list(tables.parameters()), "lr": stage.table_lr, "weight_decay": 0.0},
    ]
    optimisers: dict[str, torch.optim.Optimizer] = {}
    if stage.optimiser == "muon":
        optimisers["muon"] = Muon(matrices, lr=stage.muon_lr, weight_decay=stage.weight_decay)
    else:
        groups.append({"params": matrices, "lr": stage.adam_lr, "weight_decay": stage.weight_decay})
    optimisers["adam"] = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    for optimiser in optimisers.values():
        for group in optimiser.param_groups:
            group["full_lr"] = group["lr"]
    return optimisers


def _ahead(batches: Callable[[int], Batch], first: int, steps: int) -> Iterator[tuple[int, Batch]]:
    """Batches of steps first to steps - 1, the next one being drawn while one is learnt from."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(batches, first) if first < steps else None
        for step in range(first, steps):
            assert coming is not None
            batch = coming.result()
            coming = pool.submit(batches, step + 1) if step + 1 < steps else None
            yield step, batch


def _save(
    tower: Tower, tables: Tables, optimisers: dict[str, torch.optim.Optimizer], path: Path, steps_done: int
) -> None:
    tensors = {f"tower.{k}": v for k, v in tower.state_dict().items()}
    tensors |= {f"tables.{k}": v for k, v in tables.state_dict().items()}
    for name, optimiser in optimisers.items():
        tensors |= optimiser_tensors(name, optimiser)
    save_state(path, tensors, {"steps_done": steps_done})


def _restore(tower: Tower, tables: Tables, optimisers: dict[str, torch.optim.Optimizer], path: Path) -> int:
    if not path.exists():
        return 0
    tensors, notes = load_state(path)
    try:
        tower.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("tower.")})
        tables.load_state_dict({k[7:]: v for k, v in tensors.items() if k.startswith("tables.")})
        for name, optimiser in optimisers.items():
            restore_optimiser(name, optimiser, tensors)
        return int(notes["steps_done"])
    except (KeyError, RuntimeError, ValueError) as exc:
        way_out = "choose another --out, or delete it to begin anew"
        raise TrainingError(f"{path} is the state of a run with another recipe: {way_out} ({exc})") from exc
