"""The in-batch losses, over the distinct tiles of a batch. Knows embeddings and rows, not photos, zooms or processes.

Paper H's: each photo picks its tile among the tiles of the batch's photos, a softmax of cosines. Two photos of one tile
are no negatives of each other: of the columns that hold photo i's own tile only its own stays. Written over distinct
tiles this is exact and smaller: a tile that m photos of the batch share counts m times for all other photos (log m is
added to its logit) and once for its own.
"""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["in_batch_loss"]


def in_batch_loss(
    photos: Tensor, tiles: Tensor, rows: Tensor, scale: Tensor, *, symmetric: bool = False, own: slice = slice(None)
) -> Tensor:
    """The share of photos `own` in the batch's mean loss, a scalar: over processes, the shares add up to it.

    `photos`: (n, d) unit rows, the whole batch's; `tiles`: (u, d) unit rows, its distinct tiles; `rows`: (n,) int64,
    where in `tiles` each photo's tile is; `scale`: 1 / temperature. `symmetric` is the mean of both directions.
    """
    loss = _photos_to_tiles(photos, tiles, rows, scale, own)
    if symmetric:
        loss = (loss + _tiles_to_photos(photos, tiles, rows, scale, own)) / 2
    return loss / len(photos)


def _photos_to_tiles(photos: Tensor, tiles: Tensor, rows: Tensor, scale: Tensor, own: slice) -> Tensor:
    """Sum over `own` of -log exp(s_ii) / (exp(s_ii) + sum of exp(s_ij) over photos j of other tiles)."""
    times = torch.bincount(rows, minlength=len(tiles)).clamp(min=1).to(photos.dtype).log()
    mine = rows[own]
    extra = times.repeat(len(mine), 1)
    extra[torch.arange(len(mine), device=rows.device), mine] = 0
    return functional.cross_entropy(scale * photos[own] @ tiles.t() + extra, mine, reduction="sum")


def _tiles_to_photos(photos: Tensor, tiles: Tensor, rows: Tensor, scale: Tensor, own: slice) -> Tensor:
    """Sum over `own` of -log exp(s_jj) / (exp(s_jj) + sum of exp(s_ij) over photos i of other tiles)."""
    seen, column = torch.unique(rows[own], return_inverse=True)
    logits = scale * photos @ tiles[seen].t()
    # A finite stand-in for minus infinity: a batch of one tile alone then has loss 0 and gradients of 0, not nan.
    nothing = torch.finfo(logits.dtype).min / 4
    others = logits.masked_fill(rows[:, None] == seen[None, :], nothing).logsumexp(0)
    right = logits[own][torch.arange(len(column), device=rows.device), column]
    return (torch.logaddexp(right, others[column]) - right).sum()
