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
from indexer.learning.interrupts import Interrupts
from indexer.learning.log import TrainingLog
from indexer.learning.split_tower import SplitTower
from indexer.learning.state import Epoch, Reached, ZoomFile
from indexer.progress import Progress
from indexer.training.pairs import Pairs
from indexer.training.settings import TrainSettings
from indexer.training.zoom import Desk, ZoomTraining
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
        self.folder, self.told = folder, list[Progress]()

    def training(
        self, name: str = "run", tell: Callable[[Progress], None] | None = None, **changes: Any
    ) -> ZoomTraining:
        desk = Desk(
            ZoomFile(self.folder / name / "z03.state"),
            TrainingLog(self.folder / name / "log.csv"),
            Group(),
            tell or self.told.append,
        )

        def tokens(rows: np.ndarray) -> torch.Tensor:
            return self.tokens[torch.from_numpy(rows)]

        return ZoomTraining(3, self.pairs, self.tower, tokens, replace(SETTINGS, **changes), desk)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_it_learns_and_keeps_the_best_epoch(bench: Bench) -> None:
    result = bench.training(epochs=8, lr=3e-3).run()
    history = result.reached.history
    assert [e.epoch for e in history] == list(range(9))
    assert history[-1].loss is not None
    assert history[1].loss is not None
    assert history[-1].loss < history[1].loss - 0.1
    best = max(history, key=lambda e: (e.recalls["recall@1"], -e.val_loss))
    assert result.reached.best == best
    assert best.recalls["recall@10"] > history[0].recalls["recall@10"]
    again = bench.training("again")
    again._load(result.layers)
    val_loss, found = again._measured()
    assert val_loss == pytest.approx(best.val_loss, rel=1e-6)
    assert found == best.recalls


def test_validation_is_over_all_distinct_tiles_of_its_photos(bench: Bench) -> None:
    """Against one similarity matrix by hand, at the start."""
    training = bench.training(epochs=1)
    start = training._measured()[1]
    pairs, rows = bench.pairs, bench.pairs.zooms[3].rows
    tiles = np.unique(rows[pairs.validation])
    with torch.no_grad():
        seen = bench.tower.tail()(bench.tokens[torch.from_numpy(tiles)]).double()
    alike = pairs.embeddings[torch.from_numpy(pairs.validation)].double() @ seen.t()
    own = np.searchsorted(tiles, rows[pairs.validation])
    before = [(alike[i] > alike[i, own[i]] + 1e-9).sum().item() for i in range(len(own))]
    assert start["recall@5"] == np.mean(np.array(before) < 5)


def test_patience_ends_a_zoom_that_gets_no_better(bench: Bench) -> None:
    result = bench.training(epochs=30, patience=2, lr=1e-9).run()
    assert result.reached.history[-1].epoch < 30
    assert result.reached.stale >= 2
    assert len(result.reached.history) == result.reached.best.epoch + 3


@pytest.mark.parametrize("stop", range(1, 19))
def test_a_step_that_is_interrupted_ends_first(bench: Bench, stop: int) -> None:
    """Then a state is left, whatever the step; the second half ends where an undisturbed run does."""
    whole = bench.training("whole", learn_temperature=True).run()
    seen = [0]

    def interrupt(progress: Progress) -> None:
        seen[0] += 1
        if seen[0] == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        try:
            bench.training("cut", interrupt, learn_temperature=True).run()
        except KeyboardInterrupt:
            reached = ZoomFile(bench.folder / "cut" / "z03.state").reached()
            assert not reached.done
            told = [p.stage for p in bench.told][:stop]
            # An epoch's note comes before its last step is told; the start's before any state is saved.
            steps = told.count("train") + (told[-1] == "note")
            assert (reached.epoch - 1) * 5 + reached.step == (steps if stop > 1 else -10)
    finally:
        signal.signal(signal.SIGTERM, before)
    result = bench.training("cut", learn_temperature=True).run()
    assert all(torch.equal(layer, result.layers[name]) for name, layer in whole.layers.items())
    assert (bench.folder / "cut" / "log.csv").read_bytes() == (bench.folder / "whole" / "log.csv").read_bytes()


def test_the_temperature_moves_only_if_it_is_to(bench: Bench) -> None:
    fixed = bench.training("fixed", temperature=0.002).run()
    assert {round(e.temperature, 6) for e in fixed.reached.history} == {0.002}
    learnt = bench.training("learnt", learn_temperature=True, lr=1e-2).run()
    assert len({e.temperature for e in learnt.reached.history}) == 4


def test_a_loss_that_is_no_number_ends_the_run(bench: Bench) -> None:
    with pytest.raises(TrainingError, match=r"zoom 3: the .*loss .*is nan: give a lower --lr"):
        bench.training(lr=1e30).run()


@pytest.mark.parametrize("batch", [16, 80])
def test_layers_that_give_no_numbers_are_never_the_best(bench: Bench, batch: int) -> None:
    """The last step of an epoch may spoil them: nan is before nothing and behind nothing, and would be found first."""
    with pytest.raises(TrainingError, match=r"loss .*is nan"):
        bench.training(lr=1e30, batch=batch).run()
    assert ZoomFile(bench.folder / "run" / "z03.state").reached().best.epoch == 0


def test_bf16_turns_an_embedding_by_little(bench: Bench) -> None:
    """As autocast computes on CUDA: unit rows in float32, near those of float32."""
    training = bench.training()
    rows = np.arange(40)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        halves = training.tail(bench.tokens[:40])
    assert halves.dtype == torch.float32
    with torch.no_grad():
        cosines = (training.embed(rows) * halves).sum(1)
    assert torch.allclose(halves.norm(dim=1), torch.ones(40), atol=1e-5)
    assert cosines.min() > 0.995


def test_another_towers_state_is_refused(bench: Bench) -> None:
    bench.training(epochs=1).run()
    other = SplitTower(build_tower({**ARCHITECTURE, "embed_dim": 8}).eval())
    state = ZoomFile(bench.folder / "run" / "z03.state")
    with pytest.raises(TrainingError, match="not the last ones of this tower"):
        other.tail_from(state.best())
    with pytest.raises(TrainingError, match=r"z03.state is the state of something else .*: delete it"):
        state.layers()  # of a zoom that is done, the best ones alone are kept


def test_the_best_is_the_first_of_equals() -> None:
    def epoch(n: int, recall: float, loss: float) -> Epoch:
        return Epoch(n, None, loss, 0.1, {"recall@1": recall})

    reached = Reached(3, 0, 0.0, [epoch(0, 0.2, 3), epoch(1, 0.5, 2), epoch(2, 0.5, 2), epoch(3, 0.4, 1)])
    assert reached.best.epoch == 1
    assert reached.stale == 2


def test_a_second_interrupt_is_not_held_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        signal.raise_signal(signal.SIGINT)
        assert interrupts.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
