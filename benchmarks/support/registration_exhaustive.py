"""The first method of registration, as the peer of the present one: 32-pixel templates in 36 turns on every canvas.

It searches by FFT alone, aligns 40 hypotheses one by one in references drawn for each, and fits 6 exactly. It is kept
here, as it was, so that costs and accuracy can be compared in the same run. Its result has no `residual_km`.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.registration.accept import BUILT_IN, Features
from retrieval.registration.canvases import Canvas, CanvasCache
from retrieval.registration.fields import Field, fused
from retrieval.registration.geometry import Frame, ground, pixel_centres
from retrieval.registration.jobs import Effort, Job
from retrieval.registration.reference import Reference
from retrieval.registration.refine import Fit
from retrieval.registration.registration import distinct_fits
from retrieval.registration.result import Registration
from retrieval.registration.search import distance_km
from retrieval.registration.templates import CANVAS_EDGES, Query, Templates, disc

__all__ = ["EXHAUSTIVE", "EXHAUSTIVE_WORLD", "registered"]

Floats = NDArray[np.float64]

EXHAUSTIVE = Effort(px=32, turns=36, aligned=40, refined=6, tilted=3)
"""Near candidates."""
EXHAUSTIVE_WORLD = Effort(px=16, turns=24, aligned=150, refined=6, tilted=3)
"""On all land, where 32 pixels cost too much."""

ENERGY_FLOOR = 0.2
_PEAKS = 2
_SAME_PLACE, _SAME_TURN, _SAME_SCALE = 0.25, 25.0, 1.4
_COARSE_PX, _FINE_PX, _MARGIN = 32, 64, 12
_STEPS, _DRAWINGS = 5, 2
_SMALL_PX = 0.02
_NO_EDGES, _TILT_GAIN = 1e-3, 0.02


class Hypothesis(NamedTuple):
    """A place where a picture may fit: centre and heading in degrees, edge of the central square in km, score."""

    score: float
    lng: float
    lat: float
    edge_km: float
    heading: float


def registered(
    picture: NDArray[np.uint8], jobs: Sequence[Job], cache: CanvasCache, effort: Effort = EXHAUSTIVE
) -> Registration:
    """Register a picture, (h, w, 3) uint8 RGB, in some cells and turns; retrieval's confidence is left out."""
    size, query = (picture.shape[1], picture.shape[0]), Query(picture)
    templates = query.templates(effort.px, np.arange(effort.turns, dtype=np.float64) * (360 / effort.turns))
    if templates.energy < _NO_EDGES:
        return Registration(size, reason="the picture shows no edges")
    hypotheses: list[Hypothesis] = []
    for cell, turns in jobs:
        hypotheses += peaks(cache.canvas(cell, templates.px), templates.take(turns))
    fits = fits_of(query, cache.reference, sorted(hypotheses, reverse=True), effort)
    if not fits:
        return Registration(size, reason="the picture fits no place at all")
    best = fits[0]
    second = fits[1].score if len(fits) > 1 else best.score
    count = sum(len(turns) for _, turns in jobs)
    features = Features(best.score, best.score - max(second, 0.0), templates.energy, 0.0, float(np.log(count)))
    belief = BUILT_IN.probability(features)
    return Registration(size, belief >= BUILT_IN.threshold, belief, best.frame, features, best.method)


def scores(canvas: Canvas, templates: Templates) -> NDArray[np.float32]:
    """Scores of all templates at all places of their upper left corners: (t, 3 n + 1, 3 n + 1) float32, up to 1."""
    n, valid = CANVAS_EDGES * canvas.px, (CANVAS_EDGES - 1) * canvas.px + 1
    product = templates.spectra[:, 0] * canvas.spectra[0]
    product += templates.spectra[:, 1] * canvas.spectra[1]
    plain = np.fft.irfft2(product, s=(n, n))[:, :valid, :valid]
    norm = np.sqrt((canvas.energy + ENERGY_FLOOR) * disc(canvas.px).sum())
    return np.asarray(plain / norm, dtype=np.float32)


def peaks(canvas: Canvas, templates: Templates, count: int = _PEAKS) -> list[Hypothesis]:
    """The best places of a canvas, half an edge apart."""
    values = scores(canvas, templates)
    px, edge, best = canvas.px, canvas.cell.edge_km, []
    for _ in range(count):
        turn, row, column = np.unravel_index(np.argmax(values), values.shape)
        score = float(values[turn, row, column])
        if score <= 0:
            break
        offset = (CANVAS_EDGES - 1) * px / 2
        east, north = (column - offset) * edge / px, (offset - row) * edge / px
        lng, lat = ground(canvas.cell.lng, canvas.cell.lat, east, north)
        best.append(Hypothesis(score, float(lng), float(lat), edge, float(templates.headings[turn])))
        reach = px // 4
        values[:, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = -1
    return best


def distinct(hypotheses: Iterable[Hypothesis], count: int) -> list[Hypothesis]:
    """The first `count` hypotheses that differ from all better ones: in place, or in scale, or in heading."""
    chosen: list[Hypothesis] = []
    for h in hypotheses:
        if len(chosen) == count:
            break
        if not any(_is_same(h, c) for c in chosen):
            chosen.append(h)
    return chosen


def _is_same(a: Hypothesis, b: Hypothesis) -> bool:
    near = min(a.edge_km, b.edge_km) * _SAME_PLACE
    if abs(a.lat - b.lat) * 111.195 > near:
        return False
    turn = abs((a.heading - b.heading + 180) % 360 - 180)
    return (
        turn < _SAME_TURN and max(a.edge_km, b.edge_km) < _SAME_SCALE * near / _SAME_PLACE and distance_km(a, b) < near
    )


def fits_of(query: Query, reference: Reference, hypotheses: Sequence[Hypothesis], effort: Effort) -> list[Fit]:
    """Exact fits of the best places, best first; places are distinct."""
    quick = [aligned(query, reference, hypothesis) for hypothesis in distinct(hypotheses, effort.aligned)]
    fits = distinct_fits([refined(query, reference, fit.frame) for fit in distinct_fits(quick)[: effort.refined]])
    for i, fit in enumerate(fits[: effort.tilted]):
        fits[i] = with_tilt(query, reference, fit)
    return distinct_fits(fits)


def with_tilt(query: Query, reference: Reference, fit: Fit) -> Fit:
    """The fit with tilt, if that is better and a camera can see it."""
    tilted = refined(query, reference, fit.frame, tilt=True)
    return tilted if tilted.score > fit.score + _TILT_GAIN and tilted.frame.is_plausible else fit


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
