"""Splits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.photos.photo_set import PhotoSet

__all__ = ["SplitPlan", "split"]


@dataclass(frozen=True)
class SplitPlan:
    """How a set is split."""

    ratio: tuple[int, int, int] = (10, 1, 1)
    seed: int = 0
    geographic: bool = False
    near_duplicates: bool = True


def split(photos: PhotoSet, hashes: NDArray[np.uint64] | None, plan: SplitPlan = SplitPlan()) -> PhotoSet:
    """The same set with `split` filled."""
    raise NotImplementedError
