"""From an aligned hypothesis to a fit: scale, turn and sub-pixel shift, optionally tilt; and how far parts lie off it.

The reference is drawn in the picture's own frame and aligned, after which it is drawn anew in the warped frame. As it
is always drawn around the present centre, converging meridians need no correction.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrieval.registration.align import ENERGY_FLOOR, score_of, warped
from retrieval.registration.fields import Field, fused
from retrieval.registration.geometry import Frame, pixel_centres
from retrieval.registration.reference import Reference
from retrieval.registration.templates import Query

__all__ = ["Fit", "refined", "residual_km"]

_PX, _MARGIN, _STEPS, _DRAWINGS = 64, 10, 6, 2
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


def refined(
    query: Query, reference: Reference, frame: Frame, tilt: bool = False, px: int = _PX, drawings: int = _DRAWINGS
) -> Fit:
    """The best fit near a frame; `tilt`: over all homographies, else over shift, scale and turn.

    `px`: the pixels of an edge that are compared; `drawings`: how often the reference is drawn anew.
    """
    target, margin = query.target(px), px * _MARGIN // _PX
    best = Fit(frame, -1.0)
    for last in [False] * drawings + [True]:
        drawn = _drawn(reference, frame, px, 0 if last else margin)
        score = score_of(target, drawn if last else drawn[margin:-margin, margin:-margin])
        if score > best.score:
            best = Fit(frame, score, "homography" if tilt else "similarity")
        if not last:
            frame = frame.warped(warped(target, drawn, margin, tilt, _STEPS)[0])
    return best


def residual_km(query: Query, reference: Reference, frame: Frame, px: int = _PX) -> float | None:
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
