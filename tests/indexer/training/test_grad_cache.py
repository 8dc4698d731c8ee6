"""Gradients in parts against those of plain autograd over the whole batch."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from indexer.learning.distributed import Group
from indexer.training.loss import backward_in_parts, embed_rows, in_batch_loss


class Setting:
    """A small net over random inputs, photos, and the rows of their tiles."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 8)).to(dtype)
        self.inputs = torch.randn(30, 6, dtype=dtype)
        self.photos = functional.normalize(torch.randn(40, 8, dtype=dtype), dim=1)
        self.log_scale = nn.Parameter(torch.tensor(2.0, dtype=dtype))
        self.tiles, column = np.unique(np.random.default_rng(0).integers(0, 30, 40), return_inverse=True)
        self.rows = torch.from_numpy(column)
        self.parameters = [*self.net.parameters(), self.log_scale]
        self.graphs = 0

    def embed(self, rows: np.ndarray) -> Tensor:
        if torch.is_grad_enabled():
            self.graphs = max(self.graphs, len(rows))
        return functional.normalize(self.net(self.inputs[torch.from_numpy(rows)]), dim=1)

    def loss(self, tiles: Tensor) -> Tensor:
        return in_batch_loss(self.photos, tiles, self.rows, self.log_scale.exp())

    def gradients(self) -> Tensor:
        taken = torch.cat([p.grad.reshape(-1) for p in self.parameters if p.grad is not None]).clone()
        for p in self.parameters:
            p.grad = None
        return taken


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("micro_batch", [None, 1, 4, 7, 1000])
def test_gradients_in_parts_equal_those_of_the_batch(
    dtype: torch.dtype, tolerance: float, micro_batch: int | None
) -> None:
    s = Setting(dtype)
    whole = s.loss(s.embed(s.tiles))
    whole.backward()
    plain, s.graphs = s.gradients(), 0
    value = backward_in_parts(s.embed, s.tiles, s.loss, Group(), micro_batch, s.parameters)
    assert float(value) == pytest.approx(float(whole.detach()), rel=1e-6)
    assert (s.gradients() - plain).abs().max() < tolerance
    assert s.graphs == min(micro_batch or 1000, len(s.tiles))  # no more is held at once


def test_embed_rows_builds_no_graph() -> None:
    s = Setting(torch.float32)
    assert not embed_rows(s.embed, [s.tiles[:3], s.tiles[3:]]).requires_grad
    assert s.graphs == 0
