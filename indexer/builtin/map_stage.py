"""Second stage of the built-in model: per zoom, the map tower's last layers learn the vectors of the tiles' table rows.

The photo tower and the tables are frozen here. Tiles are few and fixed, so the frozen trunk's tokens of all of them are
computed once and stay in memory. The loss is the cosine distance to the table's vector, plus the cross-entropy of
queries over all tiles, in which the batch's own tiles have the map tower's vectors and all others the tables': a full
softmax at the price of a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from indexer.builtin.photo_stage import muon, schedule, set_full_rates, step_all
from indexer.builtin.recipe import MapStage
from indexer.builtin.tower import embed_patches, finish, run_blocks
from indexer.learning.loop import Interrupts, run_steps
from indexer.learning.trunk import SplitTower
from retrieval.encoders.open_clip import Tower

__all__ = ["Queries", "train_map_tower", "trunk_activations"]

_TILES_AT_ONCE = 256
_WARMUP = 50


@dataclass(frozen=True)
class Queries:
    """Embedded pictures to train against: (n, dim) float32 unit rows, and the row of the tile that holds each, (n,)."""

    embeddings: Tensor
    rows: NDArray[np.int64]

    @classmethod
    def covered(cls, embeddings: Tensor, rows: NDArray[np.int64]) -> "Queries":
        """The queries that lie in a covered tile; `rows` is -1 for the others."""
        known = np.flatnonzero(rows >= 0)
        return cls(embeddings[torch.from_numpy(known)], rows[known])


def trunk_activations(tower: SplitTower, tiles: Callable[[int, int], Tensor], count: int) -> Tensor:
    """The trunk's tokens of all tiles, (count, t, width) bfloat16; `tiles(first, last)` gives prepared pictures."""
    parts = []
    with torch.no_grad():
        for first in range(0, count, _TILES_AT_ONCE):
            tokens = embed_patches(tower.first, tiles(first, min(first + _TILES_AT_ONCE, count)))
            parts.append(run_blocks(tower.first.transformer.resblocks, tokens))
    return torch.cat(parts)


def train_map_tower(
    tower: SplitTower,
    activations: Tensor,
    targets: Tensor,
    scale: float,
    queries: Queries,
    stage: MapStage,
    zoom: int,
    log: Callable[[dict[str, Any]], None],
) -> tuple[dict[str, Tensor], Tensor]:
    """Train one zoom's layers; returns them by name in fp16, and all tiles' vectors, (n, dim) float32 unit rows.

    `activations`: (n, t, width) of all tiles; `targets`: the tables' vectors, (n, dim) unit rows. There is no state:
    an interrupted zoom begins again.
    """
    tail = tower.tail()
    layers, blocks = tail.tower, list(tail.tower.transformer.resblocks)
    optimisers, rng = _optimisers(layers, stage), np.random.default_rng([zoom, 1])
    steps = stage.steps[zoom]

    def step(number: int) -> None:
        batch = rng.choice(len(queries.rows), stage.batch)
        # Even steps take random tiles and no queries, odd ones the queries' tiles.
        with_queries = number % 2 == 1
        size = min(len(targets), stage.batch)
        tiles = np.unique(queries.rows[batch] if with_queries else rng.choice(len(targets), size))
        vectors = finish(layers, run_blocks(blocks, activations[torch.from_numpy(tiles)]))
        distance = 1 - (vectors * targets[torch.from_numpy(tiles)]).sum(1).mean()
        query_loss = torch.zeros(())
        if with_queries:
            query_loss = _query_loss(vectors, tiles, targets, scale, queries, batch)
        torch.autograd.backward(distance * 4 + stage.query_share * query_loss)
        step_all(optimisers, schedule(number, steps, _WARMUP))
        if (number + 1) % 100 == 0:
            figures = {"cosine_to_table": 1 - float(distance.detach()), "query_loss": float(query_loss.detach())}
            log({"zoom": zoom, "step": number + 1, **figures})

    with Interrupts() as interrupts:
        run_steps(range(steps), step, lambda steps_done: None, steps, interrupts)
    with torch.no_grad():
        parts = torch.split(activations, _TILES_AT_ONCE)
        all_vectors = torch.cat([finish(layers, run_blocks(blocks, part)) for part in parts])
    return {name: layer.half() for name, layer in tower.layers(tail).items()}, all_vectors


def _query_loss(
    vectors: Tensor, tiles: NDArray[np.int64], targets: Tensor, scale: float, queries: Queries, batch: NDArray[np.int64]
) -> Tensor:
    """Cross-entropy of queries over all tiles; the columns of `tiles` are computed from the map tower's `vectors`."""
    embeddings = queries.embeddings[torch.from_numpy(batch)]
    logits = (embeddings.bfloat16() @ targets.bfloat16().t()).float() * scale
    logits = logits.index_copy(1, torch.from_numpy(tiles), embeddings @ vectors.t() * scale)
    return functional.cross_entropy(logits, torch.from_numpy(queries.rows[batch]))


def _optimisers(layers: Tower, stage: MapStage) -> list[torch.optim.Optimizer]:
    parameters = [p for block in layers.transformer.resblocks for p in block.parameters()]
    matrices = [p for p in parameters if p.ndim == 2]
    others = [*(p for p in parameters if p.ndim != 2), *layers.ln_post.parameters(), layers.proj]
    optimisers = [
        muon(matrices, stage.muon_lr),
        torch.optim.AdamW(others, lr=stage.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    set_full_rates(optimisers)
    return optimisers
