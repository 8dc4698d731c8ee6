"""A trained geocell model: a picture's features to cells, a place, and a belief over tiles. NumPy, but for the encoder.

After "Using Geoembeddings to Predict Image Geolocations": linear heads over a picture's embedding name its cell; among
the clusters of the likeliest cells, the one whose mean geo-embedding is nearest gives the answer, its centroid.
A model is a directory: config.json, heads.safetensors, partition/, encoder/ where the encoder is not one that a name
finds again, and prior.json. Nothing here trains.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import EncoderMismatchError, PriorError
from retrieval.priors.base import Belief
from retrieval.priors.cluster_spread import ClusterSpread
from retrieval.priors.grid import GridBelief
from retrieval.priors.partition import TILE_ZOOM, Partition
from tile_cache.addressing import LngLat

if TYPE_CHECKING:
    from retrieval.encoders.open_clip import EncodesPhotos

__all__ = [
    "CONFIG_NAME",
    "ENCODER_NAME",
    "HEADS_NAME",
    "KIND",
    "PARTITION_NAME",
    "GeocellAnswer",
    "GeocellModel",
    "GeocellPrior",
    "Spread",
]

KIND, CONFIG_NAME, HEADS_NAME = "geocells", "config.json", "heads.safetensors"
ENCODER_NAME, PARTITION_NAME = "encoder", "partition"
TOP_CELLS = 5
"""Cells whose clusters are looked at for an answer."""

_KEYS = ("encoder", "partition", "temperature", "top", "spread", "fingerprint")
_ROWS_AT_ONCE, _BELIEFS_AT_ONCE = 1024, 64

Floats = NDArray[np.float32]
Level = Literal["cells", "clusters"]
Spread = Literal["photos", "area", "clusters"]


class GeocellAnswer(NamedTuple):
    """Where a picture was taken, degrees; the cluster whose centroid that is, its cell, and that cell's probability.

    `cluster` is -1 where none of the cells looked at has a cluster with an embedding: then it is the cell's centroid.
    """

    lat: float
    lng: float
    cell: int
    cluster: int
    confidence: float


class GeocellModel:
    """Linear heads and clusters' embeddings over an image encoder. Features: its embeddings, (n, f) float32 unit rows.

    `encoder_spec`, `encoder_fingerprint`: which encoder that is; `encoder` loads it when it is first asked for.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        partition: Partition,
        directory: Path,
        device: str = "auto",
    ) -> None:
        """From what `load` reads: `tensors` by name, as `indexer.geocells.model.train` writes them."""
        self.partition, self.directory, self.device = partition, directory, device
        try:
            self._set(config, tensors)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise PriorError(f"{directory} holds no geocell model ({exc!r}): train it or copy it again") from exc

    def _set(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        about = config["encoder"]
        self.encoder_spec, self.encoder_fingerprint = str(about["spec"]), str(about["fingerprint"])
        self.encoder_inside, self.dim = bool(about["inside"]), int(about["dim"])
        self.fingerprint, self.config = str(config["fingerprint"]), dict(config)
        self.temperatures: dict[str, float] = {level: float(t) for level, t in config["temperature"].items()}
        self.top, self.spread = int(config["top"]), str(config["spread"])
        self._heads = {
            name: (tensors[f"{name}.weight"].astype(np.float32), tensors[f"{name}.bias"].astype(np.float32))
            for name in ("embedding", "cells", "clusters")
        }
        self.cluster_embeddings: Floats = tensors["cluster_embeddings"].astype(np.float32)
        counts = {"cells": len(self.partition.cells), "clusters": len(self.partition.clusters)}
        shapes = {name: self._heads[name][0].shape[0] for name in counts}
        if shapes != counts or self._heads["embedding"][0].shape[1] != self.dim:
            raise ValueError(f"heads of {shapes} over {self.dim} numbers for {counts}")
        if self.cluster_embeddings.shape != (counts["clusters"], len(self._heads["embedding"][0])):
            raise ValueError(f"clusters' embeddings of shape {self.cluster_embeddings.shape}")
        if config["partition"] != self.partition.fingerprint:
            raise ValueError("another partition than the one that it was trained with")
        if self.top < 1 or not all(t > 0 for t in (self.temperatures["cells"], self.temperatures["clusters"])):
            raise ValueError(f"top {self.top}, temperatures {self.temperatures}")

    @classmethod
    def load(cls, directory: Path, *, device: str = "auto") -> "GeocellModel":
        """Read a model's directory; EncoderError or PriorError say what is wrong with it. `device`: of its encoder."""
        from retrieval.encoders.weights import digest, read_config, read_tensors

        config = read_config(directory / CONFIG_NAME, KIND, _KEYS)
        tensors = read_tensors(directory / HEADS_NAME)
        partition = Partition.load(directory / PARTITION_NAME)
        made = cls(config, {name: tensor.numpy() for name, tensor in tensors.items()}, partition, directory, device)
        found = digest({k: config[k] for k in _KEYS if k != "fingerprint"}, tensors)
        if found != made.fingerprint:
            raise EncoderMismatchError(
                f"{directory / HEADS_NAME} is not the file that {CONFIG_NAME} describes (fingerprint {found[:12]}, "
                f"not {made.fingerprint[:12]}): copy both again"
            )
        return made

    @cached_property
    def encoder(self) -> "EncodesPhotos":
        """Makes the features: `prepare` and `encode`. EncoderError where it cannot be loaded or is another one."""
        from retrieval.encoders.timm import load_image_encoder

        spec = str(self.directory / ENCODER_NAME) if self.encoder_inside else self.encoder_spec
        encoder = load_image_encoder(spec, device=self.device)
        if encoder.fingerprint != self.encoder_fingerprint:
            raise EncoderMismatchError(
                f"the encoder {spec} has fingerprint {encoder.fingerprint[:12]}, the geocell model was trained with "
                f"{self.encoder_fingerprint[:12]}: give the weights that it was trained with"
            )
        return encoder

    def features(self, pixels: Floats) -> Floats:
        """Prepared pictures, (n, 3, s, s) float32, to features, (n, f)."""
        return self.encoder.encode(pixels)

    def embed(self, features: Floats) -> Floats:
        """Features, (n, f), to geo-embeddings, (n, e) float32; not of length 1."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise PriorError(f"the geocell model takes features of shape (n, {self.dim}), not {features.shape}")
        weight, bias = self._heads["embedding"]
        # As in training: entries of a unit row are small, heads learn from entries of about 1.
        return np.asarray(features * np.float32(np.sqrt(self.dim)) @ weight.T + bias, dtype=np.float32)

    def logits(self, features: Floats, level: Level = "cells") -> Floats:
        """Features, (n, f), to the head's numbers, (n, c) or (n, m) float32, before any temperature."""
        weight, bias = self._heads[level]
        return np.asarray(self.embed(features) @ weight.T + bias, dtype=np.float32)

    def log_probabilities(self, features: Floats, level: Level = "cells") -> Floats:
        """Features, (n, f), to log-probabilities of cells, (n, c), or clusters, (n, m), at the fitted temperature."""
        return log_softmax(self.logits(features, level) / np.float32(self.temperatures[level]))

    def answer(self, features: Floats, top: int | None = None) -> list[GeocellAnswer]:
        """(n, f) features to a place each, from the clusters of the `top` likeliest cells (None: the model's own)."""
        found: list[GeocellAnswer] = []
        for first in range(0, len(features), _ROWS_AT_ONCE):
            found += self._answers(features[first : first + _ROWS_AT_ONCE], self.top if top is None else top)
        return found

    def _answers(self, features: Floats, top: int) -> list[GeocellAnswer]:
        log_p, owner = self.log_probabilities(features), self.partition.clusters["cell"]
        likely = np.argsort(-log_p, axis=1, kind="stable")[:, :top]
        looked = np.zeros(log_p.shape, dtype=np.bool_)
        np.put_along_axis(looked, likely, True, axis=1)
        known = np.abs(self.cluster_embeddings).sum(axis=1) > 0
        near = unit_rows(self.embed(features)) @ self.cluster_embeddings.T
        near = np.where(looked[:, owner] & known, near, -np.inf)
        best, any_known = near.argmax(axis=1), np.isfinite(near).any(axis=1)
        cell = np.where(any_known, owner[best], likely[:, 0])
        at = np.where(any_known[:, None], self.partition.cluster_centres[best], self.partition.centroids[cell])
        confidence = np.exp(log_p[np.arange(len(cell)), cell])
        cluster = np.where(any_known, best, -1)
        columns = (at[:, 0].tolist(), at[:, 1].tolist(), cell.tolist(), cluster.tolist(), confidence.tolist())
        return [GeocellAnswer(*row) for row in zip(*columns, strict=True)]


class GeocellPrior:
    """A model as a prior: a probability over the tiles of zoom 8.

    `spread`: `photos` and `area` share each cell's probability among its tiles by where the partition's photos were, or
    by area (see `Partition.spread`); `clusters` takes the cluster head's probabilities, each evenly over its cluster.
    """

    name = KIND

    def __init__(
        self, model: GeocellModel, photo: "EncodesPhotos | None" = None, *, spread: Spread | None = None
    ) -> None:
        """`photo`: the index's encoder; where it is the model's, too, its embeddings are used as they are."""
        self.model, self.spread = model, spread or model.spread
        if self.spread not in ("photos", "area", "clusters"):
            raise PriorError(f"a geocell prior is spread by photos, area or clusters, not by {self.spread!r}")
        shared = photo is not None and photo.fingerprint == model.encoder_fingerprint
        self.encoder: EncodesPhotos | None = None if shared else model.encoder
        self.fingerprint = f"{model.fingerprint}-{self.spread}"
        self._clusters = ClusterSpread(model.partition) if self.spread == "clusters" else None

    @classmethod
    def open(cls, directory: Path, *, device: str = "auto", photo: "EncodesPhotos | None" = None) -> "GeocellPrior":
        """A model's directory as a prior, with the spread that it was trained with."""
        return cls(GeocellModel.load(directory, device=device), photo)

    def beliefs(self, features: Floats) -> Sequence[Belief]:
        """(n, f) features to one belief a picture; `best` of each is the model's own answer."""
        found: list[Belief] = []
        for first in range(0, len(features), _BELIEFS_AT_ONCE):
            some = features[first : first + _BELIEFS_AT_ONCE]
            for mass, answer in zip(self._masses(some), self.model.answer(some), strict=True):
                found.append(GridBelief.of(mass, TILE_ZOOM, best=LngLat(answer.lng, answer.lat)))
        return found

    def _masses(self, features: Floats) -> Sequence[NDArray[np.floating]]:
        """(n, f) to n masses of all tiles, (65536,) each."""
        if self._clusters is not None:
            log_p = self.model.log_probabilities(features, "clusters")
            return [self._clusters.mass(p) for p in np.exp(log_p.astype(np.float64))]
        by: Literal["area", "photos"] = "area" if self.spread == "area" else "photos"
        return list(self.model.partition.spread(np.exp(self.model.log_probabilities(features)), by))


def log_softmax(logits: Floats) -> Floats:
    """(n, c) to logs of probabilities, (n, c), without overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float32)


def unit_rows(rows: Floats) -> Floats:
    """(n, e) rows to rows of length 1; a row of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, np.finfo(np.float32).tiny), dtype=np.float32)
