"""Canvases: the reference's field around fixed places, as spectra ready to be correlated with templates.

The Earth is covered, for each of some footprints ("scales"), by a fixed grid of overlapping squares of 4 edges. A
canvas of n-pixel templates has 4 n pixels, each edge / n wide, so that one set of templates fits every scale and place.
Canvases are cached within a set memory. Knows no pictures.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from retrieval.registration.fields import Field, fused
from retrieval.registration.geometry import Frame, ground, pixel_centres, plane
from retrieval.registration.reference import Reference
from retrieval.registration.templates import CANVAS_EDGES, disc
from retrieval.sphere import EARTH_RADIUS_KM, great_circle_km

__all__ = ["EDGES_KM", "Canvas", "CanvasCache", "Cell", "cells_near", "cells_of", "cells_with"]

Floats = NDArray[np.float64]

EDGES_KM = tuple(120.0 * 1.25**i for i in range(15))
"""The scales: 120 to 2,728 km. A template fits footprints up to 12% off."""
_STEPS = 20
_SPACING = 2.8
"""Edges between the centres of neighbouring cells; templates fit with their centres up to 1.5 edges from a cell's."""
_QUARTER_KM = EARTH_RADIUS_KM * np.pi / 180


class Cell(NamedTuple):
    """A square of the grid: its scale (an index of EDGES_KM), and its centre in degrees."""

    scale: int
    lng: float
    lat: float

    @property
    def edge_km(self) -> float:
        """The footprint of pictures that this cell is for."""
        return EDGES_KM[self.scale]


@dataclass(frozen=True, eq=False)
class Canvas:
    """A cell's field for templates of n pixels.

    `field`: (4 n, 4 n, 2) int8, as `packed` makes it. `spectra`: (2, 4 n, 2 n + 1) complex64, of the field's real and
    imaginary part. `energy`: (3 n + 1, 3 n + 1) float32, the mean squared length of the field under a template's disc,
    at each place of its upper left corner.
    """

    cell: Cell
    px: int
    field: NDArray[np.int8]
    spectra: NDArray[np.complex64]
    energy: NDArray[np.float32]

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.field.nbytes + self.spectra.nbytes + self.energy.nbytes


def drawn_field(reference: Reference, cell: Cell, px: int) -> Field:
    """The reference's field in a cell, (4 px, 4 px) complex64."""
    frame = Frame.upright(cell.lng, cell.lat, CANVAS_EDGES * cell.edge_km)
    lng, lat = frame.ground(*pixel_centres(CANVAS_EDGES * px))
    return fused(reference.layers(lng, lat, cell.edge_km / px))


def packed(field: Field) -> NDArray[np.int8]:
    """A field (..., n, n) as real and imaginary parts (..., n, n, 2) int8, in steps of 1/20 and at most 6.35 long."""
    parts = np.stack([field.real, field.imag], axis=-1) * np.float32(_STEPS)
    return np.asarray(np.clip(np.rint(parts), -127, 127).astype(np.int8))


def unpacked(parts: NDArray[np.int8]) -> NDArray[np.complex64]:
    """Undo `packed`: (..., n, n) complex64."""
    return (parts * np.float32(1 / _STEPS)).view(np.complex64)[..., 0]


def draw(reference: Reference, cell: Cell, px: int) -> Canvas:
    """The canvas of a cell for templates of `px` pixels."""
    n = CANVAS_EDGES * px
    field = drawn_field(reference, cell, px)
    spectra = np.fft.rfft2(np.stack([field.real, field.imag])).astype(np.complex64)
    squared = np.fft.rfft2(np.square(np.abs(field))) * _disc_spectrum(px)
    energy = np.fft.irfft2(squared, s=(n, n))[: n - px + 1, : n - px + 1]
    return Canvas(cell, px, packed(field), spectra, np.maximum(energy, 0).astype(np.float32))


_Entry = TypeVar("_Entry", Canvas, NDArray[np.int8])


class CanvasCache:
    """Canvases of one reference, at most `max_bytes` of them, least recently used first out; for several threads."""

    def __init__(self, reference: Reference, max_bytes: int = 256_000_000) -> None:
        self.reference, self.max_bytes = reference, max_bytes
        self.nbytes = 0
        self._entries: OrderedDict[tuple[int, Cell, bool], Canvas | NDArray[np.int8]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Canvas | NDArray[np.int8]]:
        """The canvases and fields in memory, least recently used first."""
        with self._lock:
            return list(self._entries.values())

    def canvas(self, cell: Cell, px: int) -> Canvas:
        """The canvas of a cell for templates of `px` pixels, drawn if it is not in memory."""
        return self._cached((px, cell, True), lambda: draw(self.reference, cell, px))

    def field(self, cell: Cell, px: int) -> NDArray[np.int8]:
        """The field alone of such a canvas, `packed`."""
        with self._lock:
            if isinstance(canvas := self._entries.get((px, cell, True)), Canvas):
                return canvas.field
        return self._cached((px, cell, False), lambda: packed(drawn_field(self.reference, cell, px)))

    def _cached(self, key: tuple[int, Cell, bool], make: Callable[[], _Entry]) -> _Entry:
        with self._lock:
            if (entry := self._entries.get(key)) is not None:
                self._entries.move_to_end(key)
                return entry  # type: ignore[return-value]  # the key says which of the two it is
        made = make()  # without the lock: two threads may draw the same, and one is dropped
        with self._lock:
            if key not in self._entries and made.nbytes <= self.max_bytes:
                self._entries[key] = made
                self.nbytes += made.nbytes
            while self.nbytes > self.max_bytes:
                self.nbytes -= self._entries.popitem(last=False)[1].nbytes
        return made


@lru_cache(maxsize=32)
def cells_of(scale: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The centres of all cells of a scale, (m,) longitudes and latitudes in degrees."""
    step = _SPACING * EDGES_KM[scale] / _QUARTER_KM
    count = max(1, int(np.ceil(180 / step)))
    lats = (np.arange(count) + 0.5) * (180 / count) - 90
    lngs, rows = [], []
    for lat in lats:
        near = max(0.0, abs(lat) - 90 / count)  # the row's edge towards the equator, where it is longest
        columns = max(1, int(np.ceil(360 * np.cos(np.radians(near)) / step)))
        lngs.append((np.arange(columns) + 0.5) * (360 / columns) - 180)
        rows.append(np.full(columns, lat))
    return np.concatenate(lngs), np.concatenate(rows)


def cells_near(scale: int, lng: float, lat: float, km: float) -> list[Cell]:
    """The cells of a scale that hold places within `km` of a place, nearest first; always at least one."""
    lngs, lats = cells_of(scale)
    half = 0.5 * _SPACING * EDGES_KM[scale]
    away = great_circle_km(lngs, lats, np.float64(lng), np.float64(lat))  # type: ignore[arg-type]
    possible = np.flatnonzero(away < np.maximum(km + 1.6 * half, away.min() + half))
    offsets = plane(lngs[possible], lats[possible], lng, lat)
    aside = np.hypot(*(np.maximum(np.abs(offset) - half, 0.0) for offset in offsets))
    order = possible[np.lexsort((away[possible], aside))]
    reached = np.sort(aside) <= max(km, 0.1 * half)
    return [Cell(scale, float(lngs[i]), float(lats[i])) for n, i in enumerate(order) if n == 0 or reached[n]]


def cells_with(scale: int, has_ground: Callable[[Floats, Floats], NDArray[np.bool_]]) -> list[Cell]:
    """The cells of a scale of which at least one of 81 places has ground; `has_ground` takes degrees of any shape."""
    lngs, lats = cells_of(scale)
    east, north = (w.ravel() * 9 / 8 * _SPACING * EDGES_KM[scale] for w in pixel_centres(9))
    inside = has_ground(*ground(lngs[:, None], lats[:, None], east, north)).any(axis=1)
    return [Cell(scale, float(lngs[i]), float(lats[i])) for i in np.flatnonzero(inside)]


@lru_cache(maxsize=8)
def _disc_spectrum(px: int) -> NDArray[np.complex64]:
    n = CANVAS_EDGES * px
    inside = disc(px)
    return np.conj(np.fft.rfft2(inside / inside.sum(), s=(n, n))).astype(np.complex64)
