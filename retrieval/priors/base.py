"""What a prior is to the beam: for each picture a belief, which gives every tile of the Earth its probability.

Latitudes beyond Web Mercator's 85.05 degrees belong to no tile: a belief is normalised over the Mercator square.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from tile_cache.addressing import LngLat

if TYPE_CHECKING:
    from retrieval.encoders.open_clip import EncodesPhotos

__all__ = ["Belief", "Prior"]


class Belief(Protocol):
    """A probability over the Earth, of one picture. Sums to 1 over all tiles of a zoom; children sum to their parent.

    A soft belief gives every tile something (`grid.FLOOR`), so that it can be outvoted; a tile with nothing is removed
    from the search.
    """

    def log_mass(self, codes: NDArray[np.uint64], zoom: int) -> NDArray[np.float32]:
        """Morton codes at a zoom, (n,), to natural logs of their tiles' probabilities, (n,); -inf where there is none.

        Asked once a level with the beam's candidates, so it must cost no more than they are many.
        """
        ...

    def best(self) -> LngLat:
        """The one place that the prior would answer with, degrees."""
        ...


class Prior(Protocol):
    """Pictures to beliefs. `fingerprint`: of weights, gallery and partition; a calibration is for one fingerprint.

    `encoder` makes its features (`prepare` and `encode` as in `retrieval.encoders`); None: its features are the index's
    own photo embeddings, or are not looked at.
    """

    name: str
    fingerprint: str
    encoder: "EncodesPhotos | None"

    def beliefs(self, features: NDArray[np.float32]) -> Sequence[Belief]:
        """(n, f) features to one belief a picture."""
        ...
