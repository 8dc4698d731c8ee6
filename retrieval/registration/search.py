"""Where a picture fits: correlation of its templates with canvases, and the best distinct places."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.registration.canvases import Canvas
from retrieval.registration.geometry import ground
from retrieval.registration.templates import CANVAS_EDGES, Templates, disc
from retrieval.sphere import EARTH_RADIUS_KM, great_circle_km

__all__ = ["Hypothesis", "Place", "distance_km", "distinct", "peaks", "scores"]

ENERGY_FLOOR = 0.2
_PEAKS = 2
_SAME_PLACE, _SAME_TURN, _SAME_SCALE = 0.25, 25.0, 1.4
"""Edges, degrees and a factor: what lies nearer than all three is corrected to the same fit."""
_DEGREE_KM = EARTH_RADIUS_KM * np.pi / 180


class Place(Protocol):
    """Anything with a centre in degrees."""

    @property
    def lng(self) -> float: ...

    @property
    def lat(self) -> float: ...


class Hypothesis(NamedTuple):
    """A place where a picture may fit: centre and heading in degrees, edge of the central square in km, score."""

    score: float
    lng: float
    lat: float
    edge_km: float
    heading: float


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


def distance_km(a: Place, b: Place) -> float:
    """Great-circle distance."""
    return float(great_circle_km(*(np.float64(w) for w in (a.lng, a.lat, b.lng, b.lat))))  # type: ignore[arg-type]


def _is_same(a: Hypothesis, b: Hypothesis) -> bool:
    near = min(a.edge_km, b.edge_km) * _SAME_PLACE
    if abs(a.lat - b.lat) * _DEGREE_KM > near:
        return False
    turn = abs((a.heading - b.heading + 180) % 360 - 180)
    return (
        turn < _SAME_TURN and max(a.edge_km, b.edge_km) < _SAME_SCALE * near / _SAME_PLACE and distance_km(a, b) < near
    )
