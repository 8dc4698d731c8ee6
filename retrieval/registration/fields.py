"""Orientation fields: the directions of a picture's edges, without their contrast and sign.

A field is complex: twice the angle of the gradient, and a length that is the edge's strength among its neighbours. It
comes from the colour structure tensor J = sum over channels of (gx + i gy)^2. The double angle forgets the sign of
contrast and the division its strength, so what is left survives a change of style (CFOG, Ye et al. 2019; HOPC, Ye et
al. 2017). Rows run downwards. Knows no places.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Field", "Layer", "fused", "orientation_field"]

Field = NDArray[np.complex64]
Floats = NDArray[np.float32]
Layer = tuple[NDArray[np.float32], float]
"""Channels (c, h, w) from 0 to 255, and the weight of their field in the sum."""

BLUR_PX, MEAN_PX = 0.7, 2.5
"""Standard deviations, pixels: of the blur before differences, and of the neighbourhood whose mean strength divides."""
FLOOR = 0.8
"""Grey levels a pixel. Edges well below it are noise or compression, and stay short."""


def orientation_field(channels: Floats, step: int = 1) -> Field:
    """The field of each picture: (..., c, h, w) float32 from 0 to 255 to (..., h, w) complex64.

    `step`: the field is that of a picture with so many times fewer pixels an edge, but has a value at every pixel.
    """
    height, width = channels.shape[-2:]
    smooth_y, slope_y = _gradient_operators(height, step)
    smooth_x, slope_x = _gradient_operators(width, step)
    gx = smooth_y @ (channels @ slope_x.T)
    gy = slope_y @ (channels @ smooth_x.T)
    real, imaginary = (gx * gx - gy * gy).sum(axis=-3), 2 * (gx * gy).sum(axis=-3)
    squared = np.hypot(real, imaginary)
    strength = np.sqrt(squared)
    mean = _mean_operator(height, step) @ (strength @ _mean_operator(width, step).T)
    scale = 1 / (np.sqrt(squared) * (mean + FLOOR) + 1e-6)
    return np.asarray((real + 1j * imaginary) * scale, dtype=np.complex64)


def fused(layers: Sequence[Layer]) -> Field:
    """The weighted sum of the fields of several renditions of one place: (h, w) complex64."""
    total = sum(np.float32(weight) * orientation_field(channels) for channels, weight in layers)
    return np.asarray(total, dtype=np.complex64)


@lru_cache(maxsize=32)
def _gradient_operators(n: int, step: int) -> tuple[Floats, Floats]:
    """Blur with Scharr's smoothing, and blur with the central difference, as (n, n) matrices along one axis."""
    blur = _gaussian(BLUR_PX * step, 3 * step)
    between = np.zeros(step - 1)
    smooth = np.convolve(blur, np.concatenate([[3 / 16], between, [10 / 16], between, [3 / 16]]))
    slope = np.convolve(blur, np.concatenate([[-0.5], between, [0.0], between, [0.5]]))
    return _banded(smooth, n), _banded(slope, n)


@lru_cache(maxsize=32)
def _mean_operator(n: int, step: int) -> Floats:
    return _banded(_gaussian(MEAN_PX * step, 8 * step), n)


def _gaussian(sigma: float, reach: int) -> NDArray[np.float64]:
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum())


def _banded(kernel: NDArray[np.float64], n: int) -> Floats:
    """A correlation with the kernel as an (n, n) float32 matrix; the outermost values repeat beyond the edge."""
    reach, matrix = len(kernel) // 2, np.zeros((n, n), dtype=np.float32)
    for offset, weight in zip(range(-reach, reach + 1), kernel, strict=True):
        np.add.at(matrix, (np.arange(n), np.clip(np.arange(n) + offset, 0, n - 1)), weight)
    matrix.setflags(write=False)
    return matrix
