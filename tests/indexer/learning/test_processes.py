"""Real processes: two under torchrun against one alone, and runs that are killed at random steps."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_world import SmallWorld, finished, log_rows, start

from indexer.learning.distributed import Group
from indexer.learning.loop import Checkpoint
from retrieval.encoders.open_clip import PhotoEncoder

WORKER = Path(__file__).parents[2] / "support" / "process_worker.py"


def weights(out: Path, zoom: int) -> dict[str, torch.Tensor]:
    return Checkpoint.read(out / "states" / f"z{zoom:02d}.state").best


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(world: SmallWorld, tmp_path: Path) -> None:
    """The same losses, recalls and layers, though each embeds half of a batch's tiles, some at a time."""
    options = ["--learn-temperature", "--split-ratio", "4:1:0"]
    both = start(world.arguments(tmp_path / "2", *options, "--micro-batch", 5), processes=2)
    alone = finished(start(world.arguments(tmp_path / "1", *options)))
    assert finished(both)["zooms"] == alone["zooms"]
    for one, two in zip(log_rows(tmp_path / "1"), log_rows(tmp_path / "2"), strict=True):
        for name, text in one.items():
            assert two[name] == text or float(two[name]) == pytest.approx(float(text), rel=2e-5), (name, one)
    tower = PhotoEncoder.load(str(world.encoder), device="cpu").tower.state_dict()
    for zoom in (2, 4):
        first, second = weights(tmp_path / "1", zoom), weights(tmp_path / "2", zoom)
        apart = sum((first[name] - second[name]).square().sum() for name in first if not name.endswith("in_proj_bias"))
        moved = sum((first[name] - tower[name]).square().sum() for name in first)
        assert (
            apart < 1e-5 * moved
        )  # keys' biases left out: they cancel in the softmax, and Adam moves them by rounding


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_equal_one_to_the_last_digits(tmp_path: Path, size: int) -> None:
    """In float64, where rounding is far below what Adam makes of it: 40 steps, losses and weights."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
    started = []
    for count in (1, size):
        for rank in range(count):
            place = {"RANK": str(rank), "WORLD_SIZE": str(count)}
            command = [sys.executable, str(WORKER), str(tmp_path / f"{count}.npy")]
            started.append(subprocess.Popen(command, env={**os.environ, **meet, **place}))
    assert [process.wait(600) for process in started] == [0] * (1 + size)
    one, several = np.load(tmp_path / "1.npy"), np.load(tmp_path / f"{size}.npy")
    assert np.abs(one - several).max() < 1e-9


@pytest.mark.slow
def test_run_killed_at_random_steps_ends_with_the_same_weights(world: SmallWorld, tmp_path: Path) -> None:
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
        first, second = weights(tmp_path / "whole", zoom), weights(out, zoom)
        assert all(torch.equal(layer, second[name]) for name, layer in first.items())
    assert (tmp_path / "whole" / "log.csv").read_bytes() == log.read_bytes()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [0, 1, 5, 64])
def test_shares_cover_all_once_and_evenly(size: int, n: int) -> None:
    shares = [list(range(n))[Group(rank, size).share(n)] for rank in range(size)]
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
