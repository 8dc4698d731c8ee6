"""One zoom's training over tokens in memory: what is kept, when it ends, and what an interrupt leaves."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_world import ARCHITECTURE

from indexer.errors import TrainingError
from indexer.learning.distributed import Group
from indexer.learning.log import TrainingLog
from indexer.learning.loop import Checkpoint, Interrupts, Reached, TrainingLoop
from indexer.learning.trunk import SplitTower
from indexer.progress import Progress
from indexer.training.pairs import Pairs
from indexer.training.settings import TrainSettings
from indexer.training.zoom import LOG_FIGURES, ZoomTask
from retrieval.encoders.open_clip import build_tower

SETTINGS = TrainSettings((3,), batch=16, epochs=3, lr=1e-3, temperature=0.1, save_every=2, log_every=1)


class Bench:
    """A tower, tiles of random pictures, and photos whose embeddings are what a turned tower sees of their tiles."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.tower = SplitTower(build_tower(ARCHITECTURE).eval())
        rng = np.random.default_rng(0)
        n, split = 120, np.array(["train"] * 80 + ["validation"] * 40, dtype=object)
        lng, lat = rng.uniform(-180, 180, n), rng.uniform(-80, 80, n)
        self.pairs = Pairs.of(np.zeros((n, 16), np.float32), lng, lat, split, (3,))
        tiles = self.pairs.zooms[3]
        self.tokens = self.tower.trunk(torch.randn(len(tiles.codes), 3, 24, 24))
        goal = build_tower(ARCHITECTURE).eval()
        with torch.no_grad():
            seen = SplitTower(goal).tail()(self.tokens)[torch.from_numpy(tiles.rows)]
            seen = torch.nn.functional.normalize(seen - seen.mean(0), dim=1)
        self.pairs = replace(self.pairs, embeddings=seen)
        self.folder, self.progress = folder, list[Progress]()

    def task(self, settings: TrainSettings) -> ZoomTask:
        def tokens(rows: np.ndarray) -> torch.Tensor:
            return self.tokens[torch.from_numpy(rows)]

        return ZoomTask(3, self.pairs, self.tower, tokens, settings, Group())

    def loop(
        self, name: str = "run", on_progress: Callable[[Progress], None] | None = None, **changes: Any
    ) -> TrainingLoop:
        settings, folder = replace(SETTINGS, **changes), self.folder / name
        log = TrainingLog(folder / "log.csv", LOG_FIGURES, ("zoom", 3))
        on_progress = on_progress or self.progress.append
        task, path = self.task(settings), folder / "z03.state"
        return TrainingLoop(task, settings, path, log, on_progress, patience=settings.patience)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_loop_learns_and_keeps_the_best_epoch(bench: Bench) -> None:
    loop = bench.loop(epochs=8, lr=3e-3)
    history = loop.run().history
    assert [row["epoch"] for row in history] == list(range(9))
    assert history[-1]["loss"] < history[1]["loss"] - 0.1
    best = max(history, key=lambda row: (row["recall@1"], -row["val_loss"]))
    assert loop.reached.best == best
    assert best["recall@10"] > history[0]["recall@10"]
    again = bench.task(SETTINGS)
    again.load(loop.best)
    figures = again.validate()
    assert figures["val_loss"] == pytest.approx(best["val_loss"], rel=1e-6)
    assert all(figures[f"recall@{k}"] == best[f"recall@{k}"] for k in (1, 5, 10))


def test_validation_is_over_all_distinct_tiles_of_its_photos(bench: Bench) -> None:
    """Against one similarity matrix by hand, at the start."""
    recall = bench.task(SETTINGS).validate()["recall@5"]
    pairs, rows = bench.pairs, bench.pairs.zooms[3].rows
    tiles = np.unique(rows[pairs.validation])
    with torch.no_grad():
        embeddings = bench.tower.tail()(bench.tokens[torch.from_numpy(tiles)]).double()
    similarity = pairs.embeddings[torch.from_numpy(pairs.validation)].double() @ embeddings.t()
    own = np.searchsorted(tiles, rows[pairs.validation])
    ranks = [(similarity[i] > similarity[i, own[i]] + 1e-9).sum().item() for i in range(len(own))]
    assert recall == np.mean(np.array(ranks) < 5)


def test_patience_ends_a_zoom_that_gets_no_better(bench: Bench) -> None:
    reached = bench.loop(epochs=30, patience=2, lr=1e-9).run()
    assert reached.epoch < 30
    assert reached.stale >= 2
    assert len(reached.history) == reached.best_epoch + 3


@pytest.mark.parametrize("stop", range(1, 19))
def test_interrupt_takes_effect_at_the_end_of_the_step(bench: Bench, stop: int) -> None:
    """A state is left, whatever the step; the resumed run ends with the weights of an undisturbed one."""
    whole = bench.loop("whole", learn_temperature=True)
    whole.run()
    calls = [0]

    def interrupt(progress: Progress) -> None:
        calls[0] += 1
        if calls[0] == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            bench.loop("cut", interrupt, learn_temperature=True).run()
        except KeyboardInterrupt:
            reached = Checkpoint.read(bench.folder / "cut" / "z03.state").reached
            assert not reached.done
            stages = [p.stage for p in bench.progress][:stop]
            # An epoch's note is reported before its last step; the start's before any state is saved.
            steps = stages.count("train") + (stages[-1] == "note")
            assert (reached.epoch - 1) * 5 + reached.step == (steps if stop > 1 else -10)
    finally:
        signal.signal(signal.SIGTERM, before)
    resumed = bench.loop("cut", learn_temperature=True)
    resumed.run()
    assert all(torch.equal(layer, resumed.best[name]) for name, layer in whole.best.items())
    assert (bench.folder / "cut" / "log.csv").read_bytes() == (bench.folder / "whole" / "log.csv").read_bytes()


def test_temperature_moves_only_if_it_is_learnt(bench: Bench) -> None:
    fixed = bench.loop("fixed", temperature=0.002).run()
    assert {round(row["temperature"], 6) for row in fixed.history} == {0.002}
    learnt = bench.loop("learnt", learn_temperature=True, lr=1e-2).run()
    assert len({row["temperature"] for row in learnt.history}) == 4


def test_loss_that_is_not_finite_ends_the_run(bench: Bench) -> None:
    with pytest.raises(TrainingError, match=r"zoom 3: the .*loss .*is nan: give a lower learning rate"):
        bench.loop(lr=1e30).run()


@pytest.mark.parametrize("batch", [16, 80])
def test_layers_with_nan_embeddings_are_never_the_best(bench: Bench, batch: int) -> None:
    """An epoch's last step may destroy the layers. nan compares as neither better nor worse, so it must be refused."""
    with pytest.raises(TrainingError, match=r"loss .*is nan"):
        bench.loop(lr=1e30, batch=batch).run()
    assert Checkpoint.read(bench.folder / "run" / "z03.state").reached.best_epoch == 0


def test_bf16_turns_an_embedding_by_little(bench: Bench) -> None:
    """As autocast computes on CUDA: unit rows in float32, near those of float32."""
    task = bench.task(SETTINGS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        halves = task.tail(bench.tokens[:40])
    assert halves.dtype == torch.float32
    with torch.no_grad():
        cosines = (task.embed(np.arange(40)) * halves).sum(1)
    assert torch.allclose(halves.norm(dim=1), torch.ones(40), atol=1e-5)
    assert cosines.min() > 0.995


def test_state_of_another_tower_is_refused(bench: Bench) -> None:
    loop = bench.loop(epochs=1)
    loop.run()
    other = SplitTower(build_tower({**ARCHITECTURE, "embed_dim": 8}).eval())
    with pytest.raises(TrainingError, match="not the last ones of this tower"):
        other.tail_from(loop.best)
    Checkpoint(replace(loop.reached, done=False), loop.best, {}).write(loop.path)
    with pytest.raises(TrainingError, match=r"(?s)z03.state is the state of another training .*: delete it"):
        bench.loop(epochs=1).run()


def test_first_of_equal_epochs_is_the_best(bench: Bench) -> None:
    """Nothing is learnt at this rate, so all epochs are equal."""
    reached = bench.loop(lr=1e-30).run()
    assert len(reached.history) == 4
    assert reached.best_epoch == 0
    assert reached.stale == 3
    assert Reached(3, 0, 1, history=[{"epoch": n} for n in range(4)]).best == {"epoch": 1}


def test_second_interrupt_is_not_held_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
