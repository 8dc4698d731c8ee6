"""Pairs, log and recall: what a run writes and reads back, and how often a photo finds its tile."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from indexer.errors import TrainingError
from indexer.learning.log import COLUMNS, TrainingLog
from indexer.training.pairs import Pairs, steps_per_epoch
from indexer.training.recall import ranks, recalls
from tile_cache.addressing import codes_at

# Pairs


def some_pairs(n: int = 30) -> tuple[Pairs, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    lng, lat = rng.uniform(-180, 180, n), rng.uniform(-80, 80, n)
    split = np.array(["train", "test", "validation"], dtype=object)[rng.integers(0, 3, n)]
    vectors = rng.standard_normal((n, 4)).astype(np.float32)
    return Pairs.of(vectors, lng, lat, split, (2, 5)), lng, lat, split


def test_each_photo_stands_beside_its_tile() -> None:
    pairs, lng, lat, split = some_pairs()
    used = split != "test"
    for z in (2, 5):
        assert np.array_equal(pairs.zooms[z].codes[pairs.zooms[z].rows], codes_at(lng[used], lat[used], z))
        assert np.all(np.diff(pairs.zooms[z].codes.astype(np.int64)) > 0)
    assert np.array_equal(split[used][pairs.train], np.full(len(pairs.train), "train"))
    assert np.array_equal(split[used][pairs.validation], np.full(len(pairs.validation), "validation"))


def test_pairs_come_back_as_they_were(tmp_path: Path) -> None:
    pairs = some_pairs()[0]
    pairs.save(tmp_path / "pairs.state", {"rejected": {"no tile": 3}})
    found, notes = Pairs.load(tmp_path / "pairs.state")
    assert notes == {"rejected": {"no tile": 3}}
    assert torch.equal(found.embeddings, pairs.embeddings)
    assert found.zooms[5].codes.dtype == np.uint64
    for z in (2, 5):
        assert np.array_equal(found.zooms[z].codes, pairs.zooms[z].codes)
        assert np.array_equal(found.zooms[z].rows, pairs.zooms[z].rows)
    assert np.array_equal(found.train, pairs.train)
    assert np.array_equal(found.validation, pairs.validation)


def test_pairs_that_are_cut_off_are_named(tmp_path: Path) -> None:
    some_pairs()[0].save(tmp_path / "pairs.state", {})
    whole = (tmp_path / "pairs.state").read_bytes()
    (tmp_path / "pairs.state").write_bytes(whole[:-7])
    with pytest.raises(TrainingError, match=r"pairs.state is no training state"):
        Pairs.load(tmp_path / "pairs.state")


def test_an_epochs_order_follows_from_seed_zoom_and_epoch() -> None:
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


# Log


def test_resuming_leaves_no_row_twice_and_none_cut_off(tmp_path: Path) -> None:
    log, order = TrainingLog(tmp_path / "log.csv"), (8, 6, 4)
    log.resume(8, (-1, 0), order)
    for zoom in (8, 6):
        for epoch, step in ((0, 0), (1, 5), (1, 10), (2, 5)):
            log.add(zoom, (epoch, step), {"loss": 1 / 3})
    with log.path.open("a") as file:
        file.write("6,2,1")  # a kill cut this one off
    log.resume(6, (1, 5), order)
    kept = [(r["zoom"], r["epoch"], r["step"]) for r in log.rows()]
    assert kept == [
        *[("8", e, s) for e, s in (("0", "0"), ("1", "5"), ("1", "10"), ("2", "5"))],
        ("6", "0", "0"),
        ("6", "1", "5"),
    ]
    log.add(6, (1, 10), {"loss": 0.25, "val_loss": 0.5, "recall@1": 1.0})
    assert log.rows()[-1] == dict.fromkeys(COLUMNS, "") | {
        "zoom": "6", "epoch": "1", "step": "10", "loss": "0.25", "val_loss": "0.5", "recall@1": "1",
    }  # fmt: skip
    log.resume(8, (-1, 0), order)
    assert log.path.read_text() == ",".join(COLUMNS) + "\n"


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "log.csv", writes=False)
    log.resume(8, (-1, 0), (8,))
    log.add(8, (0, 0), {"loss": 1.0})
    assert not list(tmp_path.iterdir())


# Recall


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 12))
def test_ranks_are_places_in_the_order_of_similarity(seed: int, photos: int, tiles: int) -> None:
    """With coarse values, so that many are equal: those go to the lower row."""
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-1, 2, (photos, 3)), rng.integers(-1, 2, (tiles, 3))
    rows = rng.integers(0, tiles, photos)
    order = np.argsort(-(a @ b.T), axis=1, kind="stable")
    wanted = [int(np.flatnonzero(order[i] == rows[i])[0]) for i in range(photos)]
    found = ranks(torch.from_numpy(a).float(), torch.from_numpy(b).float(), torch.from_numpy(rows))
    assert found.tolist() == wanted


def test_recall_is_the_share_among_the_first_k() -> None:
    assert recalls(np.array([0, 0, 3, 5, 12])) == {"recall@1": 0.4, "recall@5": 0.6, "recall@10": 0.8}
