"""The in-batch loss against its definition, written out in float64 over all pairs of a batch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from indexer.training.loss import in_batch_loss, ranks, recalls


def unit(rng: np.random.Generator, n: int, d: int = 5) -> np.ndarray:
    rows = rng.standard_normal((n, d))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force(photos: np.ndarray, tiles: np.ndarray, ids: list[int], scale: float) -> float:
    """One photo at a time: its own tile against the tiles of all photos that are of another tile."""
    n = len(ids)
    s = scale * photos @ tiles[ids].T
    losses = [-s[i, i] + np.log(sum(np.exp(s[i, j]) for j in range(n) if j == i or ids[j] != ids[i])) for i in range(n)]
    return float(np.mean(losses))


@given(
    ids=st.lists(st.integers(0, 6), min_size=1, max_size=14),
    seed=st.integers(0, 2**32 - 1),
    scale=st.floats(0.5, 50),
    processes=st.integers(1, 4),
)
def test_loss_equals_its_definition(ids: list[int], seed: int, scale: float, processes: int) -> None:
    """Also in shares of several processes, and with tiles that hold one photo, several, or all of the batch."""
    rng = np.random.default_rng(seed)
    distinct = sorted(set(ids))
    rows = [distinct.index(i) for i in ids]
    photos, tiles = unit(rng, len(ids)), unit(rng, len(distinct))
    expected = brute_force(photos, tiles, rows, scale)
    n = len(ids)
    shares = [slice(n * r // processes, n * (r + 1) // processes) for r in range(processes)]
    arguments = (
        torch.from_numpy(photos),
        torch.from_numpy(tiles),
        torch.tensor(rows),
        torch.tensor(scale, dtype=torch.float64),
    )
    losses = [float(in_batch_loss(*arguments, own=own)) for own in shares]
    assert sum(losses) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_gradients_match_finite_differences() -> None:
    rng = np.random.default_rng(0)
    photos = torch.from_numpy(unit(rng, 6)).requires_grad_(True)
    tiles = torch.from_numpy(unit(rng, 4)).requires_grad_(True)
    scale = torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, 1, 1, 2, 3, 1])
    own = slice(1, 5)
    assert torch.autograd.gradcheck(lambda p, t, s: in_batch_loss(p, t, rows, s, own=own), (photos, tiles, scale))


def test_batch_of_one_tile_has_zero_loss_and_gradient() -> None:
    """Zero, not nan."""
    rng = np.random.default_rng(1)
    photos = torch.from_numpy(unit(rng, 5)).float()
    tiles = torch.from_numpy(unit(rng, 1)).float().requires_grad_(True)
    loss = in_batch_loss(photos, tiles, torch.zeros(5, dtype=torch.int64), torch.tensor(20.0))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
    assert tiles.grad is not None
    assert torch.equal(tiles.grad, torch.zeros_like(tiles))


def test_second_photo_of_a_tile_is_not_a_negative() -> None:
    """The first photo's term stays the same; for photos of other tiles the tile counts twice."""
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


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 12))
def test_rank_is_the_position_in_the_order_of_similarity(seed: int, photos: int, tiles: int) -> None:
    """Values are coarse, so that many are equal; of equals the lower row comes first."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-1, 2, (photos, 3)), rng.integers(-1, 2, (tiles, 3))
    rows = rng.integers(0, tiles, photos)
    order = np.argsort(-(a @ b.T), axis=1, kind="stable")
    expected = [int(np.flatnonzero(order[i] == rows[i])[0]) for i in range(photos)]
    actual = ranks(torch.from_numpy(a).float(), torch.from_numpy(b).float(), torch.from_numpy(rows))
    assert actual.tolist() == expected


def test_recall_is_the_share_of_photos_whose_tile_is_among_the_first_k() -> None:
    assert recalls(np.array([0, 0, 3, 5, 12])) == {"recall@1": 0.4, "recall@5": 0.6, "recall@10": 0.8}
