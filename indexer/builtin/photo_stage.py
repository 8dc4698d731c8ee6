"""First stage of the built-in model: the photo tower against learned tables of tile vectors.

A tile's vector is the unit sum of its own row and its ancestors' rows, so that a zoom-8 tile starts from what its
zoom-6 tile has learnt. Each query is compared with all tiles of every zoom (full softmax). A run can resume: a batch
depends on the seed and the step alone, and the state is saved every few hundred steps.
"""

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from indexer.builtin.recipe import PhotoStage
from indexer.builtin.tower import forward
from indexer.errors import TrainingError
from indexer.learning.loop import Interrupts, run_steps
from indexer.learning.state import (
    load_state,
    optimiser_tensors,
    restore_optimiser,
    save_state,
    with_prefix,
    without_prefix,
)
from indexer.threads import ahead
from retrieval.encoders.open_clip import Tower
from tile_cache.addressing import codes_at, parents_of_codes

__all__ = [
    "Batch",
    "Pyramid",
    "Tables",
    "muon",
    "schedule",
    "set_full_rates",
    "softmax_loss",
    "step_all",
    "train_photo_tower",
]

Batch = tuple[Tensor, dict[int, NDArray[np.int64]]]
"""Prepared pictures (n, 3, s, s) float32, and for each zoom the row of the tile that contains each, (n,) int64."""


@dataclass(frozen=True)
class Pyramid:
    """Covered tiles by zoom, as classes 0 to n - 1: codes (n,) uint64 ascending, and parents, (n,) int64 rows of the
    zoom above. The parent of every tile is covered."""

    zooms: tuple[int, ...]
    codes: dict[int, NDArray[np.uint64]]
    parents: dict[int, NDArray[np.int64]]

    @classmethod
    def from_codes(cls, codes: dict[int, NDArray[np.uint64]]) -> "Pyramid":
        """From ascending codes by zoom. Raises ValueError if a tile's parent is missing."""
        zooms = tuple(sorted(codes))
        parents: dict[int, NDArray[np.int64]] = {zooms[0]: np.zeros(len(codes[zooms[0]]), dtype=np.int64)}
        for above, z in pairwise(zooms):
            parent_codes = parents_of_codes(codes[z], z - above)
            parents[z] = np.searchsorted(codes[above], parent_codes)
            if not np.array_equal(codes[above][np.minimum(parents[z], len(codes[above]) - 1)], parent_codes):
                raise ValueError(f"a tile of zoom {z} has no parent at zoom {above}: cover the parents, too")
        return cls(zooms, codes, parents)

    def classes(self, lng: NDArray[np.float64], lat: NDArray[np.float64]) -> dict[int, NDArray[np.int64]]:
        """For each zoom the row of the tile that contains each point, (n,) int64; -1 for points in no covered tile."""
        rows = {}
        for z in self.zooms:
            codes = codes_at(lng, lat, z)
            positions = np.minimum(np.searchsorted(self.codes[z], codes), len(self.codes[z]) - 1)
            rows[z] = np.where(self.codes[z][positions] == codes, positions, -1).astype(np.int64)
        return rows


class Tables(nn.Module):
    """A learned vector for every tile: rows by zoom, (n, dim) each, and a log scale per zoom."""

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
        sums: Tensor | None = None
        for z in self.pyramid.zooms:
            rows: Tensor = self.rows[str(z)]
            sums = rows if sums is None else rows + sums[torch.from_numpy(self.pyramid.parents[z])]
            vectors[z] = functional.normalize(sums, dim=-1)
        return vectors

    def scale(self, zoom: int) -> Tensor:
        """What cosines are multiplied by before the softmax."""
        log_scale: Tensor = self.log_scale[str(zoom)]
        return log_scale.clamp(max=math.log(100.0)).exp()


def softmax_loss(embeddings: Tensor, vectors: Tensor, scale: Tensor, rows: Tensor) -> Tensor:
    """Mean cross-entropy of each embedding's row among all vectors. Queries outside the coverage (row -1) are left
    out."""
    logits = (embeddings.bfloat16() @ vectors.bfloat16().t()).float() * scale
    return functional.cross_entropy(logits, rows, ignore_index=-1)


def schedule(step: int, steps: int, warmup: int) -> float:
    """Share of the full learning rate: linear warm-up, constant, then linear to zero over the last 60% of the steps."""
    if step < warmup:
        return (step + 1) / warmup
    return min(1.0, (steps - step) / (0.6 * steps))


def muon(matrices: list[nn.Parameter], lr: float, weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """Muon (Keller Jordan, 2024) over 2-D parameters; an entry's change per step is about 0.2 `lr` (RMS)."""
    return torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")


def set_full_rates(optimisers: Iterable[torch.optim.Optimizer]) -> None:
    """Record each group's learning rate as the full one, which `step_all` takes a share of."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["full_lr"] = group["lr"]


def step_all(optimisers: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Step at a share of the full learning rates, then clear the gradients."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = group["full_lr"] * share
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def train_photo_tower(
    tower: Tower,
    tables: Tables,
    batches: Callable[[int], Batch],
    stage: PhotoStage,
    checkpoint: Path,
    log: Callable[[dict[str, Any]], None],
) -> None:
    """Train both in place, resuming from `checkpoint` if it exists; `batches(step)` must depend on the step alone.

    SIGINT and SIGTERM take effect at the end of a step: the state is saved, and KeyboardInterrupt is raised.
    """
    optimisers = _optimisers(tower, tables, stage)
    first = _restore(tower, tables, optimisers, checkpoint)
    started, queries = time.monotonic(), 0
    with ThreadPoolExecutor(1) as pool, Interrupts() as interrupts:
        # The next batch is drawn while the tower learns from one.
        drawn = ahead(pool, batches, range(first, stage.steps), 2)

        def step(number: int) -> None:
            nonlocal queries
            pictures, rows = next(drawn)
            losses = _step(tower, tables, optimisers, pictures, rows, schedule(number, stage.steps, stage.warmup))
            queries += len(pictures)
            if (number + 1) % 100 == 0:
                rate = queries / (time.monotonic() - started)
                log({"step": number + 1, "queries_per_second": rate, **losses})

        def save(steps_done: int) -> None:
            _save(tower, tables, optimisers, checkpoint, steps_done)

        run_steps(range(first, stage.steps), step, save, stage.save_every, interrupts)


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
    step_all(optimisers.values(), share)
    return {f"loss_z{z}": float(loss.detach()) for z, loss in losses.items()}


def _optimisers(tower: Tower, tables: Tables, stage: PhotoStage) -> dict[str, torch.optim.Optimizer]:
    matrices = [p for p in tower.transformer.parameters() if p.ndim == 2]
    matrix_ids = {id(p) for p in matrices}
    others = [p for p in tower.parameters() if id(p) not in matrix_ids]
    groups: list[dict[str, Any]] = [
        {"params": others, "lr": stage.adam_lr, "weight_decay": 0.0},
        {"params": list(tables.parameters()), "lr": stage.table_lr, "weight_decay": 0.0},
    ]
    optimisers: dict[str, torch.optim.Optimizer] = {}
    if stage.optimiser == "muon":
        optimisers["muon"] = muon(matrices, stage.muon_lr, stage.weight_decay)
    else:
        groups.append({"params": matrices, "lr": stage.adam_lr, "weight_decay": stage.weight_decay})
    optimisers["adam"] = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    set_full_rates(optimisers.values())
    return optimisers


def _save(
    tower: Tower, tables: Tables, optimisers: dict[str, torch.optim.Optimizer], path: Path, steps_done: int
) -> None:
    tensors = with_prefix("tower.", tower.state_dict()) | with_prefix("tables.", tables.state_dict())
    for name, optimiser in optimisers.items():
        tensors |= optimiser_tensors(name, optimiser)
    save_state(path, tensors, {"steps_done": steps_done})


def _restore(tower: Tower, tables: Tables, optimisers: dict[str, torch.optim.Optimizer], path: Path) -> int:
    """Load a state, if there is one; returns the number of steps done."""
    if not path.exists():
        return 0
    tensors, notes = load_state(path)
    try:
        tower.load_state_dict(without_prefix("tower.", tensors))
        tables.load_state_dict(without_prefix("tables.", tensors))
        for name, optimiser in optimisers.items():
            restore_optimiser(name, optimiser, tensors)
        return int(notes["steps_done"])
    except (KeyError, RuntimeError, ValueError) as exc:
        way_out = "choose another --out, or delete it to begin again"
        raise TrainingError(f"{path} is the state of a run with another recipe: {way_out} ({exc})") from exc
