"""A question to an index, checked when it is asked. Degrees; knows nothing of what the index covers."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from retrieval.errors import QueryError
from retrieval.search.options import DEFAULT_K, MAX_ALTERNATIVES, MAX_K
from tile_cache.addressing import mercator_y, morton_decode

if TYPE_CHECKING:  # brings shapely, which most questions do without
    from retrieval.geo.region import Region

Scoring = Literal["posterior", "paper", "bolted"]
"""How tiles are ranked: by mass; by the level's similarity alone; or so with the tile of the prior's own answer kept
as one more at every level, as paper H joins GeoCLIP to its beam."""
SERVED: tuple[Scoring, ...] = ("posterior", "paper")
"""Scorings that answers to people are made by; the other is for comparing."""
NO_PRIOR = "none"


@dataclass(frozen=True)
class BBox:
    """A rectangle in degrees; west > east crosses the date line. Raises QueryError for what is none."""

    west: float
    south: float
    east: float
    north: float

    def __post_init__(self) -> None:
        for name, limit in (("west", 180), ("south", 90), ("east", 180), ("north", 90)):
            value = getattr(self, name)
            if not math.isfinite(value) or abs(value) > limit:
                raise QueryError(f"bbox {name} is {value}, degrees from -{limit} to {limit} are expected")
        if self.south > self.north:
            raise QueryError(f"bbox south {self.south} lies north of its north {self.north}: the order is W,S,E,N")

    def spans(self) -> tuple[tuple[float, float], ...]:
        """Its longitudes as (west, east) with west <= east: one span, or two where it crosses the date line."""
        if self.west <= self.east:
            return ((self.west, self.east),)
        return ((self.west, 180.0), (-180.0, self.east))

    def contains(self, lng: float, lat: float) -> bool:
        """Whether a point, in degrees, lies in it."""
        return self.south <= lat <= self.north and any(west <= lng <= east for west, east in self.spans())

    def meets(self, codes: NDArray[np.uint64], zoom: int) -> NDArray[np.bool_]:
        """Which tiles it intersects, (n,) codes to (n,) bool; touching an edge is not enough, unless it is a line."""
        n = float(1 << zoom)
        x, y = morton_decode(codes)
        top, bottom = mercator_y(self.north) * n, mercator_y(self.south) * n
        inside = _overlaps(y, top, bottom)
        across = [_overlaps(x, (west + 180) / 360 * n, (east + 180) / 360 * n) for west, east in self.spans()]
        return np.asarray(inside & np.logical_or.reduce(across))


@dataclass(frozen=True)
class LocateQuery:
    """How to search and what to tell. Raises QueryError for a value out of range.

    `k`: tiles kept a zoom, 1 to 1024; `alternatives`: other places wanted, 0 to 20; `trace`: tell the kept tiles;
    `prior`: the name of one that the index has, `none` for none, None for the index's own choice; `bbox`, `within`: the
    place is inside both; `alone`: the prior answers without the beam, which no area can confine.
    """

    k: int = DEFAULT_K
    alternatives: int = 0
    bbox: BBox | None = None
    trace: bool = False
    scoring: Scoring = "posterior"
    prior: str | None = None
    within: "Region | None" = None
    alone: bool = False

    @property
    def confined(self) -> bool:
        """Whether it says that the place is in some part of the Earth."""
        return self.bbox is not None or self.within is not None

    @property
    def area(self) -> "LocateQuery | None":
        """Itself, where it says that: what the beam asks which tiles to look at."""
        return self if self.confined else None

    def where(self) -> str:
        """That part of the Earth, in words."""
        box = self.bbox
        named = [] if box is None else [f"bbox {box.west},{box.south},{box.east},{box.north}"]
        return " and ".join(named if self.within is None else [*named, "within"])

    def meets(self, codes: NDArray[np.uint64], zoom: int) -> NDArray[np.bool_]:
        """Which tiles, (n,) codes, may hold the place, (n,) bool."""
        met = np.ones(len(codes), dtype=np.bool_) if self.bbox is None else self.bbox.meets(codes, zoom)
        return met if self.within is None else met & self.within.meets(codes, zoom)

    def __post_init__(self) -> None:
        _check_count("k", self.k, 1, MAX_K)
        _check_count("alternatives", self.alternatives, 0, MAX_ALTERNATIVES)
        if self.scoring not in get_args(Scoring):
            raise QueryError(f"scoring {self.scoring!r} is none of {', '.join(get_args(Scoring))}")
        if self.alone and self.confined:
            raise QueryError(f"a prior that answers alone knows no {self.where()}: ask the beam with that prior")


def _check_count(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise QueryError(f"{name} is {value!r}, a whole number from {low} to {high} is expected")


def _overlaps(first: NDArray[np.uint32], low: float, high: float) -> NDArray[np.bool_]:
    """Whether [first, first + 1) and [low, high] share more than an edge, or the point that low = high is."""
    return np.asarray((first + 1.0 > low) & ((first < high) | (first <= low)))
