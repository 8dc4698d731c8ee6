"""The in-batch loss, its gradients in several parts, and recall and loss on validation photos.

Knows embeddings and rows; not where tiles and photos come from, nor how the tail that embeds tiles is built.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from indexer.learning.distributed import Group
from indexer.training.pairs import Pairs

__all__ = ["RECALLS", "Embed", "Validation", "backward_in_parts", "embed_rows", "in_batch_loss", "ranks", "recalls"]

Rows = NDArray[np.int64]
Embed = Callable[[Rows], Tensor]
"""Rows of tiles, (n,), to unit embeddings, (n, d) float32 or float64."""

RECALLS = (1, 5, 10)
_PHOTOS_AT_ONCE = 2048
"""Photos compared at once: with 100,000 tiles, 800 MB of similarities."""
_TILES_AT_ONCE = 64
"""Validation tiles embedded at once."""


def in_batch_loss(photos: Tensor, tiles: Tensor, rows: Tensor, scale: Tensor, *, own: slice = slice(None)) -> Tensor:
    """The share of the photos `own` in the batch's mean loss, a scalar; over processes, the shares add up to it.

    `photos`: (n, d) unit rows, the whole batch's; `tiles`: (u, d) unit rows, its distinct tiles; `rows`: (n,) int64,
    the row of `tiles` that holds each photo; `scale`: 1 / temperature.

    The loss of the hierarchical-search paper (docs/method.md, "Training map encoders"): each photo picks its tile among
    the tiles of the batch's photos, by a softmax of cosines. Photo i's loss is
    -log exp(s_ii) / (exp(s_ii) + sum of exp(s_ij) over photos j of other tiles): two photos of one tile are not
    negatives of each other. Over distinct tiles this is exact and smaller: a tile that m photos share counts m times
    for all other photos (log m is added to its logit) and once for its own.
    """
    photos_of_tile = torch.bincount(rows, minlength=len(tiles)).clamp(min=1).to(photos.dtype).log()
    own_rows = rows[own]
    extra = photos_of_tile.repeat(len(own_rows), 1)
    extra[torch.arange(len(own_rows), device=rows.device), own_rows] = 0
    logits = scale * photos[own] @ tiles.t() + extra
    return functional.cross_entropy(logits, own_rows, reduction="sum") / len(photos)


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
    process's share of the loss. Each process embeds its share of the tiles and holds `micro_batch` graphs at a time.

    GradCache (Gao et al. 2021): all tiles are embedded without a graph; the loss gives each embedding its gradient;
    then each part is embedded again, with its graph, and its gradients are propagated back. Their sum over parts and
    processes is the whole batch's gradient.
    """
    own_rows = rows[group.share(len(rows))]
    parts = _split(own_rows, micro_batch)
    graph = embed(parts[0]) if len(parts) == 1 and len(own_rows) else None  # all fit: no second pass
    own_embeddings = graph.detach() if graph is not None else embed_rows(embed, parts)
    embeddings = group.gather(own_embeddings, len(rows)).requires_grad_(True)
    value = loss(embeddings)
    value.backward()  # type: ignore[no-untyped-call]
    assert embeddings.grad is not None
    gradients = group.add(embeddings.grad)[group.share(len(rows))]
    start = 0
    for part in parts:
        if len(part):
            with_graph = graph if graph is not None else embed(part)
            with_graph.backward(gradients[start : start + len(part)])  # type: ignore[no-untyped-call]
        start += len(part)
    _add_gradients(parameters, group)
    return group.add(value.detach())


def embed_rows(embed: Embed, parts: Iterable[Rows]) -> Tensor:
    """Embeddings of all parts, (n, d), without a graph."""
    with torch.no_grad():
        return torch.cat([embed(part) for part in parts])


def ranks(photos: Tensor, tiles: Tensor, rows: Tensor) -> NDArray[np.int64]:
    """The number of tiles more similar to each photo than its own, (n,) int64. Of equals the lower row comes first.

    `photos`: (n, d) unit rows; `tiles`: (t, d) unit rows, ascending by Morton code; `rows`: (n,) int64, the row of each
    photo's tile, on the same device.
    """
    counts = []
    for start in range(0, len(photos), _PHOTOS_AT_ONCE):
        own_rows = rows[start : start + _PHOTOS_AT_ONCE, None]
        similarity = photos[start : start + _PHOTOS_AT_ONCE] @ tiles.t()
        own = similarity.gather(1, own_rows)
        tied_before = (similarity == own) & (torch.arange(len(tiles), device=tiles.device) < own_rows)
        counts.append(((similarity > own) | tied_before).sum(1))
    return np.asarray(torch.cat(counts).cpu().numpy(), dtype=np.int64)


def recalls(tile_ranks: NDArray[np.int64]) -> dict[str, float]:
    """The shares of photos whose tile is among the first k, by `recall@k`, from `ranks`."""
    return {f"recall@{k}": float(np.mean(tile_ranks < k)) for k in RECALLS}


class Validation:
    """One zoom's validation photos and their tiles; every process embeds its share of the tiles.

    `photos`: (b, d) unit rows; `tiles`: (t,) rows of the distinct tiles, ascending by code; `columns`: (b,) int64, the
    position in `tiles` of each photo's tile.
    """

    def __init__(self, pairs: Pairs, zoom: int, group: Group, device: torch.device) -> None:
        rows = pairs.zooms[zoom].rows[pairs.validation]
        self.tiles, columns = np.unique(rows, return_inverse=True)
        self.columns = torch.from_numpy(columns).to(device)
        self.photos = pairs.embeddings[torch.from_numpy(pairs.validation)].to(device)
        self._group = group

    def embeddings(self, embed: Embed) -> Tensor:
        """The embeddings of all its tiles, (t, d) unit rows."""
        own_tiles: Rows = self.tiles[self._group.share(len(self.tiles))]
        starts = range(0, max(1, len(own_tiles)), _TILES_AT_ONCE)
        parts = [own_tiles[start : start + _TILES_AT_ONCE] for start in starts]
        return self._group.gather(embed_rows(embed, parts), len(self.tiles))

    def measure(self, embed: Embed, scale: float, *, batch: int) -> dict[str, float]:
        """`val_loss`, the mean in-batch loss over the photos in their order, `batch` at a time, and each `recall@k`.

        All processes get the first one's figures: two GPUs may differ in a last bit, but processes must agree on the
        best epoch.
        """
        tiles = self.embeddings(embed)
        figures = {"val_loss": self._loss(tiles, scale, batch), **recalls(ranks(self.photos, tiles, self.columns))}
        values = torch.tensor(list(figures.values()), dtype=torch.float64) * float(self._group.first)
        return dict(zip(figures, self._group.add(values).tolist(), strict=True))

    def _loss(self, tiles: Tensor, scale: float, batch: int) -> float:
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(self.photos), batch):
                columns = self.columns[start : start + batch]
                distinct, rows = torch.unique(columns, return_inverse=True)
                photos = self.photos[start : start + batch]
                loss = in_batch_loss(photos, tiles[distinct], rows, photos.new_tensor(scale))
                total += float(loss) * len(photos)
        return total / len(self.photos)


def _split(rows: Rows, size: int | None) -> list[Rows]:
    if size is None or len(rows) <= size:
        return [rows]
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _add_gradients(parameters: Sequence[nn.Parameter], group: Group) -> None:
    """Sum gradients over processes, as one message. A process without a gradient contributes zeros."""
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
