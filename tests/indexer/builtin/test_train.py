"""The whole preset at a tiny size, on the real Earth: stages, resuming, encoders, index and fitted numbers."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from indexer.builtin import finish
from indexer.cli.train import register
from retrieval.encoders.open_clip import MapEncoders, PhotoEncoder
from retrieval.index.calibration import Calibration
from retrieval.index.reader import TileIndex

HALF = [0.5, 0.5, 0.5]
RECIPE = {
    "seed": 1,
    "zooms": [2, 4],
    "context": {"4": 0.5},
    "land": 0.01,
    "south": -60,
    "north": 78,
    "footprint_km": [500, 2000],
    "turn": 15,
    "products": ["bmng"],
    "architecture": {
        "embed_dim": 16,
        "quick_gelu": False,
        "vision_cfg": {"image_size": 24, "patch_size": 12, "width": 32, "layers": 3, "head_width": 16},
    },
    "preprocess": {"size": 24, "mean": HALF, "std": HALF, "contrast_floor": 0.04},
    "style": {"haze": 0.5, "haze_strength": 0.3, "jpeg": 0.2},
    "ramp": 5,
    "photo": {"steps": 12, "batch": 8, "warmup": 2},
    "maps": {"steps": {"2": 4, "4": 6}, "batch": 16},
    "tune": {"steps": 4, "batch": 8, "warmup": 2},
    "map_queries": 64,
}
STATES = ("photo.state", "map-z02.state", "map-z04.state", "tune.state")


def train(folder: Path) -> Result:
    app = typer.Typer()
    register(app)
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    arguments = ["--preset", "builtin", "--out", folder / "run", "--recipe", folder / "recipe.json", "--threads", 1]
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """A finished run's folder, and what it printed."""
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("_CLEAN", 80), ("_STYLED", 80), ("_SEA", 20), ("_NOWHERE", 20), ("_SIZE", 32)):
            patch.setattr(finish, name, count)
        result = train(folder)
        assert result.exit_code == 0, (result.stderr, result.exception)
    return folder / "run", json.loads(result.stdout)


def test_encoders_index_and_calibration_belong_together(trained: tuple[Path, dict[str, object]]) -> None:
    run, summary = trained
    photo = PhotoEncoder.load(str(run / "encoders"), device="cpu")
    maps = MapEncoders.load(run / "encoders", photo)
    assert summary["encoders"] == str(run / "encoders")
    assert maps.zooms == (2, 4)
    assert [maps.context(z) for z in maps.zooms] == [0, 0.5]
    index = TileIndex.open(run / "index")
    assert index.manifest.photo_encoder["fingerprint"] == photo.fingerprint
    assert [z.encoder for z in index.manifest.zooms] == [maps.fingerprint(z) for z in (2, 4)]
    for folder in (run / "index", run / "encoders"):
        numbers = Calibration.read(folder)
        assert numbers.fits(64, index.zooms, index.manifest.coverage_hash, photo.fingerprint)
        assert summary["calibration"] == {str(z): asdict(n) for z, n in numbers.zooms.items()}
    assert json.loads((run / "encoders" / "training.json").read_text())["recipe"] == RECIPE


def test_tuning_does_not_change_the_shared_layers(trained: tuple[Path, dict[str, object]]) -> None:
    """The first layers are those that the map towers were trained with, in fp16."""
    from indexer.learning.state import load_state

    run, _ = trained
    before, _ = load_state(run / "photo.state")
    after = PhotoEncoder.load(str(run / "encoders"), device="cpu").tower.state_dict()
    shared = [k for k in after if k.startswith(("conv1", "class_", "positional", "ln_pre", "transformer.resblocks.0."))]
    assert len(shared) > 10
    assert all(np.array_equal(after[k], before[f"tower.{k}"].half().float()) for k in shared)
    assert not np.array_equal(after["proj"], before["tower.proj"].half().float())


@pytest.mark.parametrize("count", [1, 3])
def test_run_without_its_later_states_makes_the_same_encoders(
    trained: tuple[Path, dict[str, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    run, _ = trained
    (tmp_path / "run").mkdir()
    for name in STATES[:count]:
        (tmp_path / "run" / name).write_bytes((run / name).read_bytes())
    monkeypatch.setattr(finish, "calibrate", lambda recipe, encoders, index: {})
    assert train(tmp_path).exit_code == 0
    for name in ("photo.safetensors", "photo.json", "z02.safetensors", "z04.safetensors", "maps.json"):
        assert (tmp_path / "run" / "encoders" / name).read_bytes() == (run / "encoders" / name).read_bytes(), name


@pytest.mark.parametrize("name", ["photo.state", "map-z04.state"])
def test_damaged_state_is_reported_in_one_line(
    trained: tuple[Path, dict[str, object]], tmp_path: Path, name: str
) -> None:
    run, _ = trained
    (tmp_path / "run").mkdir()
    for state in STATES:
        (tmp_path / "run" / state).write_bytes((run / state).read_bytes())
    damaged = tmp_path / "run" / name
    damaged.write_bytes(damaged.read_bytes()[:-9])
    result = train(tmp_path)
    assert result.exit_code == 1, result.exception
    assert f"tilebeam: {damaged} is not a training state" in result.stderr
