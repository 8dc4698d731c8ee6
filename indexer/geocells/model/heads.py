"""The linear heads over an image's embedding: a geo-embedding, and from it cells and clusters.

All three are linear, so a cell's logit is a linear function of the embedding; going through the geo-embedding lets the
contrastive loss, which acts on it, shape what cells and clusters are told apart by.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["GeoHeads", "HeadOutput"]


class HeadOutput(NamedTuple):
    """Geo-embeddings (n, e), logits of cells (n, c) and of clusters (n, m)."""

    embedding: Tensor
    cells: Tensor
    clusters: Tensor


class GeoHeads(nn.Module):
    """`dim`: numbers in an embedding; `geo_dim`: in a geo-embedding. First weights follow from the seed."""

    def __init__(self, dim: int, geo_dim: int, cells: int, clusters: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embedding = nn.Linear(dim, geo_dim)
            self.cells = nn.Linear(geo_dim, cells)
            self.clusters = nn.Linear(geo_dim, clusters)
        self._scale = math.sqrt(dim)

    def forward(self, features: Tensor) -> HeadOutput:
        """(n, dim) unit rows to all three. Rows are scaled to entries of about 1, which a rate of 1e-3 suits."""
        embedding = self.embedding(features * self._scale)
        return HeadOutput(embedding, self.cells(embedding), self.clusters(embedding))
