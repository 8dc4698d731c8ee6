"""The in-batch loss over the distinct tiles of a batch. Knows embeddings and rows; not photos, zooms or processes.

The hierarchical-search paper's loss: each photo picks its tile among the tiles of the batch's photos, by a softmax of
cosines (see docs/method.md, "Training map encoders"). Two photos of one tile are not negatives of each other: of the
columns that hold photo i's own tile, only its own counts. Written over distinct tiles this is exact and smaller: a tile
that m photos of the batch share counts m times for all other photos (log m is added to its logit) and once for its own.
"""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["in_batch_loss"]


def in_batch_loss(photos: Tensor, tiles: Tensor, rows: Tensor, scale: Tensor, *, own: slice = slice(None)) -> Tensor:
    """The share of the photos `own` in the batch's mean loss, a scalar; over processes, the shares add up to it.

    `photos`: (n, d) unit rows, the whole batch's; `tiles`: (u, d) unit rows, its distinct tiles; `rows`: (n,) int64,
    the row of `tiles` that holds each photo; `scale`: 1 / temperature. The loss of photo i is
    -log exp(s_ii) / (exp(s_ii) + sum of exp(s_ij) over photos j of other tiles).
    """
    photos_of_tile = torch.bincount(rows, minlength=len(tiles)).clamp(min=1).to(photos.dtype).log()
    own_rows = rows[own]
    extra = photos_of_tile.repeat(len(own_rows), 1)
    extra[torch.arange(len(own_rows), device=rows.device), own_rows] = 0
    logits = scale * photos[own] @ tiles.t() + extra
    return functional.cross_entropy(logits, own_rows, reduction="sum") / len(photos)
