"""The regression baseline, on a ViT with a cached trunk and on a ResNet; the grid; tables of errors."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from known_structure import draw_pictures, request_of
from safetensors.numpy import load_file
from typer.testing import CliRunner

import tilebeam
from indexer.errors import TrainingError
from indexer.geocells.model.baseline import last_layers, train_baseline
from indexer.geocells.model.grid import ErrorRow, error_figures, error_table, train_grid
from indexer.geocells.settings import BaselineRequest, Pace
from indexer.photos.splits import SplitPlan
from retrieval.encoders.timm import load_image_encoder


def baseline_of(drawn: Path, out: Path, encoder: str, **changes: object) -> BaselineRequest:
    """A training that takes a few seconds at most."""
    plan, pace = SplitPlan(ratio=(6, 2, 2), near_duplicates=False), Pace(epochs=6, batch=16, weight_decay=1e-4)
    request = BaselineRequest(drawn / "train.csv", out, split=plan, device="cpu", encoder=encoder, pace=pace, blocks=1)
    return replace(request, **changes)  # type: ignore[arg-type]


def test_last_blocks_of_a_vit_learn_to_regress_places(drawn: Path, tmp_path: Path) -> None:
    report = train_baseline(baseline_of(drawn, tmp_path, str(drawn / "encoder"), lr=3e-3))
    log = (tmp_path / "log.csv").read_text().splitlines()
    first, last = (float(line.split(",")[-1]) for line in (log[1], log[-1]))
    assert last < first / 2  # mean km on validation photos
    km = np.load(tmp_path / "errors.npy")
    assert report["test"]["mean_km"]["value"] == pytest.approx(km.mean())
    assert json.loads((tmp_path / "baseline.json").read_text())["test"]["n"] == len(km)


def test_only_the_last_blocks_of_a_resnet_learn(drawn: Path, tmp_path: Path) -> None:
    few = draw_pictures(tmp_path, photos=2)
    train_baseline(baseline_of(drawn, tmp_path / "run", "timm:test_resnet:scratch", photos=few, pace=Pace(1, 16)))
    learnt = {name for name in load_file(tmp_path / "run/baseline.safetensors") if name.startswith("tower.")}
    assert learnt
    assert all(name.startswith("tower.layer4.0.") for name in learnt)


def test_last_layers_of_each_architecture() -> None:
    resnet, vit = (load_image_encoder(f"timm:{n}:scratch").tower for n in ("resnet10t", "test_vit"))
    assert {n.rsplit(".", 2)[0].split(".")[0] for n in last_layers(resnet, 2)} == {"layer3", "layer4"}
    count = len(vit.blocks)
    assert {n.split(".")[1] for n in last_layers(vit, 2) if n.startswith("blocks.")} == {str(count - 2), str(count - 1)}
    with pytest.raises(TrainingError, match="blocks of a Linear are unknown"):
        last_layers(torch.nn.Linear(2, 2), 2)


def test_grid_writes_a_row_for_every_pair(drawn: Path, tmp_path: Path) -> None:
    request = request_of(drawn, tmp_path, lr_encoder=0, epochs=1)
    result = train_grid(request, [0.3, 0.5], [0.5])
    table = (tmp_path / "grid.md").read_text()
    names = ["haversine loss alone", "tau 0.3, alpha 0.5", "tau 0.5, alpha 0.5"]
    assert [row["name"] for row in result["rows"]] == names
    assert all(name in table for name in names)
    assert "50 images" in table
    assert (
        len(list((tmp_path / "cache/photos").iterdir())) == 1
    )  # the encoder is frozen, so photos are embedded once for all rows


def test_differences_of_error_figures_are_paired() -> None:
    km = np.random.default_rng(0).exponential(500, 400)
    rows = [ErrorRow("first", km), ErrorRow("ten km better", km - 10)]
    figures = error_figures(rows)
    assert figures[0]["mean_km"].value == pytest.approx(km.mean())
    less = figures[1]["less_first"]
    assert (less.value, less.low, less.high) == pytest.approx((-10, -10, -10))
    assert "| ten km better |" in error_table(rows, figures)
    assert error_table(rows, figures).count("\n") == 3


def test_commands_report_wrong_arguments(drawn: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    photos = ["--photos", str(drawn / "train.csv"), "--out", str(tmp_path)]
    partition = ["--partition", str(drawn / "partition")]
    wrong = run(tilebeam.app, ["geocells", "grid", *photos, *partition, "--tau", "warm"])
    assert wrong.exit_code == 2
    missing = run(tilebeam.app, ["geocells", "train", *photos, "--partition", str(tmp_path)])
    assert missing.exit_code == 1
    unknown = run(tilebeam.app, ["geocells", "baseline", *photos, "--encoder", "timm:resnet9999"])
    assert unknown.exit_code == 1
    assert "resnet" in unknown.output
