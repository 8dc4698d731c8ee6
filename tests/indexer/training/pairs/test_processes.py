"""Real processes: two under torchrun against one alone, and runs that are killed at random steps."""

import random
import signal
import time
from pathlib import Path

import pytest
import torch
from small_world import SmallWorld, finished, log_rows, start

from indexer.training.pairs.distributed import Group
from indexer.training.pairs.zoom_state import ZoomFile


def weights(out: Path, zoom: int) -> dict[str, torch.Tensor]:
    return ZoomFile(out / "states" / f"z{zoom:02d}.state").best()


@pytest.mark.slow
def test_two_processes_learn_what_one_does(world: SmallWorld, tmp_path: Path) -> None:
    """The same losses, recalls and layers, though each embeds half of a batch's tiles, some at a time."""
    options = ["--loss", "symmetric", "--learn-temperature", "--split-ratio", "4:1:0"]
    both = start(world.arguments(tmp_path / "2", *options, "--micro-batch", 5), processes=2)
    alone = finished(start(world.arguments(tmp_path / "1", *options)))
    assert finished(both)["zooms"] == alone["zooms"]
    for one, two in zip(log_rows(tmp_path / "1"), log_rows(tmp_path / "2"), strict=True):
        for name, text in one.items():
            assert two[name] == text or float(two[name]) == pytest.approx(float(text), rel=2e-5), (name, one)
    for zoom in (2, 4):
        ours, theirs = weights(tmp_path / "1", zoom), weights(tmp_path / "2", zoom)
        for name, layer in ours.items():
            other = theirs[name]
            if name.endswith("in_proj_bias"):  # keys' biases cancel in the softmax: Adam moves them by rounding alone
                layer, other = torch.cat([layer[:32], layer[64:]]), torch.cat([other[:32], other[64:]])
            assert torch.allclose(layer, other, atol=2e-5), (zoom, name)


@pytest.mark.slow
def test_killed_at_random_steps_it_ends_with_the_same_weights(world: SmallWorld, tmp_path: Path) -> None:
    options, out, rng = ["--epochs", 3, "--log-every", 1], tmp_path / "killed", random.Random(4)
    log, kills = out / "log.csv", 0
    while kills < 3:
        process = start(world.arguments(out, *options))
        seen = len(log.read_text().splitlines()) if log.exists() else 1
        enough = seen + rng.randint(1, 9)
        while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) < enough):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    assert not (out / "encoders").exists()
    finished(start(world.arguments(out, *options)))
    finished(start(world.arguments(tmp_path / "whole", *options)))
    for zoom in (2, 4):
        ours, theirs = weights(tmp_path / "whole", zoom), weights(out, zoom)
        assert all(torch.equal(layer, theirs[name]) for name, layer in ours.items())
    assert (tmp_path / "whole" / "log.csv").read_bytes() == log.read_bytes()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 64])
def test_shares_cover_all_once_and_evenly(size: int, n: int) -> None:
    shares = [list(range(n))[Group(rank, size).share(n)] for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
