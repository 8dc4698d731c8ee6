"""The photo encoder of an index of rows only: none. Its embeddings have no components, and pictures are not looked at.

What such an index answers with is a prior, which brings an encoder of its own.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["NO_ENCODER", "NoEncoder"]

NO_ENCODER = "none"
"""Name and fingerprint in a manifest."""


class NoEncoder:
    """Satisfies `EncodesPhotos`."""

    dim = 0
    name = fingerprint = NO_ENCODER
    batch_size = 32

    @property
    def least_edge(self) -> int | None:
        """A picture may be decoded as small as it gets: nothing here looks at it."""
        return 1

    def prepare(self, image: Image.Image) -> NDArray[np.float32]:
        """Any picture to (3, 0, 0) float32."""
        return np.empty((3, 0, 0), dtype=np.float32)

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, 3, 0, 0) to (n, 0) float32."""
        return np.empty((len(batch), 0), dtype=np.float32)

    def describe(self) -> dict[str, Any]:
        """What a manifest keeps."""
        return {"name": self.name, "spec": NO_ENCODER, "fingerprint": self.fingerprint, "dim": 0, "preprocess": None}
