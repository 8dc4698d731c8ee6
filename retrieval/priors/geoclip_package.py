"""The files of the installed package `geoclip` (MIT, Vicente Vivanco): its weights and its gallery, read as data.

None of its code is imported, so none of what that code imports is needed to answer.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import PriorError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["folder", "gallery", "weights"]

_GALLERY = Path("model", "gps_gallery", "coordinates_100K.csv")
_HEADER = "LAT,LON"


def folder() -> Path:
    """Where the package lies. Raises PriorError where it is not installed."""
    spec = find_spec("geoclip")
    if spec is None or not spec.submodule_search_locations:
        raise PriorError(
            "the package geoclip, whose weights and gallery are needed, is not installed: pip install geoclip"
        )
    return Path(spec.submodule_search_locations[0])


def gallery() -> NDArray[np.float64]:
    """Places of 100,000 photos of MP-16, (n, 2) degrees: latitude, longitude. Raises PriorError."""
    path = folder() / _GALLERY
    try:
        with open(path, encoding="utf-8") as lines:
            if lines.readline().strip() != _HEADER:
                raise ValueError(f"its first line is not {_HEADER}")
            places = np.loadtxt(lines, delimiter=",", dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as exc:
        raise PriorError(f"{path} is no gallery ({exc}): install geoclip again") from exc
    return places


def weights(name: str) -> "dict[str, Tensor] | Tensor":
    """One of its weight files, by stem: `location_encoder`, `image_encoder_mlp`, `logit_scale`. No pickle is run.

    Raises PriorError.
    """
    import torch

    path = folder() / "model" / "weights" / f"{name}_weights.pth"
    try:
        found: dict[str, Tensor] | Tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # torch raises whatever its reader stumbles over
        raise PriorError(f"{path} cannot be read ({exc}): install geoclip again") from exc
    return found
