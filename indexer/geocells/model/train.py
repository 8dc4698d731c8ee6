"""Train a geocell model: photos, a partition and an encoder in, a model's directory out.

The caller starts at `train_geocells`. The same request continues an interrupted run; another request for the same
folder is refused. The model's directory is written file by file with `prior.json` last: a directory without it is not a
model. Written again from the same weights, it is the same to the byte.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from indexer.errors import TrainingError
from indexer.geocells.model.features import EncoderFeatures, Features, PhotoData, TableFeatures
from indexer.geocells.model.task import LOG_FIGURES, GeocellTask, LabelledSplit, LossTask
from indexer.geocells.settings import GeocellRequest, Pace
from indexer.learning.log import TrainingLog
from indexer.learning.loop import TrainingLoop
from indexer.progress import OnProgress, silent
from indexer.runs import begin_run, disk_errors
from retrieval.encoders.device import resolve_device
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.encoders.timm import load_image_encoder
from retrieval.encoders.weights import FORMAT, digest, write_tensors
from retrieval.files import write_json
from retrieval.priors.base import PRIOR_NAME, write_kind
from retrieval.priors.geocells import CONFIG_NAME, ENCODER_NAME, HEADS_NAME, KIND, PARTITION_NAME
from retrieval.priors.partition import Partition

__all__ = ["MODEL_NAME", "begin_training", "cluster_embeddings", "fit_temperature", "model_content", "train_geocells"]
__all__ += ["training_loop", "write_model"]

MODEL_NAME = "model"
STATE_NAME = "course.state"
"""The state of the training loop; its presence means that the folder holds work."""
_RUN_NAME = "run.json"


def train_geocells(request: GeocellRequest, on_progress: OnProgress = silent) -> dict[str, Any]:
    """Train a model, continue an interrupted training, or find it done; returns a summary as JSON values.

    Raises kinds of IndexerError and RetrievalError with a message of one line. After any of them, and after a
    KeyboardInterrupt, the same request continues the run.
    """
    with disk_errors(request.out):
        encoder = load_image_encoder(request.encoder, device=request.device)
        _check_savable(request, encoder)
        partition = Partition.load(request.partition)
        data = PhotoData.read(request.photos, request.read, request.split, encoder, request.cache_folder, on_progress)
        identity = {"data": data.photos.digest(), "partition": partition.fingerprint, "encoder": encoder.fingerprint}
        begin_training(request.out, identity | request.settings.identity())
        data.write(request.out)
        with _task(request, encoder, data, partition) as task:
            reached = training_loop(task, request.settings.pace, request.out, on_progress).run()
            trained = encoder if task.tower is None else _trained_encoder(encoder, task.tower)
            about: dict[str, Any] = {"settings": request.settings.identity(), "splits": data.counts()}
            about |= {"epoch": reached.best_epoch, "validation": _validation_figures(reached.best)}
            config = write_model(request.out / MODEL_NAME, task, partition, trained, about)
    paths = {"model": str(request.out / MODEL_NAME), "photos": str(request.out / "photos.csv")}
    return paths | {k: config[k] for k in ("fingerprint", "temperature", "epoch", "validation", "splits")}


def begin_training(out: Path, identity: Mapping[str, Any]) -> None:
    """Create the folder of a run and record the run's identity, or compare it with the recorded one.

    Raises TrainingError if the folder cannot be created, and RunMismatchError if it holds another run.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise TrainingError(f"--out {out} cannot be created ({exc.strerror}): name another folder") from exc
    resumable = (out / STATE_NAME).exists()
    begin_run(out / _RUN_NAME, identity, resumable=resumable, way_out="give the same ones, or another --out")


def training_loop(task: LossTask, pace: Pace, out: Path, on_progress: OnProgress = silent) -> TrainingLoop:
    """The training of a task with its state and log.csv in the run's folder."""
    return TrainingLoop(task, pace, out / STATE_NAME, TrainingLog(out / "log.csv", LOG_FIGURES), on_progress)


def write_model(
    out: Path, task: GeocellTask, partition: Partition, encoder: PhotoEncoder, about: dict[str, Any]
) -> dict[str, Any]:
    """Write the model's directory and return its config.

    `encoder`: as it is after training; `about`: further entries of the config, for readers. An encoder that was trained
    or that came from a file is saved in the directory; otherwise its name is enough.
    """
    (out / PRIOR_NAME).unlink(missing_ok=True)
    (out / PARTITION_NAME).mkdir(parents=True, exist_ok=True)
    partition.write(out / PARTITION_NAME)
    inside = task.tower is not None or encoder.local
    if inside:
        encoder.save(out / ENCODER_NAME)
    config, tensors = model_content(task, partition, _encoder_entry(encoder, inside))
    write_tensors(out / HEADS_NAME, tensors)
    config = {"format": FORMAT, "kind": KIND, **config, **about}
    write_json(out / CONFIG_NAME, config)
    write_kind(out, KIND, {"fingerprint": config["fingerprint"]})
    return config


def model_content(
    task: GeocellTask, partition: Partition, encoder: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config and the tensors of a `GeocellModel`; `encoder` is the config's entry for the encoder.

    Temperatures are fitted on the validation photos; clusters' embeddings come from the training photos.
    """
    outputs, split = task.outputs(task.validation.data), task.validation
    temperatures = {
        "cells": fit_temperature(outputs.cells, split.cell),
        "clusters": fit_temperature(outputs.clusters, split.cluster),
    }
    embeddings = task.outputs(task.train.data).embedding
    weights: dict[str, Tensor] = dict(task.heads.state_dict())
    weights["cluster_embeddings"] = cluster_embeddings(embeddings, task.train.cluster, len(partition.clusters))
    tensors = {k: v.detach().cpu() for k, v in weights.items()}
    config: dict[str, Any] = {"encoder": encoder, "partition": partition.fingerprint}
    config |= {"temperature": temperatures, "top": task.settings.top, "spread": task.settings.spread}
    config["fingerprint"] = digest(config, tensors)
    return config, tensors


def cluster_embeddings(embeddings: Tensor, cluster: Tensor, count: int) -> Tensor:
    """The normalised mean of the unit geo-embeddings, (n, e), of each cluster's photos: (count, e).

    The row of a cluster without photos is zeros.
    """
    sums = torch.zeros(count, embeddings.shape[1], device=embeddings.device)
    sums.index_add_(0, cluster, functional.normalize(embeddings, dim=1))
    return functional.normalize(sums, dim=1)


def fit_temperature(logits: Tensor, own: Tensor) -> float:
    """The temperature that maximises the likelihood of the true classes, (n,) int64, given logits, (n, c).

    Guo et al. 2017, "On Calibration of Modern Neural Networks". Golden-section search of the temperature's logarithm
    between 0.02 and 50, to a thousandth.
    """
    logits = logits.double()

    def cost(log_t: float) -> float:
        return float(functional.cross_entropy(logits / np.exp(log_t), own))

    low, high, ratio = float(np.log(0.02)), float(np.log(50)), (5**0.5 - 1) / 2
    while high - low > 1e-3:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if cost(a) <= cost(b) else (a, high)
    return round(float(np.exp((low + high) / 2)), 4)


@contextmanager
def _task(
    request: GeocellRequest, encoder: PhotoEncoder, data: PhotoData, partition: Partition
) -> Iterator[GeocellTask]:
    device = resolve_device(request.device)
    splits = [data.split_data(name, device) for name in ("train", "validation")]
    train, validation = (LabelledSplit.of(split, partition) for split in splits)
    tower: nn.Module | None = None
    if request.settings.lr_encoder:
        tower = copy.deepcopy(encoder.tower).eval().requires_grad_(True)
    features: Features = (
        TableFeatures(data.embeddings, device) if tower is None else EncoderFeatures(data.photos, encoder, tower)
    )
    try:
        yield GeocellTask(request.settings, partition, train, validation, features, tower)
    finally:
        if isinstance(features, EncoderFeatures):
            features.close()


def _check_savable(request: GeocellRequest, encoder: PhotoEncoder) -> None:
    """Raise TrainingError, before any work, if the model could not be written."""
    if encoder.architecture is None and (request.settings.lr_encoder or encoder.local):
        raise TrainingError(
            f"the weights of {encoder.name} cannot be saved, as its architecture is unknown: give MODEL:TAG or "
            "timm:NAME, or --lr-encoder 0"
        )


def _trained_encoder(encoder: PhotoEncoder, tower: nn.Module) -> PhotoEncoder:
    name = f"{encoder.name} (trained)"
    frozen = copy.deepcopy(tower).requires_grad_(False)
    return PhotoEncoder(name, frozen, encoder.preprocess, encoder.architecture, str(encoder.device))


def _encoder_entry(encoder: PhotoEncoder, inside: bool) -> dict[str, Any]:
    """The config's entry for the encoder. It never names a local folder: such an encoder lies in the model."""
    spec = ENCODER_NAME if inside else encoder.spec
    entry: dict[str, Any] = {"spec": spec, "name": encoder.name, "fingerprint": encoder.fingerprint, "dim": encoder.dim}
    return entry | {"inside": inside}


def _validation_figures(row: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in row.items() if k.startswith("val_")}
