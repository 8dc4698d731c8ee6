"""What a run leaves: map encoders that `tilebeam index` takes, and a JSON file of how they were made."""

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from indexer.learning.loop import Checkpoint
from indexer.training.request import TrainRequest
from indexer.training.zoom import epoch_facts
from retrieval.encoders.open_clip import PhotoEncoder, save_layers
from retrieval.files import write_json

__all__ = ["ENCODERS_NAME", "write_encoders"]

ENCODERS_NAME = "encoders"
_LIBRARIES = ("tilebeam", "torch", "open_clip_torch", "numpy", "pillow")


def write_encoders(
    request: TrainRequest, encoder: PhotoEncoder, results: Mapping[int, Checkpoint], facts: Mapping[str, Any]
) -> Path:
    """Write RUN/encoders: per zoom the best layers as fp16, maps.json, training.json; a local photo encoder, too.

    fp16 halves the files and turns a tile's embedding by less than a tenth of a degree or so; the recall of what is
    stored, and the least cosine to the float32 embedding, stand in training.json as measured.
    """
    out = request.out / ENCODERS_NAME
    layers = {z: {name: layer.half() for name, layer in r.best.items()} for z, r in results.items()}
    contexts = {z: request.settings.margin(z) for z in results}
    out.mkdir(parents=True, exist_ok=True)
    if encoder.local:
        encoder.save(out)
    save_layers(out, encoder, layers, contexts)
    write_json(out / "training.json", training_facts(request, encoder, results, facts))
    return out


def training_facts(
    request: TrainRequest, encoder: PhotoEncoder, results: Mapping[int, Checkpoint], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """How the encoders came about: `facts` of the data, arguments, versions, and figures per zoom."""
    described = {k: v for k, v in encoder.describe().items() if k != "spec"}  # a spec may be a folder of this machine
    return {
        "command": "tilebeam train --photos",
        "arguments": request.arguments(),
        "data": dict(facts),
        "photo_encoder": described,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _LIBRARIES},
        "device": torch.cuda.get_device_name() if encoder.device.type == "cuda" else "cpu",
        "zooms": {str(z): zoom_facts(results[z]) for z in sorted(results)},
    }


def zoom_facts(result: Checkpoint) -> dict[str, Any]:
    """One zoom's epochs, the best of them, and the figures of its layers as stored."""
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
