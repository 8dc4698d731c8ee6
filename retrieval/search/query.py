"""A query to an index: what the caller may choose, checked when it is made. Degrees.

It knows nothing of any index; `retrieval.search.plan` resolves a query against one.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.geo.box import check_box, spans_of
from retrieval.search.options import DEFAULT_K, MAX_ALTERNATIVES, MAX_K, MAX_WIDTH_KM, Register, Scoring
from tile_cache.addressing import mercator_y, morton_decode

if TYPE_CHECKING:  # loads shapely, which queries without a region do not need
    from retrieval.geo.region import Region

NO_PRIOR = "none"


@dataclass(frozen=True)
class BBox:
    """A rectangle with area in degrees; west > east crosses the date line. Raises RegionError if it covers no tile."""

    west: float
    south: float
    east: float
    north: float

    def __post_init__(self) -> None:
        check_box(self.west, self.south, self.east, self.north)

    def spans(self) -> tuple[tuple[float, float], ...]:
        """Its longitudes as (west, east) with west < east: one span, or two where it crosses the date line."""
        return spans_of(self.west, self.east)

    def contains(self, lng: float, lat: float) -> bool:
        """Whether a point, in degrees, lies in the box."""
        return self.south <= lat <= self.north and any(west <= lng <= east for west, east in self.spans())

    def meets(self, codes: NDArray[np.uint64], zoom: int) -> NDArray[np.bool_]:
        """Which tiles share area with the box: (n,) codes to (n,) bool; sharing only an edge is not enough."""
        n = float(1 << zoom)
        x, y = morton_decode(codes)
        top, bottom = mercator_y(self.north) * n, mercator_y(self.south) * n
        rows = _overlaps(y, top, bottom)
        columns = [_overlaps(x, (west + 180) / 360 * n, (east + 180) / 360 * n) for west, east in self.spans()]
        return np.asarray(rows & np.logical_or.reduce(columns))


@dataclass(frozen=True)
class Constraint:
    """Where the picture is known to have been taken: inside the box, inside the region, or inside both."""

    bbox: BBox | None = None
    region: "Region | None" = None

    def __str__(self) -> str:
        box = self.bbox
        parts = [] if box is None else [f"bbox {box.west},{box.south},{box.east},{box.north}"]
        return " and ".join(parts if self.region is None else [*parts, "within"])

    def meets(self, codes: NDArray[np.uint64], zoom: int) -> NDArray[np.bool_]:
        """Which tiles may hold the place: (n,) codes to (n,) bool."""
        allowed = np.ones(len(codes), dtype=np.bool_) if self.bbox is None else self.bbox.meets(codes, zoom)
        return allowed if self.region is None else allowed & self.region.meets_bounded(codes, zoom)


@dataclass(frozen=True)
class LocateQuery:
    """How to search, and what the answer should contain. Raises QueryError for a value out of range.

    `k`: beam width, 1 to 1024 tiles per zoom. `alternatives`: further places to return, 0 to 20. `trace`: return the
    beam of every zoom. `prior`: the name of an installed prior; `none` for no prior; None for the index's default.
    `bbox`, `within`: the place lies inside both. `prior_only`: return the prior's own answer without searching; it
    cannot be combined with `bbox` or `within`. `register`: see `options.Register`; `width_km`, `heading`: what is known
    of a picture from above, the width of what it shows and the compass direction of its top, in degrees.
    """

    k: int = DEFAULT_K
    alternatives: int = 0
    bbox: BBox | None = None
    trace: bool = False
    scoring: Scoring = "posterior"
    prior: str | None = None
    within: "Region | None" = None
    prior_only: bool = False
    register: Register = "auto"
    width_km: float | None = None
    heading: float | None = None

    def __post_init__(self) -> None:
        _check_count("k", self.k, 1, MAX_K)
        _check_count("alternatives", self.alternatives, 0, MAX_ALTERNATIVES)
        if self.scoring not in get_args(Scoring):
            raise QueryError(f"unknown scoring {self.scoring!r}: use {' or '.join(get_args(Scoring))}")
        if self.register not in get_args(Register):
            raise QueryError(f"unknown register {self.register!r}: use {', '.join(get_args(Register))}")
        _check_number("width_km", self.width_km, 1, MAX_WIDTH_KM)
        _check_number("heading", self.heading, -360, 360)
        if self.prior_only and self.constraint is not None:
            raise QueryError(f"a prior's own answer cannot be limited to {self.constraint}: search with that prior")

    @property
    def constraint(self) -> Constraint | None:
        """Where the picture is known to have been taken; None where the query does not limit it."""
        return None if self.bbox is None and self.within is None else Constraint(self.bbox, self.within)


def _check_count(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise QueryError(f"{name} is {value!r}: give a whole number from {low} to {high}")


def _check_number(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise QueryError(f"{name} is {value!r}: give a number from {low:g} to {high:g}")


def _overlaps(first: NDArray[np.uint32], low: float, high: float) -> NDArray[np.bool_]:
    """Whether [first, first + 1) and [low, high] share more than an edge."""
    return np.asarray((first + 1.0 > low) & (first < high))
