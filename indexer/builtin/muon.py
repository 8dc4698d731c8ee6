"""Muon for the matrices of the tower's blocks, AdamW for everything else, as one resumable optimiser.

Muon (Keller Jordan, 2024): momentum, orthogonalised by a quintic Newton-Schulz iteration, so that every direction of a
weight matrix moves at the same rate. Matrices of one shape are stacked: six blocks cost one batched product.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon over 2-D parameters; `lr` is the root-mean-square change of an entry a step, in units of 0.2."""

    def __init__(self, params: Sequence[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        super().__init__(list(params), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients that are there."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for same in by_shape.values():
                self._update(same, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, params: list[nn.Parameter], lr: float, momentum: float, weight_decay: float) -> None:
        pushes = []
        for p in params:
            buffer = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
            gradient = p.grad
            assert gradient is not None
            buffer.lerp_(gradient, 1 - momentum)
            pushes.append(torch.lerp(gradient, buffer, momentum))
        scale = 0.2 * max(params[0].shape) ** 0.5  # an orthogonal matrix's entries have RMS 1 / sqrt(longer side)
        for p, update in zip(params, orthogonalise(torch.stack(pushes)), strict=True):
            p.mul_(1 - lr * weight_decay).add_(update, alpha=-lr * scale)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Stacked matrices (b, m, n) to the nearest (semi-)orthogonal ones, roughly; bfloat16 inside, float32 out."""
    a, b, c = _QUINTIC
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.transpose(1, 2) if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = (x.transpose(1, 2) if tall else x).float()
    return found
