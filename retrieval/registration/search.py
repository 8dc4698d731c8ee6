"""Where a picture fits: correlation of its templates with canvases, and the best distinct hypotheses."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from retrieval.registration.align import ENERGY_FLOOR, Poses, posed
from retrieval.registration.canvases import Canvas, CanvasCache, Cell, unpacked
from retrieval.registration.geometry import Frame, ground
from retrieval.registration.templates import CANVAS_EDGES, Query, Templates, disc
from retrieval.search.deadline import Deadline
from retrieval.sphere import EARTH_RADIUS_KM, great_circle_km, unit_vectors

__all__ = ["OTHER_PLACE", "Hypothesis", "Place", "aligned", "distance_km", "distinct", "peaks", "scores"]

OTHER_PLACE = 0.5
"""Fits nearer than so many edges show the same place."""
_PEAKS = 2
_SAME_PLACE, _SAME_TURN, _SAME_SCALE = 0.25, 25.0, 1.4
"""Edges, degrees and a factor: what lies nearer than all three is corrected to the same fit."""


class Place(Protocol):
    """Anything with a centre in degrees."""

    @property
    def lng(self) -> float: ...

    @property
    def lat(self) -> float: ...


class Hypothesis(NamedTuple):
    """How a picture may lie in a cell's canvas; `centre` and `turn` as in `Poses`."""

    score: float
    cell: Cell
    centre: complex
    turn: complex

    @property
    def frame(self) -> Frame:
        """The frame around the hypothesis's own centre."""
        a, c, edge = self.turn, self.centre, self.cell.edge_km
        matrix = [[a.real, -a.imag, c.real], [-a.imag, -a.real, -c.imag], [0.0, 0.0, 1.0]]
        scale = np.diag([edge, edge, 1.0])
        return Frame(self.cell.lng, self.cell.lat, scale @ np.array(matrix)).warped(np.eye(3))


def scores(canvas: Canvas, templates: Templates) -> NDArray[np.float32]:
    """Scores of all templates at all places of their upper left corners: (t, 3 n + 1, 3 n + 1) float32, up to 1."""
    n, valid = CANVAS_EDGES * canvas.px, (CANVAS_EDGES - 1) * canvas.px + 1
    product = templates.spectra[:, 0] * canvas.spectra[0]
    product += templates.spectra[:, 1] * canvas.spectra[1]
    plain = np.fft.irfft2(product, s=(n, n))[:, :valid, :valid]
    return np.asarray(plain / np.sqrt((canvas.energy + ENERGY_FLOOR) * disc(canvas.px).sum()), dtype=np.float32)


def peaks(canvas: Canvas, templates: Templates, count: int = _PEAKS) -> list[Hypothesis]:
    """The best places of a canvas, a quarter of an edge apart."""
    values = scores(canvas, templates)
    best_turn = values.max(axis=0)
    px, best = canvas.px, []
    offset, reach = (CANVAS_EDGES - 1) * px / 2, px // 4
    for _ in range(count):
        row, column = divmod(int(best_turn.argmax()), best_turn.shape[1])
        score = float(best_turn[row, column])
        if score <= 0:
            break
        turn = np.exp(1j * np.radians(templates.headings[int(values[:, row, column].argmax())]))
        best.append(Hypothesis(score, canvas.cell, complex(column - offset, row - offset) / px, complex(turn)))
        best_turn[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = -1
    return best


def aligned(
    query: Query, cache: CanvasCache, hypotheses: Sequence[Hypothesis], px: int, steps: int, deadline: Deadline
) -> list[Hypothesis]:
    """Hypotheses corrected for shift, scale and turn on their canvases with `px` pixels an edge, in the same order.

    After the deadline no more canvases are drawn, and the hypotheses that need them are left out at the end.
    """
    cells: dict[Cell, int] = {}
    fields: list[NDArray[np.int8]] = []
    kept: list[Hypothesis] = []
    for h in hypotheses:
        if h.cell not in cells:
            if fields and deadline.is_over:
                break
            cells[h.cell] = len(fields)
            fields.append(cache.field(h.cell, px))
        kept.append(h)
    if not kept:
        return []
    which = np.array([cells[h.cell] for h in kept])
    centres, turns = (np.array([getattr(h, name) for h in kept], dtype=np.complex64) for name in ("centre", "turn"))
    poses, values = posed(query.target(px), unpacked(np.stack(fields)), which, Poses(centres, turns), steps)
    ends = zip(kept, values.tolist(), poses.centre.tolist(), poses.turn.tolist(), strict=True)
    return [Hypothesis(score, h.cell, centre, turn) for h, score, centre, turn in ends]


def distinct(hypotheses: Sequence[Hypothesis], count: int, by_place: bool = False) -> list[Hypothesis]:
    """The best `count` hypotheses that differ from all better ones: in place, or in scale, or in heading.

    `by_place`: they must show different places, by at least half of the larger footprint.
    """
    if not hypotheses:
        return []
    order = sorted(hypotheses, key=lambda h: -h.score)
    lng, lat, size = (np.array(w) for w in zip(*((h.cell.lng, h.cell.lat, h.cell.edge_km) for h in order), strict=True))
    centre, turn = np.array([h.centre for h in order]) * size, np.array([h.turn for h in order])
    places = unit_vectors(*ground(lng, lat, centre.real, -centre.imag))
    edges, headings = size * np.abs(turn), turn / np.maximum(np.abs(turn), 1e-9)
    alive, chosen = np.ones(len(order), dtype=np.bool_), list[Hypothesis]()
    least = np.cos(np.radians(_SAME_TURN))
    while len(chosen) < count and alive.any():
        i = int(alive.argmax())
        chosen.append(order[i])
        larger, smaller = np.maximum(edges, edges[i]), np.minimum(edges, edges[i])
        near = (OTHER_PLACE * larger if by_place else _SAME_PLACE * smaller) / EARTH_RADIUS_KM
        same = np.square(places - places[i]).sum(axis=1) < near * near
        if not by_place:
            same &= ((headings * headings[i].conj()).real > least) & (larger < _SAME_SCALE * smaller)
        alive &= ~same
        alive[i] = False
    return chosen


def distance_km(a: Place, b: Place) -> float:
    """Great-circle distance."""
    return float(great_circle_km(*(np.float64(w) for w in (a.lng, a.lat, b.lng, b.lat))))  # type: ignore[arg-type]
