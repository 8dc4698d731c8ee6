"""The posterior of one zoom as a differentiable function of its numbers, and the likeliest numbers.

The formula is that of `retrieval.search.posterior.share` (docs/method.md, "The posterior"), in torch and over many
pictures at once. A test compares the two. Symbols are explained in docs/method.md.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from indexer.calibration.cases import Chunk
from retrieval.index.calibration import ZoomNumbers

_STEPS = 60


@dataclass
class Free:
    """A zoom's numbers as unbounded parameters, on scales where all are near 1."""

    log_tau: Tensor
    gamma: Tensor
    kappa_logit: Tensor | None  # None: kappa is 0
    rho: Tensor
    lam_root: Tensor | None  # lambda is its square, so never negative and possibly 0; None without a prior

    @classmethod
    def start(cls, numbers: ZoomNumbers, *, neighbours: bool, prior: bool = False) -> "Free":
        """Parameters at these numbers. Without `neighbours` kappa is 0; without `prior` lambda has no effect."""
        share = min(max(numbers.kappa, 1e-3), 1 - 1e-3)
        kappa = _free(math.log(share / (1 - share))) if neighbours else None
        root = _free(math.sqrt(numbers.lam)) if prior else None
        return cls(_free(math.log(numbers.tau)), _free(numbers.gamma), kappa, _free(numbers.rho), root)

    def parameters(self, *, parents: bool) -> list[Tensor]:
        """The parameters to fit. Without several `parents`, gamma and rho have no effect and are left out."""
        own = [v for v in (self.log_tau, self.kappa_logit, self.lam_root) if v is not None]
        return [*own, self.gamma, self.rho] if parents else own

    def numbers(self, like: ZoomNumbers) -> ZoomNumbers:
        """As plain numbers; b, and lambda without a prior, are those of `like`."""
        lam = like.lam if self.lam_root is None else float(self.lam_root.detach()) ** 2
        kappa = 0.0 if self.kappa_logit is None else float(torch.sigmoid(self.kappa_logit.detach()))
        tau = math.exp(float(self.log_tau.detach()))
        gamma, rho = float(self.gamma.detach()), float(self.rho.detach())
        return replace(like, tau=tau, gamma=gamma, lam=lam, kappa=kappa, rho=rho)


def log_posterior(chunk: Chunk, free: Free) -> Tensor:
    """Log of each candidate's share of the mass above, (n, c) float64; -inf where padded."""
    scores = chunk.similarities
    if free.kappa_logit is not None:
        scores = scores + torch.sigmoid(free.kappa_logit) * (chunk.around - scores)
    weights = scores * torch.exp(-free.log_tau)
    if free.lam_root is not None and chunk.gains is not None:
        weights = weights + free.lam_root**2 * chunk.gains
    weights = torch.where(chunk.present, weights, -torch.inf)
    inclusive = _log_sums(weights, chunk.slots, chunk.log_share.shape[1])
    known = torch.isfinite(chunk.log_share) & torch.isfinite(inclusive)
    share, inclusive = (torch.where(known, v, torch.zeros(())) for v in (chunk.log_share, inclusive))
    of_parent = torch.where(known, free.gamma * share + free.rho * inclusive, -torch.inf)
    of_parent = torch.log_softmax(of_parent, 1)
    offset = torch.where(known, of_parent - inclusive, torch.zeros(()))
    padded = torch.cat([offset, torch.zeros_like(offset[:, :1])], 1)  # padded candidates have slot m
    return weights + padded.gather(1, chunk.slots)


def negative_log_likelihood(chunk: Chunk, free: Free) -> Tensor:
    """Minus the log of the true candidates' masses, summed over the chunk's pictures."""
    log_share = log_posterior(chunk, free).gather(1, chunk.truth[:, None])[:, 0]
    return -(log_share + chunk.log_total).sum()


def minimise(parameters: list[Tensor], losses: Sequence[Callable[[], Tensor]], count: int) -> float:
    """Minimise the sum of `losses` / count by L-BFGS, in place; returns the last value.

    Gradients are taken one loss at a time, so only one graph is in memory.
    """
    optimiser = torch.optim.LBFGS(
        parameters, lr=0.5, max_iter=_STEPS, tolerance_grad=1e-5, tolerance_change=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for part in losses:
            loss = part() / count
            torch.autograd.backward(loss)
            total += loss.detach()
        return total

    optimiser.step(closure)  # type: ignore[no-untyped-call]  # torch leaves L-BFGS untyped
    with torch.no_grad():
        return float(sum(loss() for loss in losses)) / count


def maximise(chunks: Sequence[Chunk], start: ZoomNumbers, *, neighbours: bool) -> tuple[ZoomNumbers, float]:
    """The likeliest numbers of a zoom and their mean negative log-likelihood in nats. A lambda of 0 stays 0."""
    free = Free.start(start, neighbours=neighbours, prior=start.lam > 0)
    count = sum(len(chunk.truth) for chunk in chunks)
    parents = any(chunk.log_share.shape[1] > 1 for chunk in chunks)
    losses = [partial(negative_log_likelihood, chunk, free) for chunk in chunks]
    loss = minimise(free.parameters(parents=parents), losses, count)
    return free.numbers(start), loss


def _log_sums(weights: Tensor, slots: Tensor, parents: int) -> Tensor:
    """Log-sum of exp weights, (n, c), over each parent's candidates, (n, m); -inf for a parent without candidates."""
    # Weights are taken relative to their own parent's largest, as another parent's could make all of them underflow.
    # The largest is a constant to the gradient, which is exact without it.
    empty = torch.full((len(weights), parents + 1), -torch.inf, dtype=weights.dtype)
    tops = empty.scatter_reduce(1, slots, weights.detach(), "amax")
    tops = torch.where(torch.isfinite(tops), tops, torch.zeros(()))
    exponentials = torch.exp(weights - tops.gather(1, slots))
    sums = torch.zeros_like(empty).scatter_add(1, slots, exponentials)[:, :-1]
    present = sums > 0
    return torch.where(present, torch.log(torch.where(present, sums, torch.ones(()))) + tops[:, :-1], -torch.inf)


def _free(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)
