"""The losses equal plain NumPy, and their gradients equal finite differences."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from indexer.geocells.model.loss import contrastive_loss, haversine_km, haversine_loss, smoothed_targets
from retrieval.sphere import great_circle_km

Floats = NDArray[np.float64]


def log_softmax(x: Floats) -> Floats:
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def plain_haversine(logits: Floats, km: Floats, own: NDArray[np.int64], tau: float) -> float:
    """PIGEON's smoothed cross-entropy, computed for one photo and cell at a time."""
    total = 0.0
    for n, row in enumerate(log_softmax(logits)):
        for i, log_p in enumerate(row):
            total -= min(1.0, np.exp(-(km[n, i] - km[n, own[n]]) / tau)) * log_p
    return total / len(logits)


def plain_contrastive(rows: Floats, km: Floats, temperature: float, reach: float) -> float:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    total = 0.0
    for i in range(len(rows)):
        others = [j for j in range(len(rows)) if j != i]
        q = np.exp(-km[i, others] / reach)
        log_p = log_softmax((unit[others] @ unit[i] / temperature)[None])[0]
        total -= (q / q.sum() * log_p).sum()
    return total / len(rows)


@pytest.fixture
def places() -> tuple[Floats, Floats]:
    """Seven photos and five centroids, some across the date line and one at a pole."""
    rng = np.random.default_rng(1)
    photos = np.stack([rng.uniform(-80, 80, 7), rng.uniform(-180, 180, 7)], 1)
    return photos, np.array([[0.0, 179.9], [1.0, -179.8], [90.0, 0.0], [-45.0, 20.0], [-44.0, 21.0]])


def near_kilometres(places: tuple[Floats, Floats]) -> tuple[Floats, NDArray[np.int64]]:
    photos, cells = places
    km = great_circle_km(photos[:, None, 1], photos[:, None, 0], cells[None, :, 1], cells[None, :, 0])
    return km, km.argmin(1)


def differences(value: object, at: Floats, step: float = 1e-6) -> Floats:
    """The gradient of a function of an array, by central differences."""
    assert callable(value)
    gradient = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        gradient[place] = (value(up) - value(down)) / (2 * step)
    return gradient


def test_distances_equal_those_of_the_sphere_module(places: tuple[Floats, Floats]) -> None:
    photos, cells = places
    km = haversine_km(torch.from_numpy(photos), torch.from_numpy(cells)).numpy()
    np.testing.assert_allclose(km, near_kilometres(places)[0], atol=1e-6)


def test_own_target_is_1_and_no_target_is_larger(places: tuple[Floats, Floats]) -> None:
    km, own = near_kilometres(places)
    own = (own + 1) % 5  # the own centre is not the nearest, as may happen with clusters
    targets = smoothed_targets(torch.from_numpy(km), torch.from_numpy(own), 75.0).numpy()
    assert np.all(targets[np.arange(7), own] == 1)
    assert targets.max() == 1


def test_haversine_loss_and_its_gradient(places: tuple[Floats, Floats]) -> None:
    km, own = near_kilometres(places)
    logits = np.random.default_rng(2).normal(0, 2, km.shape)
    tensor = torch.from_numpy(logits).requires_grad_(True)
    targets = smoothed_targets(torch.from_numpy(km), torch.from_numpy(own), 800.0)
    loss = haversine_loss(tensor, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(plain_haversine(logits, km, own, 800.0), rel=1e-12)
    assert tensor.grad is not None
    expected = differences(lambda x: plain_haversine(x, km, own, 800.0), logits)
    np.testing.assert_allclose(tensor.grad.numpy(), expected, atol=1e-8)
    assert torch.autograd.gradcheck(lambda x: haversine_loss(x, targets), tensor)


def test_contrastive_loss_and_its_gradient(places: tuple[Floats, Floats]) -> None:
    photos, _ = places
    km = great_circle_km(photos[:, None, 1], photos[:, None, 0], photos[None, :, 1], photos[None, :, 0])
    rows = np.random.default_rng(3).normal(0, 1, (7, 4))
    tensor = torch.from_numpy(rows).requires_grad_(True)
    loss = contrastive_loss(tensor, torch.from_numpy(km), 0.3, 2000.0)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == pytest.approx(plain_contrastive(rows, km, 0.3, 2000.0), rel=1e-12)
    assert tensor.grad is not None
    expected = differences(lambda x: plain_contrastive(x, km, 0.3, 2000.0), rows)
    np.testing.assert_allclose(tensor.grad.numpy(), expected, atol=1e-8)
    assert torch.autograd.gradcheck(lambda x: contrastive_loss(x, torch.from_numpy(km), 0.3, 2000.0), tensor)


def test_contrastive_loss_moves_near_photos_together() -> None:
    """Four photos, two of Paris and two of Lima: descent brings each pair together and the pairs apart."""
    lat_lng = torch.tensor([[48.8, 2.3], [-12.0, -77.0], [48.9, 2.4], [-12.1, -77.1]], dtype=torch.float64)
    rows = torch.randn(4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    optimiser = torch.optim.SGD([rows], lr=0.5)
    for _ in range(200):
        optimiser.zero_grad()
        contrastive_loss(rows, haversine_km(lat_lng, lat_lng), 0.5, 500.0).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    unit = torch.nn.functional.normalize(rows.detach(), dim=1)
    cosines = unit @ unit.t()
    assert min(cosines[0, 2], cosines[1, 3]) > 0.95
    assert max(cosines[0, 1], cosines[0, 3], cosines[1, 2], cosines[2, 3]) < 0
