"""Second stage of the built-in model: per zoom, the map tower's last layers learn to see what a tile's table row knows.

The photo tower and the tables are frozen here. Tiles are few and fixed, so the activations before the first trained
block are computed once. The loss is the cosine distance to the table's vector plus query-to-tile cross-entropy in which
the batch's own tiles are seen by the map tower and all others by the tables: a full softmax at the price of a batch.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from indexer.builtin.muon import Muon
from indexer.builtin.photo_stage import schedule
from indexer.builtin.tower import embed_patches, finish, run_blocks
from retrieval.encoders.open_clip import Tower, trained_layers


@dataclass(frozen=True)
class MapStage:
    """Numbers of the second stage; `steps` by zoom."""

    steps: dict[int, int]
    batch: int = 192
    muon_lr: float = 0.01
    adam_lr: float = 1e-3
    query_share: float = 0.5
    blocks: int = 2


@dataclass(frozen=True)
class Queries:
    """Embedded pictures to learn against: (n, dim) float32 unit rows, and the row of the tile that holds each, (n,)."""

    embeddings: Tensor
    rows: NDArray[np.int64]

    @classmethod
    def covered(cls, embeddings: Tensor, rows: NDArray[np.int64]) -> "Queries":
        """Those that some tile holds: `rows` is -1 for the others, which no tile can be told apart by."""
        known = np.flatnonzero(rows >= 0)
        return cls(embeddings[torch.from_numpy(known)], rows[known])


def trunk_activations(tower: Tower, tiles: Callable[[int, int], Tensor], count: int, blocks: int) -> Tensor:
    """Tokens of all tiles before the last `blocks` blocks, (count, t, width) bfloat16."""
    parts = []
    with torch.no_grad():
        for first in range(0, count, 256):
            x = embed_patches(tower, tiles(first, min(first + 256, count)))
            parts.append(run_blocks(list(tower.transformer.resblocks)[:-blocks], x))
    return torch.cat(parts)


def train_map_tower(
    tower: Tower,
    activations: Tensor,
    targets: Tensor,
    scale: float,
    queries: Queries,
    stage: MapStage,
    zoom: int,
    log: Callable[[dict[str, Any]], None],
) -> tuple[dict[str, Tensor], Tensor]:
    """Train one zoom's layers; returns them by name, and all tiles' vectors, (n, dim) float32 unit rows.

    `activations`: (n, t, width) of all tiles; `targets`: the tables' vectors, (n, dim) unit rows.
    """
    tail = copy.deepcopy(tower).requires_grad_(True)
    blocks = list(tail.transformer.resblocks)[-stage.blocks :]
    optimisers, rng = _optimisers(tail, blocks, stage), np.random.default_rng([zoom, 1])
    steps = stage.steps[zoom]
    for step in range(steps):
        batch = rng.choice(len(queries.rows), stage.batch)
        tiles = np.unique(queries.rows[batch]) if step % 2 else rng.choice(len(targets), min(len(targets), stage.batch))
        tiles = np.unique(tiles)
        seen = finish(tail, run_blocks(blocks, activations[torch.from_numpy(tiles)]))
        alike = 1 - (seen * targets[torch.from_numpy(tiles)]).sum(1).mean()
        asked = _query_loss(seen, tiles, targets, scale, queries, batch) if step % 2 else torch.zeros(())
        torch.autograd.backward(alike * 4 + stage.query_share * asked)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["full_lr"] * schedule(step, steps, 50)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        if (step + 1) % 100 == 0:
            log(
                {
                    "zoom": zoom,
                    "step": step + 1,
                    "cosine_to_table": 1 - float(alike.detach()),
                    "query_loss": float(asked.detach()),
                }
            )
    with torch.no_grad():
        vectors = torch.cat([finish(tail, run_blocks(blocks, part)) for part in torch.split(activations, 256)])
    names = trained_layers(tail, stage.blocks)
    return {k: v.detach().half() for k, v in tail.state_dict().items() if k in names}, vectors


def _query_loss(
    seen: Tensor, tiles: NDArray[np.int64], targets: Tensor, scale: float, queries: Queries, batch: NDArray[np.int64]
) -> Tensor:
    """Cross-entropy of queries over all tiles, the columns of `tiles` replaced by what the map tower sees."""
    asked = queries.embeddings[torch.from_numpy(batch)]
    logits = (asked.bfloat16() @ targets.bfloat16().t()).float() * scale
    logits = logits.index_copy(1, torch.from_numpy(tiles), asked @ seen.t() * scale)
    return functional.cross_entropy(logits, torch.from_numpy(queries.rows[batch]))


def _optimisers(tail: Tower, blocks: list[nn.Module], stage: MapStage) -> list[torch.optim.Optimizer]:
    matrices = [p for block in blocks for p in block.parameters() if p.ndim == 2]
    vectors = [p for block in blocks for p in block.parameters() if p.ndim != 2]
    others = [*vectors, *tail.ln_post.parameters(), tail.proj]
    optimisers: list[torch.optim.Optimizer] = [
        Muon(matrices, lr=stage.muon_lr),
        torch.optim.AdamW(others, lr=stage.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["full_lr"] = group["lr"]
    return optimisers
