"""GeoCLIP's image encoder: CLIP ViT-L/14 by transformers, and the head that comes with the package `geoclip`.

The only home of transformers. CLIP is downloaded from the hub when it is first asked for, or read from a folder.
Weights are read as safetensors only.
"""

import json
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

from retrieval.encoders.open_clip import resolve_device
from retrieval.encoders.preprocess import Preprocess
from retrieval.encoders.weights import digest
from retrieval.errors import EncoderError
from retrieval.priors.geoclip_package import weights

__all__ = ["CLIP", "GeoclipPhotos"]

CLIP = "openai/clip-vit-large-patch14"
"""The model whose features the head was trained on."""
_ERRORS = 40  # logging.ERROR
_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class GeoclipPhotos:
    """Pictures to vectors comparable with `LocationEncoder`'s; satisfies `EncodesPhotos`."""

    name = "geoclip"

    def __init__(self, vision: Any, head: nn.Module, preprocess: Preprocess, device: str = "auto") -> None:
        """`vision`: a `CLIPVisionModelWithProjection`; `head`: its features to the shared space."""
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
        wanted, given = int(head[0].in_features), int(vision.config.projection_dim)  # type: ignore[arg-type]
        if wanted != given:
            raise EncoderError(f"{clip} gives {given} features, GeoCLIP's head takes {wanted}: it needs {CLIP}")
        return cls(vision, head, preprocess, device)

    @property
    def least_edge(self) -> int:
        """Twice the input, as for `PhotoEncoder`."""
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


def _head(tensors: "dict[str, Tensor] | Tensor") -> nn.Sequential:
    """The package's head: two layers with a ReLU between them."""
    try:
        assert isinstance(tensors, Mapping)
        (middle, wide), (narrow, _) = tensors["0.weight"].shape, tensors["2.weight"].shape
        head = nn.Sequential(nn.Linear(wide, middle), nn.ReLU(), nn.Linear(middle, narrow))
        head.load_state_dict(tensors)
    except (AssertionError, KeyError, RuntimeError, ValueError) as exc:
        raise EncoderError(f"the installed geoclip's image head is not laid out as that of 1.3 ({exc})") from exc
    return head


def _preprocess(clip: str) -> Preprocess:
    from transformers.utils.hub import cached_file

    try:
        path = cached_file(clip, "preprocessor_config.json")
        config = json.loads(Path(str(path)).read_text(encoding="utf-8"))
        crop, mean, std = config["crop_size"], config["image_mean"], config["image_std"]
        size = int(crop["height"] if isinstance(crop, dict) else crop)
        filter_ = _RESAMPLE[int(config.get("resample", 3))]
    except Exception as exc:  # the hub's client, transformers and JSON each raise their own
        raise EncoderError(_unreachable(clip, exc)) from exc
    return Preprocess.from_json({"size": size, "mean": mean, "std": std, "interpolation": filter_})


def _vision(clip: str) -> Any:
    from transformers import CLIPVisionModelWithProjection
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(_ERRORS)  # it reports each weight of the text tower that is not used
    if not sys.stderr.isatty():
        logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers types some of its functions
    try:
        return CLIPVisionModelWithProjection.from_pretrained(clip, use_safetensors=True)
    except Exception as exc:  # as above
        raise EncoderError(_unreachable(clip, exc)) from exc
    finally:
        logging.set_verbosity(verbosity)


def _unreachable(clip: str, exc: Exception) -> str:
    reason = (str(exc).strip() or type(exc).__name__).splitlines()[0]
    if Path(clip).is_dir():
        return f"{clip} cannot be read as CLIP in transformers' format ({reason}): it needs {CLIP}'s files"
    return (
        f"GeoCLIP's backbone {clip} could not be had from the Hugging Face hub ({reason}). With internet it is "
        f"downloaded once, 1.7 GB. Without: copy a folder with its config.json, preprocessor_config.json and "
        f"model.safetensors here, and name it in TILEBEAM_CLIP"
    )
