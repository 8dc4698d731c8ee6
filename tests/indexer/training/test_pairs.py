"""Pairs: photos with their tiles, saved and read back, and the order of an epoch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from indexer.errors import TrainingError
from indexer.training.pairs import Pairs, steps_per_epoch
from tile_cache.addressing import codes_at


def some_pairs(n: int = 30) -> tuple[Pairs, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    lng, lat = rng.uniform(-180, 180, n), rng.uniform(-80, 80, n)
    split = np.array(["train", "test", "validation"], dtype=object)[rng.integers(0, 3, n)]
    vectors = rng.standard_normal((n, 4)).astype(np.float32)
    return Pairs.of(vectors, lng, lat, split, (2, 5)), lng, lat, split


def test_each_photo_has_the_row_of_its_tile() -> None:
    pairs, lng, lat, split = some_pairs()
    used = split != "test"
    for z in (2, 5):
        assert np.array_equal(pairs.zooms[z].codes[pairs.zooms[z].rows], codes_at(lng[used], lat[used], z))
        assert np.all(np.diff(pairs.zooms[z].codes.astype(np.int64)) > 0)
    assert np.array_equal(split[used][pairs.train], np.full(len(pairs.train), "train"))
    assert np.array_equal(split[used][pairs.validation], np.full(len(pairs.validation), "validation"))


def test_pairs_are_read_as_saved(tmp_path: Path) -> None:
    pairs = some_pairs()[0]
    pairs.save(tmp_path / "pairs.state", {"rejected": {"no tile": 3}})
    loaded, notes = Pairs.load(tmp_path / "pairs.state")
    assert notes == {"rejected": {"no tile": 3}}
    assert torch.equal(loaded.embeddings, pairs.embeddings)
    assert loaded.zooms[5].codes.dtype == np.uint64
    for z in (2, 5):
        assert np.array_equal(loaded.zooms[z].codes, pairs.zooms[z].codes)
        assert np.array_equal(loaded.zooms[z].rows, pairs.zooms[z].rows)
    assert np.array_equal(loaded.train, pairs.train)
    assert np.array_equal(loaded.validation, pairs.validation)


def test_truncated_pairs_are_refused_by_name(tmp_path: Path) -> None:
    some_pairs()[0].save(tmp_path / "pairs.state", {})
    whole = (tmp_path / "pairs.state").read_bytes()
    (tmp_path / "pairs.state").write_bytes(whole[:-7])
    with pytest.raises(TrainingError, match=r"pairs.state is not a training state"):
        Pairs.load(tmp_path / "pairs.state")


def test_order_depends_on_seed_zoom_and_epoch_only() -> None:
    pairs = some_pairs()[0]
    order = pairs.order(1, 5, 2)
    assert sorted(order) == sorted(pairs.train)
    assert np.array_equal(order, pairs.order(1, 5, 2))
    others = [pairs.order(*other) for other in ((2, 5, 2), (1, 2, 2), (1, 5, 3))]
    assert not any(np.array_equal(order, other) for other in others)


def test_steps_are_whole_batches() -> None:
    assert [steps_per_epoch(n, 8) for n in (8, 15, 16)] == [1, 1, 2]
    with pytest.raises(
        TrainingError, match="7 training photos, fewer than one batch of 8: give a --batch of at most 7"
    ):
        steps_per_epoch(7, 8)
