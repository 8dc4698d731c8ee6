"""The baseline without cells: an image encoder whose last layers, with a linear head, regress the place itself.

Paper G's is a ResNet-152 with its last two layers and a regression head trained, AdamW, lr 1e-3, weight decay 1e-4,
batch 32, 5 epochs. "Layers" are read as blocks here (a ResNet's bottlenecks), and what is regressed is the unit vector
of the place: latitude and longitude would jump at the date line. The loss is the squared distance of the vectors; the
answer is the direction of what comes out.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from indexer.errors import TrainingError
from indexer.geocells.model.course import Course
from indexer.geocells.model.errors_table import ErrorRow, as_json, error_figures
from indexer.geocells.model.feed import EncoderFeed
from indexer.geocells.model.photo_data import Part, PhotoData
from indexer.geocells.model.settings import BaselineRequest
from indexer.geocells.model.tail_feed import TailFeed
from indexer.geocells.model.task import features_of
from indexer.geocells.model.training import claim
from indexer.learning.split_tower import SplitTower
from indexer.photos.photo_set import PhotoSet
from indexer.progress import OnProgress
from indexer.runs import disk_errors
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.encoders.timm import load_image_encoder
from retrieval.encoders.weights import write_tensors
from retrieval.files import write_json, write_npy
from retrieval.sphere import degrees_of, great_circle_km

__all__ = ["REPORT_NAME", "RegressionTask", "last_layers", "train_baseline"]

LearningFeed = EncoderFeed | TailFeed

REPORT_NAME = "baseline.json"


def train_baseline(request: BaselineRequest, tell: OnProgress = lambda progress: None) -> dict[str, Any]:
    """Train, or go on; measure on the test photos; returns the report, which is also in baseline.json.

    Errors as `train_geocells`. baseline.safetensors holds the layers that learnt, errors.npy the (n,) km.
    """
    with disk_errors(request.out):
        encoder = load_image_encoder(request.encoder, device=request.device)
        data = PhotoData.read(request.photos, request.read, request.split, encoder, request.cache_folder, tell)
        identity = {"data": data.photos.digest(), "encoder": encoder.fingerprint} | request.identity()
        claim(request.out, identity)
        data.write(request.out)
        with learning_feed(request, encoder, data.photos, tell) as feed:
            train, validation = (data.part(name, encoder.device) for name in ("train", "validation"))
            task = RegressionTask(request, train, validation, feed)
            reached = Course(task, request.pace, request.out, tell).run()
            km = task.errors_km(data.part("test", encoder.device))
        write_npy(request.out / "errors.npy", km)
        write_tensors(request.out / "baseline.safetensors", task.tensors())
        rows = [ErrorRow(f"{encoder.name}, regression", km)]
        report = {"encoder": encoder.name, "epoch": reached.best_epoch, "settings": request.identity()}
        report |= {"splits": data.counts(), "test": as_json(rows, error_figures(rows))[0]}
        write_json(request.out / REPORT_NAME, report)
    return report


@contextmanager
def learning_feed(
    request: BaselineRequest, encoder: PhotoEncoder, photos: PhotoSet, tell: OnProgress
) -> Iterator[LearningFeed]:
    """The encoder with its last blocks set to learn; of open_clip's ViTs the rest is computed once and kept on disk."""
    try:
        SplitTower(encoder.tower, request.blocks)
    except (TrainingError, AttributeError):
        tower: nn.Module = copy.deepcopy(encoder.tower).eval().requires_grad_(False)
        for name in last_layers(tower, request.blocks):
            tower.get_parameter(name).requires_grad_(True)
        feed = EncoderFeed(photos, encoder, tower)
        try:
            yield feed
        finally:
            feed.close()
    else:
        folder = request.cache_folder / f"{request.blocks}-blocks"
        with TailFeed.open(photos, encoder, request.blocks, folder, tell) as tail:
            yield tail


class RegressionTask:
    """What learns of a feed's tower, and a linear head, as a task of a course."""

    def __init__(self, request: BaselineRequest, train: Part, validation: Part, feed: LearningFeed) -> None:
        self.train, self.validation, self.count, self._feed = train, validation, len(train), feed
        self._names = [name for name, p in feed.tower.named_parameters() if p.requires_grad]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.pace.seed)
            self._head = nn.Linear(train.features.shape[1], 3).to(train.features.device)
        learnt = [*self._head.parameters(), *(feed.tower.get_parameter(name) for name in self._names)]
        self.optimiser: torch.optim.Optimizer = torch.optim.AdamW(
            learnt, lr=request.lr, weight_decay=request.pace.weight_decay
        )

    def losses(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Mean squared distance of the regressed vector from the place's."""
        made = self._made(self._feed(self.train.rows[rows]))
        wanted = unit_vectors(self.train.lat_lng[torch.from_numpy(rows).to(made.device)])
        return {"loss": (made - wanted).square().sum(1).mean()}

    def validate(self) -> dict[str, float]:
        """`val_loss` is the mean error in km."""
        km = float(self.errors_km(self.validation).mean())
        return {"val_loss": km, "val_mean_km": km}

    def errors_km(self, part: Part) -> NDArray[np.float64]:
        """How far each answer is off, (n,)."""
        with torch.no_grad():
            made = self._made(features_of(self._feed, part, frozen=False)).double().cpu().numpy()
        lng, lat = degrees_of(made)
        true_lat, true_lng = part.lat_lng.cpu().numpy().T
        return great_circle_km(lng, lat, true_lng, true_lat)

    def tensors(self) -> dict[str, Tensor]:
        """Head and last layers: copies on the CPU."""
        found = {f"head.{k}": v for k, v in self._head.state_dict().items()}
        found |= {f"tower.{name}": self._feed.tower.get_parameter(name) for name in self._names}
        return {k: v.detach().to("cpu", copy=True) for k, v in found.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Put copies back."""
        self._head.load_state_dict({k: tensors[f"head.{k}"] for k in ("weight", "bias")})
        with torch.no_grad():
            for name in self._names:
                self._feed.tower.get_parameter(name).copy_(tensors[f"tower.{name}"])

    def _made(self, features: Tensor) -> Tensor:
        made: Tensor = self._head(features * features.shape[1] ** 0.5)
        return made


def last_layers(tower: Any, blocks: int) -> list[str]:
    """Parameters of the last blocks and what follows them: of a timm ViT or a timm ResNet."""
    names = [name for name, _ in tower.named_parameters()]
    if hasattr(tower, "layer4"):
        every = [f"layer{i}.{j}." for i in range(1, 5) for j in range(len(getattr(tower, f"layer{i}")))]
        kept: tuple[str, ...] = tuple(every[-blocks:])
    elif hasattr(tower, "blocks"):
        kept = (*(f"blocks.{i}." for i in range(max(0, len(tower.blocks) - blocks), len(tower.blocks))), "norm.", "fc_")
    else:
        raise TrainingError(f"a {type(tower).__name__} has no blocks that are known here: give a ViT or a ResNet")
    return [name for name in names if name.startswith(kept)]


def unit_vectors(lat_lng: Tensor) -> Tensor:
    """(n, 2) degrees float64 to (n, 3) float32 on the unit sphere: `retrieval.sphere.unit_vectors` on tensors."""
    lat, lng = torch.deg2rad(lat_lng).unbind(1)
    return torch.stack([lat.cos() * lng.cos(), lat.cos() * lng.sin(), lat.sin()], dim=1).float()
