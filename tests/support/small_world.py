"""A world of one random picture: tiles of zooms 2 and 4, photos cut from it, and a tiny encoder, all on disk.

Tiles are colour negatives of the photos, so an untrained encoder finds nothing.
"""

import csv
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from indexer.training.settings import TrainRequest, TrainSettings
from retrieval.encoders.open_clip import PhotoEncoder, build_tower
from retrieval.encoders.preprocess import Preprocess
from tile_cache.addressing import centres_of_codes

ROOT = Path(__file__).resolve().parents[2]
SIDE = 1024
ARCHITECTURE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 24, "patch_size": 12, "width": 32, "layers": 3, "head_width": 16},
    "quick_gelu": False,
}
PREPROCESS = Preprocess(24, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@dataclass(frozen=True)
class SmallWorld:
    """Paths of the photo table, the tiles and the encoder."""

    photos: Path
    tiles: Path
    encoder: Path

    def request(self, out: Path, **changes: Any) -> TrainRequest:
        """A run of a few seconds. `changes` are fields of the request or of its settings."""
        request: dict[str, Any] = {"photos": self.photos, "source": str(self.tiles), "photo_encoder": str(self.encoder)}
        numbers: dict[str, Any] = {
            "zooms": (2, 4),
            "batch": 32,
            "lr": 1e-3,
            "epochs": 2,
            "save_every": 3,
            "log_every": 2,
        }
        fields = TrainRequest.__dataclass_fields__
        for name, value in changes.items():
            (request if name in fields else numbers)[name] = value
        return TrainRequest(out=out, settings=TrainSettings(**numbers), device="cpu", **request)

    def arguments(self, out: Path, *more: object) -> list[str]:
        """The same as command-line arguments."""
        options = ["--photos", self.photos, "--source", self.tiles, "--photo-encoder", self.encoder, "--out", out]
        options += ["--zooms", "2,4", "--batch", 32, "--lr", 1e-3, "--epochs", 2, "--save-every", 3, "--device", "cpu"]
        return ["train", *map(str, [*options, "--threads", 1, *more])]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """Tiles of zooms 2 and 4, 320 photos and a tiny encoder, on disk."""
    return make_world(tmp_path_factory.mktemp("world"))


def make_world(folder: Path, count: int = 320, seed: int = 0) -> SmallWorld:
    """Draw tiles and photos, and save a tiny encoder."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (48, 48, 3), dtype=np.uint8)
    earth = Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    for z in (2, 4):
        side = SIDE >> z
        for x in range(1 << z):
            for y in range(1 << z):
                path = folder / "tiles" / str(z) / str(x) / f"{y}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                tile = ImageOps.invert(earth.crop((x * side, y * side, (x + 1) * side, (y + 1) * side)))
                tile.resize((32, 32), Image.Resampling.BICUBIC).save(path)
    table = draw_photos(folder, earth, count, rng)
    torch.manual_seed(3)
    encoder = PhotoEncoder("tiny", build_tower(ARCHITECTURE), PREPROCESS, ARCHITECTURE, "cpu")
    encoder.save(folder / "encoder")
    return SmallWorld(table, folder / "tiles", folder / "encoder")


def draw_photos(folder: Path, earth: Image.Image, count: int, rng: np.random.Generator) -> Path:
    """Views of 64 pixels (a tile of zoom 4) around centres of random zoom-9 tiles, some brighter than others."""
    (folder / "photos").mkdir()
    codes = rng.integers(0, 4**9, count).astype(np.uint64)
    lng, lat = centres_of_codes(codes, 9)
    rows = []
    for i in range(count):
        s = np.sin(np.radians(lat[i]))
        x, y = (lng[i] + 180) / 360 * SIDE, (0.5 - np.log((1 + s) / (1 - s)) / (4 * np.pi)) * SIDE
        x, y = np.clip([x, y], 32, SIDE - 32)
        view = np.asarray(earth.crop((int(x) - 32, int(y) - 32, int(x) + 32, int(y) + 32)).resize((32, 32)))
        view = np.clip(view * rng.uniform(0.8, 1.2) + rng.normal(0, 4, view.shape), 0, 255).astype(np.uint8)
        Image.fromarray(view).save(folder / "photos" / f"{i:04}.png")
        rows.append((f"photos/{i:04}.png", lat[i], lng[i]))
    with (folder / "photos.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "latitude", "longitude"), *rows])
    return folder / "photos.csv"


def start(arguments: list[str], processes: int = 1) -> "subprocess.Popen[str]":
    """`tilebeam` in a process of its own, or in several under torchrun."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", "tilebeam", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )


def finished(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """Wait for success; returns the JSON that it printed."""
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    summary: dict[str, Any] = json.loads(out)
    return summary


def log_rows(out: Path) -> list[dict[str, str]]:
    """log.csv by column."""
    return list(csv.DictReader(io.StringIO((out / "log.csv").read_text())))
