"""GeoCLIP's location encoder: places to unit vectors (Vivanco Cepeda et al. 2023, "GeoCLIP").

The architecture is the package's: the Equal Earth projection, random Fourier features at three scales, an MLP for each,
summed. Written again so that answering imports none of the package's code; a test holds the two equal.
"""

import math
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from retrieval.encoders.open_clip import resolve_device
from retrieval.encoders.weights import digest
from retrieval.errors import PriorError
from retrieval.priors.geoclip_package import weights

__all__ = ["DIM", "LocationEncoder"]

DIM = 512
_AT_ONCE = 4096
# Equal Earth's polynomial (Savric, Patterson, Jenny 2018), and the factor that brings x into -1 to 1.
_A1, _A2, _A3, _A4, _SCALE = 1.340264, -0.081106, 0.000893, 0.003796, 66.50336
_LAYERS = ("capsule.1", "capsule.3", "capsule.5")


class LocationEncoder:
    """Safe to call from several threads. `logit_scale`: what a cosine is multiplied by to be a logit."""

    dim = DIM

    def __init__(self, tensors: Mapping[str, Tensor], logit_scale: float, device: str = "auto") -> None:
        self.fingerprint = digest({"logit_scale": logit_scale}, tensors)
        self.logit_scale, self._device = logit_scale, resolve_device(device)
        self._tensors = {name: tensor.float().to(self._device) for name, tensor in tensors.items()}
        self._scales = len({name.split(".")[0] for name in tensors})
        _check(self._tensors, self._scales)

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
            for start in range(0, len(rows), _AT_ONCE):
                made = functional.normalize(self._run(places[start : start + _AT_ONCE].to(self._device)), dim=1)
                rows[start : start + _AT_ONCE] = made.cpu().numpy()
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
    """(n, 2) latitudes and longitudes to Equal Earth's plane, in units of half the equator."""
    lat, lng = torch.deg2rad(places[:, 0]), torch.deg2rad(places[:, 1])
    root = torch.sqrt(torch.tensor(3.0, device=places.device))
    theta = torch.asin(root / 2 * torch.sin(lat))
    slope = 3 * (9 * _A4 * theta**8 + 7 * _A3 * theta**6 + 3 * _A2 * theta**2 + _A1)
    x = (2 * root * lng * torch.cos(theta)) / slope
    y = _A4 * theta**9 + _A3 * theta**7 + _A2 * theta**3 + _A1 * theta
    return torch.stack((x, y), dim=1) * _SCALE / 180


def _check(tensors: Mapping[str, Tensor], scales: int) -> None:
    for number in range(scales):
        wanted = {f"LocEnc{number}.{layer}.{kind}" for layer in (*_LAYERS, "head.0") for kind in ("weight", "bias")}
        missing = {f"LocEnc{number}.capsule.0.b", *wanted} - tensors.keys()
        if missing:
            raise PriorError(f"the installed geoclip's location encoder lacks {min(missing)}: install 1.3")
