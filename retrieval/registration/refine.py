"""From a hypothesis of the search to a fit: scale, turn and sub-pixel shift, optionally tilt.

The reference is drawn in the picture's own frame, and a warp is found by Gauss-Newton steps on the two fields (Lucas
and Kanade 1981; Baker and Matthews 2004), after which the reference is drawn anew in the warped frame. As it is always
drawn around the present centre, converging meridians need no correction.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.registration.fields import Field, fused
from retrieval.registration.geometry import Frame, pixel_centres
from retrieval.registration.reference import Reference
from retrieval.registration.search import ENERGY_FLOOR, Hypothesis
from retrieval.registration.templates import Query

__all__ = ["Fit", "aligned", "refined", "residual_km"]

Floats = NDArray[np.float64]

_COARSE_PX, _FINE_PX, _MARGIN = 32, 64, 12
_STEPS, _DRAWINGS = 5, 2
_SMALL_PX = 0.02
_BLOCKS, _REACH_PX, _FEWEST = 4, 6, 4
_LEAST_SHARE, _LEAST_SCORE = 0.3, 0.25
"""Of a block: its energy as a share of all blocks' mean, and its correlation at the best shift."""


@dataclass(frozen=True, eq=False)
class Fit:
    """How a picture lies, and the correlation of the fields over its whole central square, -1 to 1.

    `method`: `similarity`, or `homography` if tilt was fitted.
    """

    frame: Frame
    score: float
    method: str = "similarity"


def aligned(query: Query, reference: Reference, hypothesis: Hypothesis) -> Fit:
    """A quick fit near a hypothesis of the search, in few pixels: what orders hypotheses for `refined`."""
    frame = Frame.upright(hypothesis.lng, hypothesis.lat, hypothesis.edge_km, hypothesis.heading)
    margin = _COARSE_PX * _MARGIN // _FINE_PX
    drawn = _drawn(reference, frame, _COARSE_PX, margin)
    warp, score = _warp(query.upright(_COARSE_PX), drawn, margin, tilt=False)
    return Fit(frame.warped(warp), score)


def refined(
    query: Query, reference: Reference, frame: Frame, tilt: bool = False, px: int = _FINE_PX, drawings: int = _DRAWINGS
) -> Fit:
    """The best fit near a frame; `tilt`: over all homographies, else over shift, scale and turn.

    `px`: the pixels of an edge that are compared; `drawings`: how often the reference is drawn anew.
    """
    picture, margin = query.upright(px), px * _MARGIN // _FINE_PX
    best = Fit(frame, -1.0)
    for last in [False] * drawings + [True]:
        drawn = _drawn(reference, frame, px, 0 if last else margin)
        score = _score(picture, drawn if last else drawn[margin:-margin, margin:-margin])
        if score > best.score:
            best = Fit(frame, score, "homography" if tilt else "similarity")
        if not last:
            frame = frame.warped(_warp(picture, drawn, margin, tilt)[0])
    return best


def residual_km(query: Query, reference: Reference, frame: Frame, px: int = _FINE_PX) -> float | None:
    """How far parts of a picture still lie off a frame: the root mean square over 4 x 4 blocks, in km.

    Each block's shift is where its field correlates best with the reference's, by at most a tenth of the edge. Blocks
    without edges, in the picture or in the reference, say nothing, and neither do those that fit nowhere; None if fewer
    than four are left.
    """
    picture, drawn, side = query.upright(px), _drawn(reference, frame, px, _REACH_PX), 2 * _REACH_PX + 1
    windows = np.lib.stride_tricks.sliding_window_view(drawn, (px, px))
    both = _block_sums(np.stack([(np.conj(picture) * window).real for row in windows for window in row]))
    energy = _block_sums(np.stack([np.square(np.abs(window)) for row in windows for window in row]))
    own = _block_sums(np.square(np.abs(picture))[None])[0]
    floor = ENERGY_FLOOR * (px / _BLOCKS) ** 2
    scores = both / np.sqrt(np.maximum(own, 1e-6) * (energy + floor))
    reference_energy = energy[len(energy) // 2]
    has_edges = (own > _LEAST_SHARE * own.mean()) & (reference_energy > _LEAST_SHARE * reference_energy.mean())
    usable = np.flatnonzero(has_edges & (scores.max(axis=0) > _LEAST_SCORE))
    if len(usable) < _FEWEST:
        return None
    shifts = [_peak(scores[:, block].reshape(side, side)) for block in usable]
    return float(np.sqrt(np.mean([x * x + y * y for x, y in shifts])) * frame.edge_km / px)


def _block_sums(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums over blocks of squares (k, px, px): (k, blocks)."""
    size = values.shape[-1] // _BLOCKS
    return np.asarray(values.reshape(-1, _BLOCKS, size, _BLOCKS, size).sum(axis=(2, 4)).reshape(len(values), -1))


def _peak(scores: NDArray[np.float32]) -> tuple[float, float]:
    """The shift (x, y) in pixels of the largest of (side, side) scores, by parabolas through its neighbours."""
    row, column = (int(i) for i in np.unravel_index(np.argmax(scores), scores.shape))
    middle = len(scores) // 2
    return column - middle + _vertex(scores[row], column), row - middle + _vertex(scores[:, column], row)


def _vertex(values: NDArray[np.float32], at: int) -> float:
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = (float(v) for v in values[at - 1 : at + 2])
    bend = before - 2 * here + after
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5))


def _drawn(reference: Reference, frame: Frame, px: int, margin: int) -> Field:
    """The reference's field in the picture's frame, `px` pixels an edge and a margin."""
    u, v = pixel_centres(px, margin)
    return fused(reference.layers(*frame.ground(u, v), frame.edge_km / px))


def _score(picture: Field, drawn: Field) -> float:
    both = float(np.vdot(picture, drawn).real)
    energies = [float(np.square(np.abs(f)).sum()) for f in (picture, drawn)]
    return both / float(np.sqrt(max(energies[0], 1e-6) * (energies[1] + ENERGY_FLOOR * drawn.size)))


def _warp(picture: Field, drawn: Field, margin: int, tilt: bool) -> tuple[Floats, float]:
    """The warp (3, 3) of picture coordinates that brings the drawn field to the picture's, and the score with it."""
    n, total = len(picture), len(drawn)
    u, v = (w.ravel() for w in pixel_centres(n))
    slopes = [np.gradient(drawn, axis=1) * n, np.gradient(drawn, axis=0) * n]
    stacked = np.stack([drawn, *slopes], axis=-1).reshape(-1, 3)
    warp, target = np.eye(3), picture.ravel()
    best = warp, -1.0
    for _ in range(_STEPS + 1):
        depth = warp[2, 0] * u + warp[2, 1] * v + 1
        x, y = ((warp[i, 0] * u + warp[i, 1] * v + warp[i, 2]) / depth for i in (0, 1))
        column, row = (x + 0.5) * n - 0.5 + margin, (y + 0.5) * n - 0.5 + margin
        if max(column.max(), row.max()) > total - 1.5 or min(column.min(), row.min()) < 0.5:
            break
        value, slope_x, slope_y = _sampled(stacked, total, column, row).T
        score = _score(target, value)
        if score <= best[1]:
            break
        best = warp, score
        gain = np.vdot(value, target).real / max(float(np.square(np.abs(value)).sum()), 1e-6)
        rows = _derivatives(u, v, slope_x, slope_y, tilt) * gain
        left = np.concatenate([rows.real, rows.imag])
        difference = target - gain * value
        right = np.concatenate([difference.real, difference.imag])
        normal = left.T @ left
        normal[np.diag_indices(len(normal))] *= 1.0 + 1e-3
        step = _as_warp(np.linalg.solve(normal, left.T @ right), tilt)
        warp = warp @ step
        warp /= warp[2, 2]
        if np.abs(step - np.eye(3)).max() * n < _SMALL_PX:
            break
    return best


def _sampled(values: NDArray[np.complex64], total: int, column: Floats, row: Floats) -> NDArray[np.complex64]:
    """Bilinear samples of a (total * total, c) raster: (p, c)."""
    left, top = column.astype(np.int32), row.astype(np.int32)
    across, down = (column - left).astype(np.float32)[:, None], (row - top).astype(np.float32)[:, None]
    at = top * total + left
    upper = values[at] * (1 - across) + values[at + 1] * across
    lower = values[at + total] * (1 - across) + values[at + total + 1] * across
    return np.asarray(upper * (1 - down) + lower * down)


def _derivatives(
    u: Floats, v: Floats, slope_x: NDArray[np.complex64], slope_y: NDArray[np.complex64], tilt: bool
) -> NDArray[np.complex128]:
    """Derivatives of the warped field by the warp's parameters at the identity, (p, 4) or (p, 8)."""
    if not tilt:
        return np.stack([slope_x, slope_y, slope_x * u + slope_y * v, slope_y * u - slope_x * v], axis=1)
    along = slope_x * u + slope_y * v
    columns = [slope_x, slope_y, slope_x * u, slope_x * v, slope_y * u, slope_y * v, -along * u, -along * v]
    return np.stack(columns, axis=1)


def _as_warp(p: Floats, tilt: bool) -> Floats:
    if not tilt:
        return np.array([[1 + p[2], -p[3], p[0]], [p[3], 1 + p[2], p[1]], [0, 0, 1.0]])
    return np.array([[1 + p[2], p[3], p[0]], [p[4], 1 + p[5], p[1]], [p[6], p[7], 1.0]])
