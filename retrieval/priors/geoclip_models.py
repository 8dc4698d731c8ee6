"""GeoCLIP's two encoders (Vivanco Cepeda et al. 2023, "GeoCLIP"): places, and pictures, to comparable unit vectors.

`LocationEncoder` has the package's architecture: the Equal Earth projection, random Fourier features at three scales,
an MLP for each, summed. It is written again here so that answering imports none of the package's code; a test compares
the two. `GeoclipPhotos` is CLIP ViT-L/14 by transformers, downloaded from the hub at first use or read from a folder,
with the head that comes with the package. Weights are read without running any pickle.
"""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from retrieval.encoders.device import resolve_device
from retrieval.encoders.hub import NO_DOWNLOAD, is_offline
from retrieval.encoders.preprocess import Preprocess
from retrieval.encoders.weights import digest
from retrieval.errors import EncoderError, PriorError
from retrieval.priors.geoclip_data import package_folder

__all__ = ["CLIP", "DIM", "GeoclipPhotos", "LocationEncoder", "weights"]

CLIP = "openai/clip-vit-large-patch14"
"""The model whose features the head was trained on."""
DIM = 512
_PLACES_AT_ONCE = 4096
# Equal Earth's polynomial (Savric, Patterson, Jenny 2018), and the factor that brings x into -1 to 1.
_A1, _A2, _A3, _A4, _SCALE = 1.340264, -0.081106, 0.000893, 0.003796, 66.50336
_LAYERS = ("capsule.1", "capsule.3", "capsule.5")
_ERRORS = 40  # logging.ERROR
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def weights(name: str) -> dict[str, Tensor] | Tensor:
    """One of the package's weight files, by stem: `location_encoder`, `image_encoder_mlp`, `logit_scale`.

    Raises PriorError.
    """
    path = package_folder() / "model" / "weights" / f"{name}_weights.pth"
    try:
        tensors: dict[str, Tensor] | Tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch raises many kinds of errors for damaged files
        raise PriorError(f"{path} cannot be read ({exc}): install geoclip again") from exc
    return tensors


class LocationEncoder:
    """Places to unit vectors. Satisfies `geoclip_data.EncodesPlaces`; threads may share it."""

    dim = DIM

    def __init__(self, tensors: Mapping[str, Tensor], logit_scale: float, device: str = "auto") -> None:
        self.fingerprint = digest({"logit_scale": logit_scale}, tensors)
        self.logit_scale, self._device = logit_scale, resolve_device(device)
        self._tensors = {name: tensor.float().to(self._device) for name, tensor in tensors.items()}
        self._scales = len({name.split(".")[0] for name in tensors})
        _check_tensors(self._tensors, self._scales)

    @classmethod
    def load(cls, device: str = "auto") -> "LocationEncoder":
        """From the installed package. Raises PriorError."""
        tensors, scale = weights("location_encoder"), weights("logit_scale")
        if not isinstance(tensors, Mapping) or isinstance(scale, Mapping):
            raise PriorError("the installed geoclip's weights are not laid out as those of 1.2 and 1.3: install 1.3")
        return cls(tensors, float(scale.exp()), device)

    def encode(self, lat: NDArray[np.float64], lng: NDArray[np.float64]) -> NDArray[np.float32]:
        """Places, (n,) degrees each, to (n, 512) float32, unit rows."""
        rows = np.empty((len(lat), DIM), dtype=np.float32)
        places = torch.from_numpy(np.stack([lat, lng], axis=1).astype(np.float32))
        with torch.inference_mode():
            for start in range(0, len(rows), _PLACES_AT_ONCE):
                block = places[start : start + _PLACES_AT_ONCE].to(self._device)
                rows[start : start + len(block)] = functional.normalize(self._run(block), dim=1).cpu().numpy()
        return rows

    def _run(self, places: Tensor) -> Tensor:
        x = _equal_earth(places)
        total = torch.zeros(len(places), DIM, device=places.device)
        for number in range(self._scales):
            own, head = f"LocEnc{number}.", f"LocEnc{number}.head.0"
            angles = (2 * math.pi * x) @ self._tensors[f"{own}capsule.0.b"].T
            h = torch.cat((torch.cos(angles), torch.sin(angles)), dim=-1)
            for layer in _LAYERS:
                h = functional.relu(self._linear(own + layer, h))
            total += self._linear(head, h)
        return total

    def _linear(self, name: str, h: Tensor) -> Tensor:
        return functional.linear(h, self._tensors[f"{name}.weight"], self._tensors[f"{name}.bias"])


def _equal_earth(places: Tensor) -> Tensor:
    """(n, 2) degrees, latitude and longitude, to the Equal Earth plane, (n, 2), in units of half the equator."""
    lat, lng = torch.deg2rad(places[:, 0]), torch.deg2rad(places[:, 1])
    root = torch.sqrt(torch.tensor(3.0, device=places.device))
    theta = torch.asin(root / 2 * torch.sin(lat))
    slope = 3 * (9 * _A4 * theta**8 + 7 * _A3 * theta**6 + 3 * _A2 * theta**2 + _A1)
    x = (2 * root * lng * torch.cos(theta)) / slope
    y = _A4 * theta**9 + _A3 * theta**7 + _A2 * theta**3 + _A1 * theta
    return torch.stack((x, y), dim=1) * _SCALE / 180


def _check_tensors(tensors: Mapping[str, Tensor], scales: int) -> None:
    for number in range(scales):
        needed = {f"LocEnc{number}.{layer}.{kind}" for layer in (*_LAYERS, "head.0") for kind in ("weight", "bias")}
        missing = {f"LocEnc{number}.capsule.0.b", *needed} - tensors.keys()
        if missing:
            raise PriorError(f"the installed geoclip's location encoder lacks {min(missing)}: install 1.3")


class GeoclipPhotos:
    """Pictures to unit vectors comparable with those of `LocationEncoder`. Satisfies `EncodesPhotos`."""

    name = "geoclip"

    def __init__(self, vision: Any, head: nn.Module, preprocess: Preprocess, device: str = "auto") -> None:
        """`vision`: a `CLIPVisionModelWithProjection`; `head`: layers from its features to the shared space."""
        self.preprocess, self.device = preprocess, resolve_device(device)
        tensors = vision.state_dict() | {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
        self.fingerprint = digest({"preprocess": preprocess.to_json()}, tensors)
        self._vision = vision.float().eval().requires_grad_(False).to(self.device)
        self._head = head.float().eval().requires_grad_(False).to(self.device)
        self.dim = int(head[-1].out_features)  # type: ignore[index]
        self.batch_size = 16

    @classmethod
    def load(cls, clip: str = CLIP, device: str = "auto") -> "GeoclipPhotos":
        """`clip`: a model of the hub, or a folder in transformers' format. Raises EncoderError, PriorError."""
        head = _head(weights("image_encoder_mlp"))
        preprocess = _preprocess(clip)  # the small file first, so that an unreachable hub is noticed at once
        vision = _vision(clip)
        needed, width = int(head[0].in_features), int(vision.config.projection_dim)  # type: ignore[arg-type]
        if needed != width:
            raise EncoderError(f"{clip} gives {width} features, GeoCLIP's head takes {needed}: use {CLIP}")
        return cls(vision, head, preprocess, device)

    @property
    def min_edge(self) -> int:
        """The shortest edge that a picture is decoded to: twice the input's, as for `PhotoEncoder`."""
        return 2 * self.preprocess.size

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """An RGB picture to (3, size, size) float32; thread-safe."""
        return self.preprocess.picture(image)

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 3, size, size) float32 to (n, 512) float32, unit rows."""
        size = self.preprocess.size
        if batch.ndim != 4 or batch.shape[1:] != (3, size, size):
            raise EncoderError(f"{self.name} takes pictures of shape (n, 3, {size}, {size}), not {batch.shape}")
        if not len(batch):
            return np.empty((0, self.dim), dtype=np.float32)
        with torch.inference_mode():
            features: Tensor = self._vision(pixel_values=torch.from_numpy(batch).to(self.device)).image_embeds
            rows = functional.normalize(self._head(features), dim=1)
        return np.asarray(rows.cpu().numpy(), dtype=np.float32)


def _head(tensors: dict[str, Tensor] | Tensor) -> nn.Sequential:
    """The package's head: two layers with a ReLU between them."""
    try:
        assert isinstance(tensors, Mapping)
        (middle, wide), (narrow, _) = tensors["0.weight"].shape, tensors["2.weight"].shape
        head = nn.Sequential(nn.Linear(wide, middle), nn.ReLU(), nn.Linear(middle, narrow))
        head.load_state_dict(tensors)
    except (AssertionError, KeyError, RuntimeError, ValueError) as exc:
        raise EncoderError(
            f"the installed geoclip's image head is not laid out as that of 1.3 ({exc}): install 1.3"
        ) from exc
    return head


def _preprocess(clip: str) -> Preprocess:
    # transformers takes seconds to import, and GeoCLIP is one prior of several.
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(clip, "preprocessor_config.json")
        config = json.loads(Path(str(path)).read_text(encoding="utf-8"))
        crop, mean, std = config["crop_size"], config["image_mean"], config["image_std"]
        size = int(crop["height"] if isinstance(crop, dict) else crop)
        filter_ = _RESAMPLE[int(config.get("resample", 3))]
    except Exception as exc:  # the hub's client, transformers and JSON each raise their own errors
        raise EncoderError(_unreachable(clip, exc)) from exc
    return Preprocess.from_json({"size": size, "mean": mean, "std": std, "interpolation": filter_})


def _vision(clip: str) -> Any:
    # As above.
    from transformers import CLIPVisionModelWithProjection
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(_ERRORS)  # it reports each unused weight of the text tower
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers leaves it untyped
    try:
        return CLIPVisionModelWithProjection.from_pretrained(clip, use_safetensors=True)
    except Exception as exc:  # as above
        raise EncoderError(_unreachable(clip, exc)) from exc
    finally:
        logging.set_verbosity(verbosity)


def _unreachable(clip: str, exc: Exception) -> str:
    reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    if Path(clip).is_dir():
        return f"{clip} cannot be read as CLIP in transformers' format ({reason}): put {CLIP}'s files there"
    if is_offline():
        return (
            f"GeoCLIP's backbone {clip} (1.7 GB) is not on this machine: {NO_DOWNLOAD}; or copy a folder with its "
            "config.json, preprocessor_config.json and model.safetensors here and set TILEBEAM_CLIP to its path"
        )
    return (
        f"GeoCLIP's backbone {clip} cannot be downloaded from the Hugging Face hub ({reason}). With internet access it "
        f"is downloaded once, 1.7 GB. Without, copy a folder with its config.json, preprocessor_config.json and "
        f"model.safetensors to this machine and set TILEBEAM_CLIP to its path"
    )
