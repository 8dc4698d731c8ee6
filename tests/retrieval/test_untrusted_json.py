"""The JSON of priors, partitions and encoders from anywhere: opening works, or raises a documented error, every time.

Values are replaced, removed and renamed at random places, by a seed, and bytes are changed. Where a file is named by a
hash of its content, the hash is made again, as an attacker would.
"""

import contextlib
import copy
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_structure import known_partition
from safetensors.numpy import load_file, save_file

from retrieval.encoders.hub import hub_access
from retrieval.encoders.open_clip import MapEncoders, PhotoEncoder, build_tower, save_layers
from retrieval.encoders.preprocess import Preprocess
from retrieval.encoders.timm import load_image_encoder
from retrieval.encoders.weights import digest
from retrieval.errors import EncoderError, PriorError, RetrievalError
from retrieval.files import JSON_BYTES
from retrieval.index.manifest import Manifest
from retrieval.priors.density import DensityPrior
from retrieval.priors.geocells import GeocellModel
from retrieval.priors.geoclip import GeoclipPrior, GeoclipSettings
from retrieval.priors.partition import Partition
from retrieval.priors.registry import open_prior
from retrieval.testing.fake import FakePhotoEncoder, fake_pyramid, write_fake_index

DIM = 24
VALUES: list[Any] = [
    *(None, True, 0, -1, 1, 0.5, -0.0, 1e308, 10**400, 2**31, 2**63, 1e-320),
    *("", "x", "\0", "../../x", "/etc/hostname", "nan", "x" * 5000),
    *("hf-hub:attacker/model", "timm:resnet10t", "ViT-B-32:openai", [], {}, [[]], {"": None}, [1, 2, 3]),
]
TEXTS = [
    *(b"", b"null", b"[]", b'"x"', b"{", b"{}", b"\xff\xfe", b"[" * 3000 + b"]" * 3000),
    *(b'{"a": NaN}', b'{"a": 1e999}'),
]


def places_in(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to each value of a JSON document."""
    if above:
        yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in items:
        yield from places_in(below, (*above, key))


def mutated(rng: random.Random, document: Any) -> Any:
    """The document with one to three changes."""
    document = copy.deepcopy(document)
    for _ in range(rng.choice([1, 1, 2, 3])):
        places = list(places_in(document))
        if not places:
            return document
        *above, key = rng.choice(places)
        owner = document
        for step in above:
            owner = owner[step]
        kind = rng.random()
        if kind < 0.7:
            owner[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind < 0.85:
            del owner[key]
        elif isinstance(owner, dict):
            owner[rng.choice(["x", "__class__", "4", "-1", "zooms"])] = owner.pop(key)
        else:
            owner.append(copy.deepcopy(owner[key]))
    return document


def attack(
    original: Path,
    folder: Path,
    name: str,
    open_one: Callable[[Path], object],
    *,
    count: int,
    resign: Callable[[Path, Any], Any] = lambda directory, document: document,
) -> tuple[int, int]:
    """Open mutated copies of a directory; how many were opened, and how many refused with a RetrievalError."""
    rng, outcomes = random.Random(name), [0, 0]
    document = json.loads((original / name).read_text())
    for number in range(count + len(TEXTS)):
        directory = folder / str(number)
        shutil.copytree(original, directory)
        if number < len(TEXTS):
            (directory / name).write_bytes(TEXTS[number])
        else:
            changed = mutated(rng, document)
            with contextlib.suppress(Exception):  # where it cannot be signed any more, as it is
                changed = resign(directory, changed)
            (directory / name).write_text(json.dumps(changed))
        try:
            open_one(directory)
            outcomes[0] += 1
        except RetrievalError:
            outcomes[1] += 1
        shutil.rmtree(directory)
    return outcomes[0], outcomes[1]


@pytest.fixture(autouse=True)
def offline() -> Iterator[None]:
    with hub_access(allowed=False):
        yield


def write_geocells(directory: Path) -> Path:
    """A geocell model over a known partition, with heads of noise and the index's encoder."""
    partition, rng = known_partition(), np.random.default_rng(0)
    cells, clusters = len(partition.cells), len(partition.clusters)
    (directory / "partition").mkdir(parents=True)
    partition.write(directory / "partition")
    shapes = {
        "embedding.weight": (DIM, DIM),
        "embedding.bias": (DIM,),
        "cells.weight": (cells, DIM),
        "cells.bias": (cells,),
        "clusters.weight": (clusters, DIM),
        "clusters.bias": (clusters,),
        "cluster_embeddings": (clusters, DIM),
    }
    save_file({n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}, directory / "heads.safetensors")
    encoder = {"spec": "fake", "fingerprint": FakePhotoEncoder(DIM).fingerprint, "dim": DIM, "inside": False}
    config: dict[str, Any] = {"format": 1, "kind": "geocells", "encoder": encoder, "top": 2, "spread": "photos"}
    config |= {"partition": partition.fingerprint, "temperature": {"cells": 1.0, "clusters": 1.0}}
    (directory / "config.json").write_text(json.dumps(signed(directory, config)))
    (directory / "prior.json").write_text(json.dumps({"format": "tilebeam-prior", "version": 1, "kind": "geocells"}))
    return directory


def signed(directory: Path, config: dict[str, Any]) -> dict[str, Any]:
    """A model's configuration with the fingerprint that it should have."""
    tensors = {name: torch.from_numpy(array) for name, array in load_file(directory / "heads.safetensors").items()}
    keys = ("encoder", "partition", "temperature", "top", "spread")
    return config | {"fingerprint": digest({key: config[key] for key in keys}, tensors)}


def open_geocells(directory: Path) -> None:
    prior = open_prior(directory, device="cpu", photo=FakePhotoEncoder(DIM))
    prior.beliefs(np.eye(2, DIM, dtype=np.float32))


@pytest.mark.timeout(300)
def test_geocell_models_open_or_raise_our_errors(tmp_path: Path) -> None:
    original = write_geocells(tmp_path / "model")
    open_geocells(original)
    _, refused = attack(original, tmp_path / "config", "config.json", open_geocells, count=120, resign=signed)
    assert refused > 50
    _, refused = attack(original, tmp_path / "prior", "prior.json", open_geocells, count=30)
    assert refused > 10
    with pytest.raises(PriorError):
        GeocellModel.load(_without_partition(original, tmp_path))


def _without_partition(original: Path, folder: Path) -> Path:
    shutil.copytree(original, folder / "bare")
    shutil.rmtree(folder / "bare/partition")
    return folder / "bare"


@pytest.mark.timeout(300)
def test_partitions_open_or_raise_our_errors(tmp_path: Path) -> None:
    known_partition().write(_made(tmp_path / "partition"))
    _, refused = attack(tmp_path / "partition", tmp_path / "json", "partition.json", Partition.load, count=80)
    assert refused > 30
    rng = random.Random(3)
    for number in range(60):  # the tables, with hashes that fit
        directory = tmp_path / "tables" / str(number)
        shutil.copytree(tmp_path / "partition", directory)
        path = directory / rng.choice(["cells.npy", "clusters.npy", "tiles.npy"])
        data = bytearray(path.read_bytes())
        at = rng.randrange(min(len(data) - 8, 400))
        data[at : at + 8] = rng.choice([0, 1, 2**40, 2**63 - 1, 2**64 - 1, rng.randrange(2**64)]).to_bytes(8, "little")
        path.write_bytes(data)
        description = json.loads((directory / "partition.json").read_text())
        description["files"][path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (directory / "partition.json").write_text(json.dumps(description))
        with contextlib.suppress(PriorError):
            Partition.load(directory)
        shutil.rmtree(directory)


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def test_density_and_geoclip_priors_open_or_raise_our_errors(tmp_path: Path) -> None:
    DensityPrior.write(tmp_path / "density", np.array([10.0, 20.0]), np.array([20.0, 30.0]))
    opened, refused = attack(tmp_path / "density", tmp_path / "d", "prior.json", open_prior, count=40)
    assert opened + refused == 40 + len(TEXTS)
    GeoclipPrior.write(tmp_path / "geoclip", GeoclipSettings())
    _, refused = attack(tmp_path / "geoclip", tmp_path / "g", "prior.json", open_prior, count=40)
    assert refused == 40 + len(TEXTS)  # CLIP is not on this machine, whatever the file says


VISION = {"image_size": 24, "patch_size": 12, "width": 32, "layers": 2, "head_width": 16}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny photo encoder and a map encoder of zoom 4."""
    torch.manual_seed(0)
    architecture = {"embed_dim": 16, "vision_cfg": VISION, "quick_gelu": False}
    photo = PhotoEncoder("tiny", build_tower(architecture), Preprocess(24, (0.5,) * 3, (0.5,) * 3), architecture, "cpu")
    directory = tmp_path_factory.mktemp("encoders")
    photo.save(directory)
    save_layers(directory, photo, {4: {"proj": photo.tower.state_dict()["proj"] + 1}}, {4: 0.5})
    return directory


@pytest.mark.timeout(300)
def test_photo_encoders_open_or_raise_our_errors(encoders: Path, tmp_path: Path) -> None:
    for name, load in (("clip", PhotoEncoder.load), ("any", load_image_encoder)):
        _, refused = attack(
            encoders, tmp_path / name, "photo.json", lambda path, load=load: load(str(path), device="cpu"), count=80
        )
        assert refused > 60


@pytest.mark.timeout(300)
def test_map_encoders_open_or_raise_our_errors(encoders: Path, tmp_path: Path) -> None:
    photo = PhotoEncoder.load(str(encoders), device="cpu")
    attack(encoders, tmp_path / "maps", "maps.json", lambda path: MapEncoders.load(path, photo), count=100)
    (tmp_path / "one").mkdir()
    document = json.loads((encoders / "maps.json").read_text())
    for file, context in (("../z04.safetensors", 0.5), ("/etc/hostname", 0.5), ("z04.safetensors", 1e300), (None, 0)):
        document["zooms"]["4"] = {"file": file, "context": context}
        (tmp_path / "one/maps.json").write_text(json.dumps(document))
        with pytest.raises(EncoderError, match="does not describe map encoders"):
            MapEncoders.load(tmp_path / "one", photo)


def test_a_manifest_that_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    write_fake_index(tmp_path, fake_pyramid(5, [2, 4], 8, tiles=30))
    manifest = Manifest.read(tmp_path)
    before = (tmp_path / "manifest.json").read_bytes()
    ring = [[i / 1e6, 1.0] for i in range(700_000)]
    object.__setattr__(manifest, "coverage", {"type": "Polygon", "coordinates": [ring]})
    with pytest.raises(RetrievalError, match=rf"bytes, at most {JSON_BYTES:,}.*simplify"):
        manifest.write(tmp_path)
    assert (tmp_path / "manifest.json").read_bytes() == before
