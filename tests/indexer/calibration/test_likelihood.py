"""The likelihood in torch compared with the served posterior, over padded chunks of different cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.calibration.cases import Case, Chunk, chunks_of
from indexer.calibration.likelihood import Free, log_posterior, maximise, negative_log_likelihood
from retrieval.index.calibration import ZoomNumbers
from retrieval.search.posterior import share


def case(rng: np.random.Generator) -> Case:
    """Several parents with at least one candidate each, as in a descent; the mass above is not 1."""
    parents, more = rng.integers(1, 9), rng.integers(0, 40)
    slots = np.sort(np.concatenate([np.arange(parents), rng.integers(0, parents, more)]))
    similarities, around = rng.uniform(-1, 1, (2, len(slots))).astype(np.float32)
    return Case(-rng.exponential(4, parents), slots, similarities, around, int(rng.integers(len(slots))))


numbers = st.builds(
    ZoomNumbers,
    tau=st.floats(1e-4, 10),
    gamma=st.floats(-1, 3),
    kappa=st.just(0.0) | st.floats(0.001, 0.999),
    rho=st.just(1.0) | st.floats(-1, 2),
)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), numbers)
def test_likelihood_equals_the_served_posterior(seed: int, count: int, numbers: ZoomNumbers) -> None:
    rng = np.random.default_rng(seed)
    cases = [case(rng) for _ in range(count)]
    chunk, free = Chunk.of(cases), Free.start(numbers, neighbours=numbers.kappa > 0)
    found = (log_posterior(chunk, free) + chunk.log_total[:, None]).detach().numpy()
    for row, c in zip(found, cases, strict=True):
        scores = c.similarities + numbers.kappa * (c.around.astype(float) - c.similarities)
        expected = share(c.log_mass, c.slots, scores, numbers).log_mass  # type: ignore[arg-type]  # wider than served
        assert row[: len(c.slots)] == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert (row[len(c.slots) :] == -np.inf).all()
    nll = float(negative_log_likelihood(chunk, free).detach())
    assert nll == pytest.approx(-sum(row[c.truth] for row, c in zip(found, cases, strict=True)), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("kappa", [0.0, 0.4])
def test_gradients_equal_finite_differences(kappa: float) -> None:
    rng = np.random.default_rng(1)
    chunk = Chunk.of([case(rng) for _ in range(20)])
    free = Free.start(ZoomNumbers(0.3, 0.8, kappa=kappa, rho=0.6), neighbours=kappa > 0)
    parameters = free.parameters(parents=True)
    torch.autograd.backward(negative_log_likelihood(chunk, free))
    for parameter in parameters:
        with torch.no_grad():
            values = []
            for step in (1e-5, -1e-5):
                parameter += step
                values.append(float(negative_log_likelihood(chunk, free)))
                parameter -= step
        assert float(parameter.grad) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-4)


def test_chunks_hold_every_case_once() -> None:
    rng = np.random.default_rng(2)
    cases = [case(rng) for _ in range(600)]
    chunks = chunks_of(cases)
    assert sum(len(chunk.truth) for chunk in chunks) == len(cases)
    free = Free.start(ZoomNumbers(0.3, 0.8), neighbours=False)
    together = sum(float(negative_log_likelihood(chunk, free).detach()) for chunk in chunks)
    one_by_one = sum(float(negative_log_likelihood(Chunk.of([c]), free).detach()) for c in cases)
    assert together == pytest.approx(one_by_one, rel=1e-9)


def test_fit_ends_when_the_true_candidate_is_always_best() -> None:
    """The true candidate is always the most similar, so no tau is too low; the fit must end anyway."""
    rng = np.random.default_rng(3)
    cases = [case(rng) for _ in range(200)]
    sure = [
        c._replace(truth=int(c.similarities.argmax()), log_mass=np.full(len(c.log_mass), -np.log(len(c.log_mass))))
        for c in cases
    ]
    found, loss = maximise(chunks_of(sure), ZoomNumbers(0.05), neighbours=False)
    assert 0 <= loss < 0.05
    assert 1e-6 < found.tau < 0.05
