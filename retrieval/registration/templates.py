"""A picture as templates: its orientation field in a disc, turned to each heading, ready to be correlated.

A template of n pixels shows the picture's central square with north up, if the picture's top points to `heading`. It is
scaled to unit length, and its spectrum is that of a canvas of 4 n pixels. Knows no places.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval.registration.align import Target
from retrieval.registration.fields import Field, orientation_field
from retrieval.registration.geometry import pixel_centres

__all__ = ["CANVAS_EDGES", "Query", "Templates", "disc"]

Floats = NDArray[np.float32]

CANVAS_EDGES = 4
"""Edges of a canvas, in edges of the picture."""
_FINER = 2
"""A picture's field is computed at so many times the pixels of a template, so that turning it does not blur it."""


@dataclass(frozen=True, eq=False)
class Templates:
    """Templates of one size.

    `headings`: (t,) degrees. `spectra`: (t, 2, 4 n, 2 n + 1) complex64, conjugate, of the fields' real and imaginary
    parts. `energy`: the mean squared length of the fields in the disc, before scaling.
    """

    px: int
    headings: NDArray[np.float64]
    spectra: NDArray[np.complex64]
    energy: float

    def take(self, which: NDArray[np.intp]) -> "Templates":
        """The templates at these positions."""
        if len(which) == len(self.headings):
            return self
        return replace(self, headings=self.headings[which], spectra=self.spectra[which])


class Query:
    """A picture's central square, for templates of any size. `picture`: (h, w, 3) uint8 RGB."""

    def __init__(self, picture: NDArray[np.uint8]) -> None:
        height, width = picture.shape[:2]
        edge = min(height, width)
        top, left = (height - edge) // 2, (width - edge) // 2
        self.aspect = width / edge, height / edge
        """Width and height of the whole picture, in edges of its central square."""
        self._square = Image.fromarray(np.ascontiguousarray(picture[top : top + edge, left : left + edge]))
        self._fields: dict[int, Field] = {}
        self._targets: dict[int, Target] = {}

    def templates(self, px: int, headings: Sequence[float] | NDArray[np.float64]) -> Templates:
        """The templates of `px` pixels at these headings, degrees."""
        turns = np.asarray(headings, dtype=np.float64)
        fields = self.fields(px, turns)
        masked = fields * disc(px)
        energy = np.square(np.abs(masked)).sum(axis=(1, 2))
        unit = masked / np.sqrt(np.maximum(energy, 1e-6))[:, None, None]
        n = CANVAS_EDGES * px
        parts = np.stack([unit.real, unit.imag], axis=1)
        spectra = np.conj(np.fft.rfft2(parts, s=(n, n))).astype(np.complex64)
        return Templates(px, turns, spectra, float(energy.mean() / disc(px).sum()))

    def fields(
        self, px: int, headings: NDArray[np.float64], scales: NDArray[np.float64] | float = 1.0, margin: int = 0
    ) -> Field:
        """Fields with north up, (t, px, px) complex64; a scale of 1.1 shows 1.1 edges."""
        u, v = pixel_centres(px, margin)
        turn = np.radians(headings)[:, None, None]
        size = np.broadcast_to(np.asarray(scales), headings.shape)[:, None, None]
        right = (u * np.cos(turn) + v * np.sin(turn)) * size
        down = (v * np.cos(turn) - u * np.sin(turn)) * size
        return _bilinear(self._fine_field(px), right, down) * np.exp(2j * turn).astype(np.complex64)

    def target(self, px: int) -> Target:
        """The field of the central square as it lies, in `px` pixels, to be aligned with."""
        if px not in self._targets:
            self._targets[px] = Target(self.fields(px, np.zeros(1))[0])
        return self._targets[px]

    def upright(self, px: int) -> Field:
        """The field of the central square as it lies, (px, px) complex64."""
        return self.target(px).field

    def _fine_field(self, px: int) -> Field:
        """The field for templates of `px` pixels, at twice as many, as the picture lies: (2 px, 2 px) complex64."""
        if px not in self._fields:
            edge = _FINER * px
            method = Image.Resampling.BOX if self._square.width >= edge else Image.Resampling.BICUBIC
            pixels = np.asarray(self._square.resize((edge, edge), method), dtype=np.float32)
            self._fields[px] = orientation_field(np.ascontiguousarray(pixels.transpose(2, 0, 1)), _FINER)
        return self._fields[px]


@lru_cache(maxsize=16)
def disc(px: int) -> Floats:
    """1 in the disc inside a square of `px` pixels, one pixel from its edge, and 0 outside: (px, px) float32."""
    u, v = pixel_centres(px)
    inside = (np.hypot(u, v) * px < px / 2 - 0.5).astype(np.float32)
    inside.setflags(write=False)
    return inside


def _bilinear(field: Field, u: NDArray[np.float64], v: NDArray[np.float64]) -> Field:
    """Sample a square field (s, s) at picture coordinates of any shape; the outermost values repeat outside."""
    size = field.shape[-1]
    x, y = (np.clip((w.astype(np.float32) + 0.5) * size - 0.5, 0, size - 1.001) for w in (u, v))
    left, top = x.astype(np.int32), y.astype(np.int32)
    across, down = x - left.astype(np.float32), y - top.astype(np.float32)
    flat, at = field.ravel(), top * size + left
    upper = flat[at] * (1 - across) + flat[at + 1] * across
    lower = flat[at + size] * (1 - across) + flat[at + size + 1] * across
    return np.asarray(upper * (1 - down) + lower * down)
