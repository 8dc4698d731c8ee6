"""From a trained task to a model's directory: clusters' embeddings, fitted temperatures, files.

Written file by file, `prior.json` last: what lacks it is no model. Made again from the same weights, it is the same.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from indexer.geocells.model.task import GeocellTask
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.encoders.weights import FORMAT, digest, write_tensors
from retrieval.files import write_json
from retrieval.priors.geocells import CONFIG_NAME, ENCODER_NAME, HEADS_NAME, KIND, PARTITION_NAME
from retrieval.priors.partition import Partition
from retrieval.priors.registry import PRIOR_NAME, write_kind

__all__ = ["cluster_embeddings", "fit_temperature", "model_parts", "write_model"]


def write_model(
    out: Path, task: GeocellTask, partition: Partition, encoder: PhotoEncoder, about: dict[str, Any]
) -> dict[str, Any]:
    """Write the model's directory; returns its config. `encoder`: as it is after training; `about`: for readers.

    An encoder that learnt, or that came from a file, goes into the directory; else its name is enough.
    """
    (out / PRIOR_NAME).unlink(missing_ok=True)
    (out / PARTITION_NAME).mkdir(parents=True, exist_ok=True)
    partition.write(out / PARTITION_NAME)
    inside = task.tower is not None or encoder.local
    if inside:
        encoder.save(out / ENCODER_NAME)
    config, tensors = model_parts(task, partition, _of_encoder(encoder, inside))
    write_tensors(out / HEADS_NAME, tensors)
    config = {"format": FORMAT, "kind": KIND, **config, **about}
    write_json(out / CONFIG_NAME, config)
    write_kind(out, KIND, {"fingerprint": config["fingerprint"]})
    return config


def model_parts(
    task: GeocellTask, partition: Partition, encoder: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a `GeocellModel` is made of, temperatures fitted on the validation photos; `encoder`: what is said of it."""
    tensors = _tensors(task, len(partition.clusters))
    config: dict[str, Any] = {"encoder": encoder, "partition": partition.fingerprint}
    config |= {"temperature": _temperatures(task), "top": task.settings.top, "spread": task.settings.spread}
    config["fingerprint"] = digest(config, tensors)
    return config, tensors


def cluster_embeddings(embeddings: Tensor, cluster: Tensor, count: int) -> Tensor:
    """Mean unit geo-embedding, (n, e), of each cluster's photos, made unit again, (count, e); zeros: no photo."""
    sums = torch.zeros(count, embeddings.shape[1], device=embeddings.device)
    sums.index_add_(0, cluster, functional.normalize(embeddings, dim=1))
    return functional.normalize(sums, dim=1)


def fit_temperature(logits: Tensor, own: Tensor) -> float:
    """The temperature that makes the true places of held-out photos likeliest: (n, c) logits, (n,) int64.

    Guo et al. 2017, "On Calibration of Modern Neural Networks". One number: golden-section search of its logarithm
    over 0.02 to 50, to a thousandth.
    """
    logits = logits.double()

    def cost(log_t: float) -> float:
        return float(functional.cross_entropy(logits / np.exp(log_t), own))

    low, high, ratio = float(np.log(0.02)), float(np.log(50)), (5**0.5 - 1) / 2
    while high - low > 1e-3:
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if cost(a) <= cost(b) else (a, high)
    return round(float(np.exp((low + high) / 2)), 4)


def _temperatures(task: GeocellTask) -> dict[str, float]:
    made, owned = task.outputs(task.validation.part), task.validation
    return {"cells": fit_temperature(made.cells, owned.cell), "clusters": fit_temperature(made.clusters, owned.cluster)}


def _tensors(task: GeocellTask, clusters: int) -> dict[str, Tensor]:
    made = task.outputs(task.train.part)
    named: dict[str, Tensor] = dict(task.heads.state_dict())
    named["cluster_embeddings"] = cluster_embeddings(made.embedding, task.train.cluster, clusters)
    return {k: v.detach().cpu() for k, v in named.items()}


def _of_encoder(encoder: PhotoEncoder, inside: bool) -> dict[str, Any]:
    """No folder of this machine goes into a model: an encoder that lies inside needs none."""
    spec = ENCODER_NAME if inside else encoder.spec
    about: dict[str, Any] = {"spec": spec, "name": encoder.name, "fingerprint": encoder.fingerprint, "dim": encoder.dim}
    return about | {"inside": inside}
