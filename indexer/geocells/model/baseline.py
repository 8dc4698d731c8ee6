"""The baseline without cells: the last blocks of an image encoder and a linear head regress the place.

The geoembeddings paper trains the last two layers of a ResNet-152 and a regression head with AdamW, learning rate 1e-3,
weight decay 1e-4, batches of 32, 5 epochs. Here "layers" are blocks (of a ResNet: bottlenecks). The target is the unit
vector of the place, as latitude and longitude would jump at the date line; the loss is the squared distance of the
vectors, and the answer is the direction of the output.
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
from indexer.geocells.model.features import EncoderFeatures, PhotoData, SplitData, TailFeatures, features_of
from indexer.geocells.model.grid import ErrorRow, error_figures, errors_as_json
from indexer.geocells.model.task import LossTask
from indexer.geocells.model.train import begin_training, training_loop
from indexer.geocells.settings import BaselineRequest
from indexer.learning.trunk import SplitTower
from indexer.photos.photo_set import PhotoSet
from indexer.progress import OnProgress, silent
from indexer.runs import disk_errors
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.encoders.timm import load_image_encoder
from retrieval.encoders.weights import write_tensors
from retrieval.files import write_json, write_npy
from retrieval.sphere import degrees_of, great_circle_km, unit_vectors

__all__ = ["REPORT_NAME", "RegressionTask", "last_layers", "train_baseline"]

LearningFeatures = EncoderFeatures | TailFeatures

REPORT_NAME = "baseline.json"


def train_baseline(request: BaselineRequest, on_progress: OnProgress = silent) -> dict[str, Any]:
    """Train the baseline or continue, measure it on the test photos, and return the report.

    Raises the errors of `train_geocells`. The report is also in baseline.json; baseline.safetensors holds the weights
    that were learnt, errors.npy the errors of the test photos, (n,) km.
    """
    with disk_errors(request.out):
        encoder = load_image_encoder(request.encoder, device=request.device)
        data = PhotoData.read(request.photos, request.read, request.split, encoder, request.cache_folder, on_progress)
        identity = {"data": data.photos.digest(), "encoder": encoder.fingerprint} | request.identity()
        begin_training(request.out, identity)
        data.write(request.out)
        with _learning_features(request, encoder, data.photos, on_progress) as features:
            train, validation = (data.split_data(name, encoder.device) for name in ("train", "validation"))
            task = RegressionTask(request, train, validation, features)
            reached = training_loop(task, request.pace, request.out, on_progress).run()
            km = task.errors_km(data.split_data("test", encoder.device))
        write_npy(request.out / "errors.npy", km)
        write_tensors(request.out / "baseline.safetensors", task.weights())
        rows = [ErrorRow(f"{encoder.name}, regression", km)]
        report = {"encoder": encoder.name, "epoch": reached.best_epoch, "settings": request.identity()}
        report |= {"splits": data.counts(), "test": errors_as_json(rows, error_figures(rows))[0]}
        write_json(request.out / REPORT_NAME, report)
    return report


class RegressionTask(LossTask):
    """The learning part of the encoder's tower and a linear head, as a task of the training loop."""

    def __init__(
        self, request: BaselineRequest, train: SplitData, validation: SplitData, features: LearningFeatures
    ) -> None:
        self.train, self.validation, self._features = train, validation, features
        self.count, self.seed = len(train), request.pace.seed
        self._names = [name for name, p in features.tower.named_parameters() if p.requires_grad]
        lat, lng = train.lat_lng.cpu().numpy().T
        self._targets = torch.from_numpy(unit_vectors(lng, lat)).float().to(train.features.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.pace.seed)
            self._head = nn.Linear(train.features.shape[1], 3).to(train.features.device)
        weights = [*self._head.parameters(), *(features.tower.get_parameter(name) for name in self._names)]
        self.optimiser = torch.optim.AdamW(weights, lr=request.lr, weight_decay=request.pace.weight_decay)

    def losses(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """`loss`: the mean squared distance of the output vectors from the places' unit vectors."""
        vectors = self._vectors(self._features(self.train.rows[rows]))
        targets = self._targets[torch.from_numpy(rows).to(vectors.device)]
        return {"loss": (vectors - targets).square().sum(1).mean()}

    def validate(self) -> dict[str, float]:
        """`val_loss` and `val_mean_km` are both the mean error of the validation photos in km."""
        km = float(self.errors_km(self.validation).mean())
        return {"val_loss": km, "val_mean_km": km}

    def errors_km(self, data: SplitData) -> NDArray[np.float64]:
        """The error of each photo's answer, (n,) km."""
        with torch.no_grad():
            vectors = self._vectors(features_of(self._features, data)).double().cpu().numpy()
        lat, lng = data.lat_lng.cpu().numpy().T
        return great_circle_km(*degrees_of(vectors), lng, lat)

    def weights(self) -> dict[str, Tensor]:
        """Copies of the learnt weights on the CPU: the head and the last blocks."""
        weights = {f"head.{k}": v for k, v in self._head.state_dict().items()}
        weights |= {f"tower.{name}": self._features.tower.get_parameter(name) for name in self._names}
        return {k: v.detach().to("cpu", copy=True) for k, v in weights.items()}

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the learnt weights by copies of these."""
        self._head.load_state_dict({k: weights[f"head.{k}"] for k in ("weight", "bias")})
        with torch.no_grad():
            for name in self._names:
                self._features.tower.get_parameter(name).copy_(weights[f"tower.{name}"])

    def _vectors(self, features: Tensor) -> Tensor:
        """(n, f) unit rows to (n, 3). Entries are scaled to about 1, as in `GeoHeads`."""
        vectors: Tensor = self._head(features * features.shape[1] ** 0.5)
        return vectors


@contextmanager
def _learning_features(
    request: BaselineRequest, encoder: PhotoEncoder, photos: PhotoSet, on_progress: OnProgress
) -> Iterator[LearningFeatures]:
    """Features through an encoder whose last blocks learn.

    For a ViT of open_clip the activations of the frozen blocks are computed once and cached on disk.
    """
    try:
        SplitTower(encoder.tower, request.blocks)
    except (TrainingError, AttributeError):
        tower: nn.Module = copy.deepcopy(encoder.tower).eval().requires_grad_(False)
        for name in last_layers(tower, request.blocks):
            tower.get_parameter(name).requires_grad_(True)
        features = EncoderFeatures(photos, encoder, tower)
        try:
            yield features
        finally:
            features.close()
    else:
        folder = request.cache_folder / f"{request.blocks}-blocks"
        with TailFeatures.open(photos, encoder, request.blocks, folder, on_progress) as tail:
            yield tail


def last_layers(tower: Any, blocks: int) -> list[str]:
    """The names of the parameters in the last blocks and behind them, of a timm ViT or a timm ResNet."""
    names = [name for name, _ in tower.named_parameters()]
    if hasattr(tower, "layer4"):
        every = [f"layer{i}.{j}." for i in range(1, 5) for j in range(len(getattr(tower, f"layer{i}")))]
        prefixes: tuple[str, ...] = tuple(every[-blocks:])
    elif hasattr(tower, "blocks"):
        first = max(0, len(tower.blocks) - blocks)
        prefixes = (*(f"blocks.{i}." for i in range(first, len(tower.blocks))), "norm.", "fc_")
    else:
        raise TrainingError(f"the blocks of a {type(tower).__name__} are unknown here: give a ViT or a ResNet of timm")
    return [name for name in names if name.startswith(prefixes)]
