"""A whole geocell training: photos, partition and encoder in, a model's directory out.

The same request goes on from wherever an earlier process with the same folder was; another request is refused.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from indexer.errors import RunMismatchError, TrainingError
from indexer.geocells.model.artefact import write_model
from indexer.geocells.model.course import Course
from indexer.geocells.model.feed import EncoderFeed, Feed, TableFeed
from indexer.geocells.model.photo_data import PhotoData
from indexer.geocells.model.settings import GeocellRequest
from indexer.geocells.model.task import GeocellTask, Owned
from indexer.progress import OnProgress
from indexer.runs import disk_errors
from retrieval.encoders.open_clip import PhotoEncoder, resolve_device
from retrieval.encoders.timm import load_image_encoder
from retrieval.files import read_json, write_json
from retrieval.priors.partition import Partition

__all__ = ["MODEL_NAME", "claim", "learning_tower", "train_geocells", "trained_encoder"]

MODEL_NAME = "model"
_RUN_NAME = "run.json"


def train_geocells(request: GeocellRequest, tell: OnProgress = lambda progress: None) -> dict[str, Any]:
    """Train, or go on, or find all done; returns what was made as plain JSON values.

    Raises IndexerError and RetrievalError kinds with one clear line; after any, and after a KeyboardInterrupt, the same
    request goes on from there.
    """
    with disk_errors(request.out):
        encoder = load_image_encoder(request.encoder, device=request.device)
        _check_savable(request, encoder)
        partition = Partition.load(request.partition)
        data = PhotoData.read(request.photos, request.read, request.split, encoder, request.cache_folder, tell)
        identity = {"data": data.photos.digest(), "partition": partition.fingerprint, "encoder": encoder.fingerprint}
        claim(request.out, identity | request.settings.identity())
        data.write(request.out)
        with _task(request, encoder, data, partition) as task:
            reached = Course(task, request.settings.pace, request.out, tell).run()
            learnt = encoder if task.tower is None else trained_encoder(encoder, task.tower)
            about: dict[str, Any] = {"settings": request.settings.identity(), "splits": data.counts()}
            about |= {"epoch": reached.best_epoch, "validation": _figures(reached.history, reached.best_epoch)}
            config = write_model(request.out / MODEL_NAME, task, partition, learnt, about)
    made = {"model": str(request.out / MODEL_NAME), "photos": str(request.out / "photos.csv")}
    return made | {k: config[k] for k in ("fingerprint", "temperature", "epoch", "validation", "splits")}


def learning_tower(encoder: PhotoEncoder) -> nn.Module:
    """A copy of the encoder's tower whose weights learn, in evaluation mode."""
    tower: nn.Module = copy.deepcopy(encoder.tower)
    return tower.eval().requires_grad_(True)


def trained_encoder(encoder: PhotoEncoder, tower: nn.Module) -> PhotoEncoder:
    """The encoder with other weights."""
    name = f"{encoder.name} (trained)"
    copied = copy.deepcopy(tower).requires_grad_(False)
    return PhotoEncoder(name, copied, encoder.preprocess, encoder.architecture, str(encoder.device))


def claim(out: Path, identity: Mapping[str, Any]) -> None:
    """Begin the run in a folder, or find it begun; RunMismatchError where it was begun with other arguments or data."""
    path = out / _RUN_NAME
    try:
        out.mkdir(parents=True, exist_ok=True)
        before = read_json(path) if path.exists() else None
    except (OSError, ValueError) as exc:
        raise TrainingError(f"{path} cannot be read or made ({exc}): choose another --out, or delete it") from exc
    if before is None or not (out / "course.state").exists():
        write_json(path, dict(identity))
        return
    differing = [k for k in {**before, **identity} if before.get(k) != identity.get(k)]
    if differing:
        said = "; ".join(f"{k} was {before.get(k)!r} and is now {identity.get(k)!r}" for k in differing)
        raise RunMismatchError(f"{out} holds a run that was begun otherwise ({said}): give the same, or another --out")


def _check_savable(request: GeocellRequest, encoder: PhotoEncoder) -> None:
    if encoder.architecture is None and (request.settings.lr_encoder or encoder.local):
        raise TrainingError(
            f"{encoder.name} has no architecture that could be saved with its weights: give MODEL:TAG or timm:NAME, "
            "or --lr-encoder 0"
        )


@contextmanager
def _task(
    request: GeocellRequest, encoder: PhotoEncoder, data: PhotoData, partition: Partition
) -> Iterator[GeocellTask]:
    device = resolve_device(request.device)
    train, validation = (Owned.of(data.part(name, device), partition) for name in ("train", "validation"))
    tower = learning_tower(encoder) if request.settings.lr_encoder else None
    feed: Feed = TableFeed(data.embeddings, device) if tower is None else EncoderFeed(data.photos, encoder, tower)
    try:
        yield GeocellTask(request.settings, partition, train, validation, feed, tower)
    finally:
        if isinstance(feed, EncoderFeed):
            feed.close()


def _figures(history: list[dict[str, float]], epoch: int) -> dict[str, float]:
    row = next(row for row in history if row["epoch"] == epoch)
    return {k: v for k, v in row.items() if k.startswith("val_")}
