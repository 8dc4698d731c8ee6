"""The losses against their definitions, written out in float64 over all pairs of a batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from indexer.training.loss import in_batch_loss


def unit(rng: np.random.Generator, n: int, d: int = 5) -> np.ndarray:
    rows = rng.standard_normal((n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force(photos: np.ndarray, tiles: np.ndarray, ids: list[int], scale: float, symmetric: bool) -> float:
    """One photo at a time: its own tile against the tiles of all photos that are of another tile."""
    n = len(ids)
    s = scale * photos @ tiles[ids].T
    there = [-s[i, i] + np.log(sum(np.exp(s[i, j]) for j in range(n) if j == i or ids[j] != ids[i])) for i in range(n)]
    back = [-s[j, j] + np.log(sum(np.exp(s[i, j]) for i in range(n) if i == j or ids[j] != ids[i])) for j in range(n)]
    return float((np.mean(there) + np.mean(back)) / 2 if symmetric else np.mean(there))


@given(
    ids=st.lists(st.integers(0, 6), min_size=1, max_size=14),
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.5, 50),
    symmetric=st.booleans(),
    processes=st.integers(1, 4),
)
def test_the_loss_is_its_definition(ids: list[int], seed: int, scale: float, symmetric: bool, processes: int) -> None:
    """Also in shares of several processes, and with tiles that hold one photo, several, or all of the batch."""
    rng = np.random.default_rng(seed)
    distinct = sorted(set(ids))
    rows = [distinct.index(i) for i in ids]
    photos, tiles = unit(rng, len(ids)), unit(rng, len(distinct))
    wanted = brute_force(photos, tiles, rows, scale, symmetric)
    n = len(ids)
    shares = [slice(n * r // processes, n * (r + 1) // processes) for r in range(processes)]
    arguments = (
        torch.from_numpy(photos),
        torch.from_numpy(tiles),
        torch.tensor(rows),
        torch.tensor(scale, dtype=torch.float64),
    )
    found = [float(in_batch_loss(*arguments, symmetric=symmetric, own=own)) for own in shares]
    assert sum(found) == pytest.approx(wanted, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_are_the_losss(symmetric: bool) -> None:
    rng = np.random.default_rng(0)
    photos = torch.from_numpy(unit(rng, 6)).requires_grad_(True)
    tiles = torch.from_numpy(unit(rng, 4)).requires_grad_(True)
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, 1, 1, 2, 3, 1])
    own = slice(1, 5)
    assert torch.autograd.gradcheck(
        lambda p, t, s: in_batch_loss(p, t, rows, s, symmetric=symmetric, own=own), (photos, tiles, scale)
    )


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_batch_of_one_tile_teaches_nothing(symmetric: bool) -> None:
    """Nor does it spoil anything: the gradient is zero, not nan."""
    rng = np.random.default_rng(1)
    photos = torch.from_numpy(unit(rng, 5)).float()
    tiles = torch.from_numpy(unit(rng, 1)).float().requires_grad_(True)
    loss = in_batch_loss(photos, tiles, torch.zeros(5, dtype=torch.int64), torch.tensor(20.0), symmetric=symmetric)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert tiles.grad is not None
    assert torch.equal(tiles.grad, torch.zeros_like(tiles))


def test_a_second_photo_of_a_tile_is_no_negative() -> None:
    """It leaves the first one's term as it was, and counts once more for photos of other tiles."""
    rng = np.random.default_rng(2)
    photos, tiles = torch.from_numpy(unit(rng, 3)), torch.from_numpy(unit(rng, 2))
    scale, first = torch.tensor(5.0, dtype=torch.float64), slice(0, 1)
    alone = in_batch_loss(photos[:2], tiles, torch.tensor([0, 1]), scale, own=first) * 2
    joined = in_batch_loss(photos, tiles, torch.tensor([0, 1, 0]), scale, own=first) * 3
    assert float(joined) == pytest.approx(float(alone), rel=1e-12)
    other = slice(1, 2)
    before = in_batch_loss(photos[:2], tiles, torch.tensor([0, 1]), scale, own=other) * 2
    after = in_batch_loss(photos, tiles, torch.tensor([0, 1, 0]), scale, own=other) * 3
    assert float(after) > float(before)
