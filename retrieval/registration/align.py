"""Alignment: the warp that brings a reference's field onto a picture's, by inverse compositional steps on the fields.

The derivatives are those of the picture, so they and the normal equations are computed once for all hypotheses and
steps, and many hypotheses are aligned together (Baker and Matthews, Lucas-Kanade 20 years on, 2004). A step regresses
the reference on the picture, which leaves its size right where the two agree in part only. Knows no places.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.registration.fields import Field
from retrieval.registration.geometry import pixel_centres

__all__ = ["ENERGY_FLOOR", "Poses", "Target", "posed", "score_of", "warped"]

Floats = NDArray[np.float32]

ENERGY_FLOOR = 0.2
"""Mean squared length of a field, added to the reference's, so that flat ground does not win on noise."""
_DAMPING = 1e-3
_LEAST_GAIN = 0.15
_LONGEST = 0.08, 0.12
"""The longest step: of the shift in edges, and of scale and turn."""
_SMALL_PX = 0.02
_CHUNK = 96
"""Hypotheses aligned together, so that their samples stay in the processor's cache."""


class Poses(NamedTuple):
    """How a picture lies in canvases: picture coordinates w = u + iv are at `centre` + `turn` x w, all in edges.

    `centre`: (b,) complex64, from the canvas's middle, to the right and downwards. `turn`: (b,) complex64; its
    length is the footprint in edges of the canvas's scale, its angle the heading.
    """

    centre: NDArray[np.complex64]
    turn: NDArray[np.complex64]

    def take(self, which: NDArray[np.intp]) -> "Poses":
        """The poses at these positions."""
        return Poses(self.centre[which], self.turn[which])


@dataclass(frozen=True, eq=False)
class Target:
    """A picture's field as it lies, (n, n) complex64, and what steps need of it."""

    field: Field

    @cached_property
    def px(self) -> int:
        """Pixels of an edge."""
        return len(self.field)

    @cached_property
    def flat(self) -> Floats:
        """The field, (2 n n,) float32: real and imaginary parts in turn."""
        return np.ascontiguousarray(self.field).ravel().view(np.float32)

    @cached_property
    def energy(self) -> float:
        """The sum of the squared lengths."""
        return max(float(self.flat @ self.flat), 1e-6)

    @cached_property
    def similarity(self) -> tuple[Floats, Floats]:
        """The operator from samples to steps: shift x and y, scale, turn; and its value for the picture itself."""
        x, y, u, v = self._slopes()
        return self._operator([x, y, u * x + v * y, u * y - v * x - 2j * self.field.ravel()])

    @cached_property
    def homography(self) -> tuple[Floats, Floats]:
        """The same for the eight parameters of a homography."""
        x, y, u, v = self._slopes()
        along, turned = u * x + v * y, 1j * self.field.ravel()
        return self._operator([x, y, u * x, v * x + turned, u * y - turned, v * y, -along * u, -along * v])

    def _slopes(self) -> tuple[NDArray[np.complex64], ...]:
        u, v = (w.astype(np.float32).ravel() for w in pixel_centres(self.px))
        x, y = (np.gradient(self.field, axis=axis).ravel() * np.float32(self.px) for axis in (1, 0))
        return x, y, u, v  # type: ignore[return-value]

    def _operator(self, columns: list[NDArray[np.complex64]]) -> tuple[Floats, Floats]:
        rows = np.stack([np.ascontiguousarray(c, dtype=np.complex64).view(np.float32) for c in columns], axis=1)
        normal = (rows.T @ rows).astype(np.float64)
        normal[np.diag_indices(len(normal))] *= 1 + _DAMPING
        normal += 1e-9 * np.trace(normal) * np.eye(len(normal))
        operator = np.linalg.solve(normal, rows.T.astype(np.float64)).T.astype(np.float32)
        return operator, self.flat @ operator


def posed(
    target: Target, fields: NDArray[np.complex64], which: NDArray[np.intp], poses: Poses, steps: int
) -> tuple[Poses, Floats]:
    """Align a picture with canvases: the best poses on the way, and their scores (b,) float32, -1 to 1.

    `fields`: (k, m, m) complex64, with as many pixels an edge as the target. `which`: (b,), the canvas of each pose.
    """
    parts = [
        _posed(target, fields, which[i : i + _CHUNK], Poses(*(part[i : i + _CHUNK] for part in poses)), steps)
        for i in range(0, len(which), _CHUNK)
    ]
    centre, turn, scores = (np.concatenate(values) for values in zip(*parts, strict=True))
    return Poses(centre, turn), scores


def _posed(
    target: Target, fields: NDArray[np.complex64], which: NDArray[np.intp], poses: Poses, steps: int
) -> tuple[NDArray[np.complex64], NDArray[np.complex64], Floats]:
    operator, own = target.similarity
    both = np.concatenate([operator, target.flat[:, None]], axis=1)
    centre, turn = poses.centre.copy(), poses.turn.copy()
    best = centre.copy(), turn.copy(), np.full(len(which), -1, dtype=np.float32)
    for step in range(steps + 1):
        values = _canvas_samples(target.px, fields, which, centre, turn)
        products = values @ both
        energy = np.einsum("bp,bp->b", values, values)
        scores = products[:, -1] / np.sqrt(target.energy * (energy + ENERGY_FLOOR * target.field.size))
        better = scores > best[2]
        for kept, value in zip(best, (centre, turn, scores), strict=True):
            kept[better] = value[better]
        if step == steps:
            break
        gain = np.maximum(products[:, -1] / target.energy, _LEAST_GAIN)
        x, y, scale, angle = (products[:, :4] / gain[:, None] - own).T
        shift = _shortened(x + 1j * y, _LONGEST[0])
        warp = 1 + _shortened(scale + 1j * angle, _LONGEST[1])
        centre -= turn * shift / warp
        turn /= warp
    return best


def _canvas_samples(
    px: int,
    fields: NDArray[np.complex64],
    which: NDArray[np.intp],
    centre: NDArray[np.complex64],
    turn: NDArray[np.complex64],
) -> Floats:
    """The canvases as the picture would show them, its top up: (b, 2 px px) float32, real and imaginary in turn."""
    u, v = (w.astype(np.float32).ravel() for w in pixel_centres(px))
    size = fields.shape[-1]
    middle = np.float32((size - 1) / 2)
    a, c = turn[:, None] * np.float32(px), centre[:, None] * np.float32(px)
    column = np.clip(a.real * u - a.imag * v + c.real + middle, 0, size - 1.001)
    row = np.clip(a.imag * u + a.real * v + c.imag + middle, 0, size - 1.001)
    values = _bilinear(fields.reshape(-1), size, column, row, (which * size * size).astype(np.int32)[:, None])
    back = np.conj(turn) / np.maximum(np.abs(turn), 1e-6)
    values *= (back * back)[:, None]
    return values.view(np.float32)


def _bilinear(
    flat: NDArray[np.complex64], size: int, column: Floats, row: Floats, first: NDArray[np.int32] | int = 0
) -> NDArray[np.complex64]:
    """Samples of rasters (size, size) that begin at `first`, at positions inside them."""
    left, top = column.astype(np.int32), row.astype(np.int32)
    across, down = column - left.astype(np.float32), row - top.astype(np.float32)
    at = top * size + left + first
    value = flat[at]
    upper = value + (flat[at + 1] - value) * across
    value = flat[at + size]
    lower = value + (flat[at + (size + 1)] - value) * across
    return np.asarray(upper + (lower - upper) * down)


def _shortened(step: NDArray[np.complex64], longest: float) -> NDArray[np.complex64]:
    return np.asarray(step / np.maximum(1, np.abs(step) / longest), dtype=np.complex64)


def score_of(target: Target, drawn: Field) -> float:
    """The correlation of a picture with a reference drawn in its frame, (n, n): -1 to 1."""
    flat = np.ascontiguousarray(drawn).ravel().view(np.float32)
    energy = float(flat @ flat) + ENERGY_FLOOR * drawn.size
    return float(target.flat @ flat) / float(np.sqrt(target.energy * energy))


def warped(target: Target, drawn: Field, margin: int, tilt: bool, steps: int) -> tuple[NDArray[np.float64], float]:
    """The warp (3, 3) of picture coordinates that brings a drawn field to the picture's, and the score with it.

    `drawn`: (n + 2 margin, n + 2 margin), the reference in the picture's frame. `tilt`: over all homographies, else
    over similarities. The warp stays within the margin.
    """
    operator, own = target.homography if tilt else target.similarity
    n, total = target.px, len(drawn)
    u, v = (w.astype(np.float32).ravel() for w in pixel_centres(n))
    flat, matrix = np.ascontiguousarray(drawn).ravel(), np.eye(3)
    best = matrix, -1.0
    for _ in range(steps + 1):
        m = matrix.astype(np.float32)
        depth = m[2, 0] * u + m[2, 1] * v + 1
        x, y = ((m[i, 0] * u + m[i, 1] * v + m[i, 2]) / depth for i in (0, 1))
        column, row = (x + 0.5) * n - 0.5 + margin, (y + 0.5) * n - 0.5 + margin
        if max(column.max(), row.max()) > total - 1.5 or min(column.min(), row.min()) < 0.5:
            break
        angle = np.arctan2(matrix[1, 0] - matrix[0, 1], matrix[0, 0] + matrix[1, 1])
        values = _bilinear(flat, total, column, row) * np.complex64(np.exp(-2j * angle))
        score = score_of(target, values)
        if score <= best[1]:
            break
        best = matrix, score
        samples = values.view(np.float32)
        gain = max(float(samples @ target.flat) / target.energy, _LEAST_GAIN)
        step = _as_warp((samples @ operator / gain - own).astype(np.float64), tilt)
        matrix = matrix @ np.linalg.inv(step)
        matrix /= matrix[2, 2]
        if np.abs(step - np.eye(3)).max() * n < _SMALL_PX:
            break
    return best


def _as_warp(p: NDArray[np.float64], tilt: bool) -> NDArray[np.float64]:
    if not tilt:
        return np.array([[1 + p[2], -p[3], p[0]], [p[3], 1 + p[2], p[1]], [0, 0, 1.0]])
    return np.array([[1 + p[2], p[3], p[0]], [p[4], 1 + p[5], p[1]], [p[6], p[7], 1.0]])
