"""Whole trainings, from a table in OSV-5M's layout to a model's directory."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_structure import request_of
from PIL import Image
from safetensors.numpy import load_file

from indexer.errors import RunMismatchError, TrainingError
from indexer.geocells.model.grid import errors_km
from indexer.geocells.model.task import GeocellTask
from indexer.geocells.model.train import train_geocells
from indexer.photos.read import read_photos
from retrieval.errors import EncoderMismatchError, PriorError
from retrieval.priors.geocells import GeocellModel

ROOT = Path(__file__).resolve().parents[4]


def test_model_trained_from_pictures_answers_test_photos(drawn: Path, tmp_path: Path) -> None:
    result = train_geocells(request_of(drawn, tmp_path, epochs=6, save_every=50))
    model = GeocellModel.load(Path(result["model"]))
    photos = read_photos(Path(result["photos"]))
    assert sorted(result["splits"]) == ["test", "train", "validation"]
    km = errors_km(model, photos.only("test"), None)
    assert np.median(km) < 100  # six cells over the whole Earth
    assert (
        Path(result["model"]) / "encoder/photo.safetensors"
    ).exists()  # a trained encoder cannot be found by its name
    assert str(drawn) not in (Path(result["model"]) / "config.json").read_text()


def weights_of(out: Path) -> dict[str, np.ndarray]:
    """All arrays of a model, by file and name."""
    files = sorted((out / "model").rglob("*.safetensors"))
    return {f"{path.name} {k}": v for path in files for k, v in load_file(path).items()}


@pytest.mark.parametrize("steps", [1, 9])
def test_resumed_run_ends_with_the_same_weights(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    whole, cut = request_of(drawn, tmp_path / "whole"), request_of(drawn, tmp_path / "cut")
    train_geocells(whole)
    step, done = GeocellTask.step, []

    def failing(task: GeocellTask, rows: np.ndarray) -> dict[str, float]:
        if len(done) == steps:
            raise OSError("as if killed")  # no state is saved in this case
        done.append(rows)
        return step(task, rows)

    with monkeypatch.context() as patch:
        patch.setattr(GeocellTask, "step", failing)
        with pytest.raises(OSError, match="as if killed"):
            train_geocells(cut)
    train_geocells(cut)
    expected, weights = weights_of(whole.out), weights_of(cut.out)
    assert expected.keys() == weights.keys()
    assert all(np.array_equal(expected[name], weights[name]) for name in expected)
    assert (whole.out / "log.csv").read_bytes() == (cut.out / "log.csv").read_bytes()
    assert (whole.out / "model/config.json").read_bytes() == (cut.out / "model/config.json").read_bytes()


@pytest.mark.slow
def test_interrupted_command_saves_its_state_and_continues(drawn: Path, tmp_path: Path) -> None:
    arguments = ["geocells", "train", "--photos", drawn / "train.csv", "--partition", drawn / "partition"]
    arguments += ["--encoder", drawn / "encoder", "--out", tmp_path, "--epochs", 60, "--batch", 16, "--lr-encoder", 0]
    arguments += ["--split-ratio", "6:2:2", "--device", "cpu", "--threads", 1]
    command = [sys.executable, "-m", "tilebeam", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline and process.poll() is None and not (tmp_path / "course.state").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 130, stderr
    assert not (tmp_path / "model/prior.json").exists()
    assert len((tmp_path / "log.csv").read_text().splitlines()) > 1
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, env=dict(os.environ))
    assert second.returncode == 0, second.stderr
    assert GeocellModel.load(Path(json.loads(second.stdout)["model"])).fingerprint


def test_model_with_a_frozen_encoder_stores_its_name_only(drawn: Path, tmp_path: Path) -> None:
    request = replace(request_of(drawn, tmp_path, lr_encoder=0), encoder="builtin")
    result = train_geocells(request)
    assert not (tmp_path / "model/encoder").exists()
    model = GeocellModel.load(Path(result["model"]))
    assert model.encoder.fingerprint == model.encoder_fingerprint
    picture = np.zeros((40, 40, 3), np.uint8)
    features = model.features(model.encoder.prepare(Image.fromarray(picture))[None])
    assert len(model.answer(features)) == 1


def test_other_arguments_for_the_same_folder_raise(drawn: Path, tmp_path: Path) -> None:
    train_geocells(request_of(drawn, tmp_path, epochs=1))
    with pytest.raises(RunMismatchError, match=r"alpha was 0\.5 and is now 0\.75"):
        train_geocells(request_of(drawn, tmp_path, epochs=1, alpha=0.75))


def test_loss_that_is_not_finite_ends_the_run(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="the loss of epoch"):
        train_geocells(request_of(drawn, tmp_path, lr_heads=1e30, lr_encoder=0))


def test_damaged_model_raises(drawn: Path, tmp_path: Path) -> None:
    result = train_geocells(request_of(drawn, tmp_path, epochs=1, lr_encoder=0))
    directory = Path(result["model"])
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"top": 3}))
    with pytest.raises(EncoderMismatchError, match=r"heads\.safetensors is not the file"):
        GeocellModel.load(directory)
    (directory / "config.json").write_text(json.dumps(config | {"temperature": {"cells": "warm"}}))
    with pytest.raises(PriorError, match="does not hold a usable geocell model"):
        GeocellModel.load(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": -1.0}, "--alpha"),
        ({"temperature": 0.0}, "--temperature"),
        ({"spread": "evenly"}, "--spread"),
        ({"batch": 1}, "no pair"),
        ({"epochs": 0}, "--epochs"),
    ],
)
def test_settings_out_of_range_raise(drawn: Path, tmp_path: Path, changes: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        request_of(drawn, tmp_path, **changes)
