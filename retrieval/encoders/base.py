"""What the rest of the program expects of encoders, and the encoder of an index without vectors.

Imports neither torch nor open_clip, so any module may import it. Implementations: `open_clip` (and `timm`), and the
fakes in `retrieval.testing.fake`.
"""

import re
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.errors import EncoderError

__all__ = ["NO_ENCODER", "EncodesPhotos", "EncodesTiles", "NoEncoder", "check_device_name"]

NO_ENCODER = "none"
"""Name and fingerprint of `NoEncoder` in a manifest."""

_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:[0-9]{1,3})?")


def check_device_name(device: str) -> None:
    """Raise EncoderError for what is no name of a device, before anything is loaded."""
    if not _DEVICE.fullmatch(device):
        raise EncoderError(f"unknown device {device!r}: use auto, cpu or cuda")


class EncodesPhotos(Protocol):
    """A photo encoder: pictures to embeddings. `fingerprint` identifies weights and preprocessing."""

    dim: int
    fingerprint: str
    name: str
    batch_size: int

    @property
    def min_edge(self) -> int | None:
        """A picture may be decoded at a smaller size if both edges keep at least this many pixels; None: never."""
        ...

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """Preprocess an RGB picture of any size to (3, s, s) float32; thread-safe."""
        ...

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed prepared pictures: (n, 3, s, s) float32 to (n, dim) float32 unit rows."""
        ...


class EncodesTiles(Protocol):
    """Map encoders, one per zoom: tiles to embeddings."""

    dim: int
    input_size: int
    batch_size: int

    def context(self, zoom: int) -> float:
        """The margin around a tile that the zoom's encoder sees, in tile widths."""
        ...

    def fingerprint(self, zoom: int) -> str:
        """Identifies weights, preprocessing and context of the zoom's encoder."""
        ...

    def encode(self, zoom: int, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed tiles: (n, s, s, 3) uint8 RGB to (n, dim) float32 unit rows."""
        ...


class NoEncoder:
    """The photo encoder of an index of rows only: it does not look at pictures, and its embeddings have no components.

    Such an index is searched with a prior, which brings its own encoder.
    """

    dim = 0
    name = fingerprint = NO_ENCODER
    batch_size = 32

    @property
    def min_edge(self) -> int | None:
        """1: pictures may be decoded at any size."""
        return 1

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """Any picture to (3, 0, 0) float32."""
        return np.empty((3, 0, 0), dtype=np.float32)

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 3, 0, 0) to (n, 0) float32."""
        return np.empty((len(batch), 0), dtype=np.float32)

    def describe(self) -> dict[str, Any]:
        """The description for a manifest."""
        return {"name": self.name, "spec": NO_ENCODER, "fingerprint": self.fingerprint, "dim": 0, "preprocess": None}
