"""Results of a training run: map encoders for `tilebeam index`, a JSON file about them, and an index with them."""

import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from indexer.build.build import build_index
from indexer.build.request import BuildRequest
from indexer.learning.loop import Checkpoint
from indexer.progress import OnProgress
from indexer.training.settings import TrainRequest
from indexer.training.zoom import epoch_facts
from retrieval.encoders.open_clip import PhotoEncoder, save_layers
from retrieval.files import write_json

__all__ = ["ENCODERS_NAME", "index_with", "write_encoders"]

ENCODERS_NAME = "encoders"
_LIBRARIES = ("tilebeam", "torch", "open_clip_torch", "numpy", "pillow")


def write_encoders(
    request: TrainRequest, encoder: PhotoEncoder, results: Mapping[int, Checkpoint], facts: Mapping[str, Any]
) -> Path:
    """Write RUN/encoders: each zoom's best layers as fp16, maps.json, training.json, and a local photo encoder.

    fp16 halves the files and turns a tile's embedding by less than about a tenth of a degree. training.json has the
    recall of the layers as stored, and the least cosine between a tile's embedding and its float32 one.
    """
    out = request.out / ENCODERS_NAME
    layers = {z: {name: layer.half() for name, layer in r.best.items()} for z, r in results.items()}
    contexts = {z: request.settings.margin(z) for z in results}
    out.mkdir(parents=True, exist_ok=True)
    if encoder.local:
        encoder.save(out)
    save_layers(out, encoder, layers, contexts)
    write_json(out / "training.json", _training_facts(request, encoder, results, facts))
    return out


def index_with(request: TrainRequest, build: BuildRequest, on_progress: OnProgress) -> dict[str, Any]:
    """Build the index of `build` with the encoders of a finished run; raises what `build_index` raises."""
    encoders = request.out / ENCODERS_NAME
    has_photo_encoder = (encoders / "photo.json").exists()
    complete = replace(
        build,
        photo_encoder=str(encoders) if has_photo_encoder else request.photo_encoder,
        map_encoders=encoders,
        cache=request.tile_cache,
        fetch=request.fetch,
        device=request.device,
    )
    report = build_index(complete, on_progress=on_progress)
    return {"index": str(report.out), "index_id": report.index_id, "index_rows": report.rows}


def _training_facts(
    request: TrainRequest, encoder: PhotoEncoder, results: Mapping[int, Checkpoint], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """How the encoders were made: `facts` of the data, arguments, versions, and figures per zoom."""
    # A spec may be a folder of this machine.
    description = {k: v for k, v in encoder.describe().items() if k != "spec"}
    return {
        "command": "tilebeam train --photos",
        "arguments": request.arguments(),
        "data": dict(facts),
        "photo_encoder": description,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES},
        "device": torch.cuda.get_device_name() if encoder.device.type == "cuda" else "cpu",
        "zooms": {str(z): _zoom_facts(results[z]) for z in sorted(results)},
    }


def _zoom_facts(result: Checkpoint) -> dict[str, Any]:
    reached = result.reached
    return {
        "best_epoch": reached.best_epoch,
        "temperature": reached.best["temperature"],
        "stored": reached.final,
        "epochs": [epoch_facts(row) for row in reached.history],
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
