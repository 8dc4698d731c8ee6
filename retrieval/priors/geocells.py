"""A trained geocell model as a prior: a picture's features to probabilities of cells, a place, and a belief over tiles.

After the geoembeddings paper (docs/method.md, "Geocells"): linear heads over a picture's embedding give probabilities
of cells. Among the clusters of the likeliest cells, the one whose mean geo-embedding is nearest gives the answer, its
centroid. A model is a directory: config.json, heads.safetensors, partition/, prior.json, and encoder/ if the encoder
cannot be loaded by name. Everything but the encoder uses NumPy only. Nothing here trains.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.encoders.base import EncodesPhotos
from retrieval.errors import EncoderMismatchError, PriorError
from retrieval.priors.base import Belief
from retrieval.priors.grid import GridBelief
from retrieval.priors.partition import TILE_ZOOM, Partition
from tile_cache.addressing import LngLat, area_shares, centres_of_codes, codes_at

__all__ = [
    "CONFIG_NAME",
    "ENCODER_NAME",
    "HEADS_NAME",
    "KIND",
    "PARTITION_NAME",
    "ClusterSpread",
    "GeocellAnswer",
    "GeocellModel",
    "GeocellPrior",
    "Spread",
]

KIND, CONFIG_NAME, HEADS_NAME = "geocells", "config.json", "heads.safetensors"
ENCODER_NAME, PARTITION_NAME = "encoder", "partition"
TOP_CELLS = 5
"""Default number of the likeliest cells whose clusters compete for the answer."""

_KEYS = ("encoder", "partition", "temperature", "top", "spread", "fingerprint")
_ROWS_AT_ONCE, _BELIEFS_AT_ONCE = 1024, 64
_FINER = 1
"""Points are assigned to clusters this many zooms below TILE_ZOOM: four a tile, as borders run through tiles."""

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Level = Literal["cells", "clusters"]
Spread = Literal["photos", "area", "clusters"]


class GeocellAnswer(NamedTuple):
    """The place of a picture in degrees, the cluster whose centroid it is, its cell, and the cell's probability.

    `cluster` is -1 if no cluster of the likeliest cells has an embedding: the place is then the likeliest cell's
    centroid.
    """

    lat: float
    lng: float
    cell: int
    cluster: int
    confidence: float


class GeocellModel:
    """Linear heads and clusters' embeddings over an image encoder. Features: its embeddings, (n, f) float32 unit rows.

    `encoder_spec` and `encoder_fingerprint` identify the encoder; `encoder` loads it at first use.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        partition: Partition,
        directory: Path,
        device: str = "auto",
    ) -> None:
        """Use `load`. `tensors`: by name, as `indexer.geocells.model.train` writes them. Raises PriorError."""
        self.partition, self.directory, self.device = partition, directory, device
        try:
            self._set(config, tensors)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise PriorError(
                f"{directory} does not hold a usable geocell model ({exc!r}): train it or copy it again"
            ) from exc

    def _set(self, config: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        encoder = config["encoder"]
        self.encoder_spec, self.encoder_fingerprint = str(encoder["spec"]), str(encoder["fingerprint"])
        self.encoder_inside, self.dim = bool(encoder["inside"]), int(encoder["dim"])
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
            raise ValueError("its partition is not the one that it was trained with")
        if not all(np.isfinite(array).all() for head in self._heads.values() for array in head):
            raise ValueError("a number of its heads is not finite")
        if not np.isfinite(self.cluster_embeddings).all():
            raise ValueError("a number of its clusters' embeddings is not finite")
        fitted = (self.temperatures["cells"], self.temperatures["clusters"])
        if self.top < 1 or not all(1e-6 <= temperature <= 1e6 for temperature in fitted):
            raise ValueError(f"top {self.top}, temperatures {self.temperatures}")

    @classmethod
    def load(cls, directory: Path, *, device: str = "auto") -> "GeocellModel":
        """Read a model's directory; `device`: where its encoder will run. Raises PriorError and EncoderError."""
        # Imported here, as `weights` brings safetensors and torch.
        from retrieval.encoders.weights import digest, read_config, read_tensors

        config = read_config(directory / CONFIG_NAME, KIND, _KEYS)
        tensors = read_tensors(directory / HEADS_NAME)
        partition = Partition.load(directory / PARTITION_NAME)
        model = cls(config, {name: tensor.numpy() for name, tensor in tensors.items()}, partition, directory, device)
        fingerprint = digest({k: config[k] for k in _KEYS if k != "fingerprint"}, tensors)
        if fingerprint != model.fingerprint:
            raise EncoderMismatchError(
                f"{directory / HEADS_NAME} is not the file that {CONFIG_NAME} describes (fingerprint "
                f"{fingerprint[:12]}, not {model.fingerprint[:12]}): copy both again"
            )
        return model

    @cached_property
    def encoder(self) -> EncodesPhotos:
        """The encoder of the features, loaded at first use. Raises EncoderError if it is missing or another one."""
        # Imported here for torch and timm.
        from retrieval.encoders.timm import load_image_encoder, load_listed_encoder

        spec = str(self.directory.absolute() / ENCODER_NAME) if self.encoder_inside else self.encoder_spec
        load = load_image_encoder if self.encoder_inside else load_listed_encoder
        encoder = load(spec, device=self.device)
        if encoder.fingerprint != self.encoder_fingerprint:
            raise EncoderMismatchError(
                f"the encoder {spec} has fingerprint {encoder.fingerprint[:12]}, the geocell model was trained with "
                f"{self.encoder_fingerprint[:12]}: use the weights that it was trained with"
            )
        return encoder

    def features(self, pixels: Floats) -> Floats:
        """Prepared pictures, (n, 3, s, s) float32, to features, (n, f) float32."""
        return self.encoder.encode(pixels)

    def embed(self, features: Floats) -> Floats:
        """Features, (n, f), to geo-embeddings, (n, e) float32; not of length 1."""
        if features.ndim != 2 or features.shape[1] != self.dim:
            raise PriorError(f"the geocell model takes features of shape (n, {self.dim}), not {features.shape}")
        weight, bias = self._heads["embedding"]
        # As in training, where heads see entries of about 1: those of a unit row are about 1 / sqrt(dim).
        return np.asarray(features * np.float32(np.sqrt(self.dim)) @ weight.T + bias, dtype=np.float32)

    def logits(self, features: Floats, level: Level = "cells") -> Floats:
        """Features, (n, f), to logits of cells, (n, c), or clusters, (n, m), float32, without the temperature."""
        weight, bias = self._heads[level]
        return np.asarray(self.embed(features) @ weight.T + bias, dtype=np.float32)

    def log_probabilities(self, features: Floats, level: Level = "cells") -> Floats:
        """Features, (n, f), to log-probabilities of cells, (n, c), or clusters, (n, m), at the fitted temperature."""
        return log_softmax(self.logits(features, level) / np.float32(self.temperatures[level]))

    def answer(self, features: Floats, top: int | None = None) -> list[GeocellAnswer]:
        """(n, f) features to a place each, by the clusters of the `top` likeliest cells (None: the model's `top`)."""
        answers: list[GeocellAnswer] = []
        for first in range(0, len(features), _ROWS_AT_ONCE):
            answers += self._answers(features[first : first + _ROWS_AT_ONCE], self.top if top is None else top)
        return answers

    def _answers(self, features: Floats, top: int) -> list[GeocellAnswer]:
        log_p, owner = self.log_probabilities(features), self.partition.clusters["cell"]
        likely = np.argsort(-log_p, axis=1, kind="stable")[:, :top]
        is_likely = np.zeros(log_p.shape, dtype=np.bool_)
        np.put_along_axis(is_likely, likely, True, axis=1)
        has_embedding = np.abs(self.cluster_embeddings).sum(axis=1) > 0
        cosines = unit_rows(self.embed(features)) @ self.cluster_embeddings.T
        cosines = np.where(is_likely[:, owner] & has_embedding, cosines, -np.inf)
        best, any_cluster = cosines.argmax(axis=1), np.isfinite(cosines).any(axis=1)
        cell = np.where(any_cluster, owner[best], likely[:, 0])
        place = np.where(any_cluster[:, None], self.partition.cluster_centres[best], self.partition.centroids[cell])
        confidence = np.exp(log_p[np.arange(len(cell)), cell])
        cluster = np.where(any_cluster, best, -1)
        columns = (place[:, 0].tolist(), place[:, 1].tolist(), cell.tolist(), cluster.tolist(), confidence.tolist())
        return [GeocellAnswer(*row) for row in zip(*columns, strict=True)]


class GeocellPrior:
    """A model as a prior: a probability over the tiles of zoom 8. Satisfies `base.Prior`.

    `spread`: `photos` and `area` divide each cell's probability among its tiles by where the partition's photos were
    taken, or by area (see `Partition.spread`). `clusters` spreads each cluster's probability evenly over the cluster.
    """

    name = KIND

    def __init__(
        self, model: GeocellModel, photo: EncodesPhotos | None = None, *, spread: Spread | None = None
    ) -> None:
        """`photo`: the index's encoder. If it is also the model's, its embeddings are the prior's features."""
        self.model, self.spread = model, spread or model.spread
        if self.spread not in ("photos", "area", "clusters"):
            raise PriorError(f"unknown spread {self.spread!r} of a geocell prior: use photos, area or clusters")
        shared = photo is not None and photo.fingerprint == model.encoder_fingerprint
        self.encoder: EncodesPhotos | None = None if shared else model.encoder
        self.fingerprint = f"{model.fingerprint}-{self.spread}"
        self._clusters = ClusterSpread(model.partition) if self.spread == "clusters" else None

    @classmethod
    def open(cls, directory: Path, *, device: str = "auto", photo: EncodesPhotos | None = None) -> "GeocellPrior":
        """Open a model's directory, with the spread that its configuration names."""
        return cls(GeocellModel.load(directory, device=device), photo)

    def beliefs(self, features: Floats) -> Sequence[Belief]:
        """(n, f) features to one belief for each picture; its `best` is the model's own answer."""
        beliefs: list[Belief] = []
        for first in range(0, len(features), _BELIEFS_AT_ONCE):
            block = features[first : first + _BELIEFS_AT_ONCE]
            for mass, answer in zip(self._masses(block), self.model.answer(block), strict=True):
                beliefs.append(GridBelief.of(mass, TILE_ZOOM, best=LngLat(answer.lng, answer.lat)))
        return beliefs

    def _masses(self, features: Floats) -> Sequence[NDArray[np.floating]]:
        """(n, f) features to n arrays of the masses of all tiles of TILE_ZOOM, (65536,) each."""
        if self._clusters is not None:
            log_p = self.model.log_probabilities(features, "clusters")
            return [self._clusters.mass(p) for p in np.exp(log_p.astype(np.float64))]
        by: Literal["area", "photos"] = "area" if self.spread == "area" else "photos"
        return list(self.model.partition.spread(np.exp(self.model.log_probabilities(features)), by))


class ClusterSpread:
    """The share of each cluster's area in each tile of TILE_ZOOM, as three columns: cluster, tile, share."""

    def __init__(self, partition: Partition) -> None:
        count = len(partition.clusters)
        codes = np.arange(4 ** (TILE_ZOOM + _FINER), dtype=np.uint64)
        lng, lat = centres_of_codes(codes, TILE_ZOOM + _FINER)
        cluster, area = partition.cluster_of(lat, lng), area_shares(codes, TILE_ZOOM + _FINER)
        tiles = (codes >> np.uint64(2 * _FINER)).astype(np.int64)
        pairs, pair_of_point = np.unique(tiles * count + cluster, return_inverse=True)
        tile, owner = np.divmod(pairs, count)
        total = np.bincount(cluster, area, minlength=count)
        # A cluster too small to hold any of the points lies in the tile that holds its centre.
        tiny = np.flatnonzero(total == 0)
        lat, lng = partition.cluster_centres[tiny].T
        self._tile = np.concatenate([tile, codes_at(lng, lat, TILE_ZOOM).astype(np.int64)])
        self._cluster = np.concatenate([owner, tiny])
        self._share = np.concatenate([np.bincount(pair_of_point, area) / total[owner], np.ones(len(tiny))])

    def mass(self, probability: Doubles) -> Doubles:
        """Probabilities of clusters, (m,), to masses of the tiles of TILE_ZOOM in Morton order, (65536,)."""
        shares = probability[self._cluster] * self._share
        return np.asarray(np.bincount(self._tile, shares, minlength=4**TILE_ZOOM), dtype=np.float64)


def log_softmax(logits: Floats) -> Floats:
    """(n, c) logits to logs of probabilities, (n, c), without overflow."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float32)


def unit_rows(rows: Floats) -> Floats:
    """(n, e) rows to rows of length 1; a row of zeros stays zeros."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(length, np.finfo(np.float32).tiny), dtype=np.float32)
