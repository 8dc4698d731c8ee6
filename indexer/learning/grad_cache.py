"""Gradients of a loss over many embeddings, with the graph of a few in memory at a time (GradCache, Gao et al. 2021).

All tiles are embedded without a graph; the loss gives each embedding its gradient; then each part is embedded again
with its graph and takes its share backwards. The sum over parts, and over processes, is the whole batch's gradient.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indexer.learning.distributed import Group

__all__ = ["Embed", "backward_in_parts", "embed_rows"]

Rows = NDArray[np.int64]
Embed = Callable[[Rows], Tensor]
"""Rows of tiles, (n,), to unit embeddings, (n, d) float32 or float64."""


def backward_in_parts(
    embed: Embed,
    rows: Rows,
    loss: Callable[[Tensor], Tensor],
    group: Group,
    micro_batch: int | None,
    parameters: Sequence[nn.Parameter],
) -> Tensor:
    """Leave d(loss of all processes)/d(parameter) in every parameter's `.grad`; returns that loss, a scalar.

    `rows`: (u,) the batch's distinct tiles, equal in all processes; `loss`: all their embeddings, (u, d), to this
    process's share of the loss. Each process embeds its part of the tiles and holds `micro_batch` graphs at a time.
    """
    mine = rows[group.share(len(rows))]
    parts = _parts(mine, micro_batch)
    graph = embed(parts[0]) if len(parts) == 1 and len(mine) else None  # all fit: no second pass
    seen = graph.detach() if graph is not None else embed_rows(embed, parts)
    every = group.gather(seen, len(rows)).requires_grad_(True)
    value = loss(every)
    value.backward()  # type: ignore[no-untyped-call]
    assert every.grad is not None
    wanted = group.add(every.grad)[group.share(len(rows))]
    start = 0
    for part in parts:
        if len(part):
            made = graph if graph is not None else embed(part)
            made.backward(wanted[start : start + len(part)])  # type: ignore[no-untyped-call]
        start += len(part)
    _add_gradients(parameters, group)
    return group.add(value.detach())


def embed_rows(embed: Embed, parts: Iterable[Rows]) -> Tensor:
    """Embeddings of all parts, (n, d), without a graph."""
    with torch.no_grad():
        return torch.cat([embed(part) for part in parts])


def _parts(rows: Rows, size: int | None) -> list[Rows]:
    if size is None or len(rows) <= size:
        return [rows]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _add_gradients(parameters: Sequence[nn.Parameter], group: Group) -> None:
    """Sum gradients over processes, as one message; where a process had none, its share is zero."""
    if group.size == 1:
        return
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
    flat = group.add(torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None]))
    start = 0
    for p in parameters:
        assert p.grad is not None
        p.grad.copy_(flat[start : start + p.numel()].view_as(p))
        start += p.numel()
