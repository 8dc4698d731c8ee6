"""Evidence besides retrieval, mixed into a descent's posterior so that one distribution is left; and the outcome.

A registration that was accepted with probability p moves p of the mass to its place, spread by the errors that accepted
places have: posterior' = p x spread + (1 - p) x posterior, elsewhere included. One that was tried and not accepted
takes trust in what retrieval says: of the tiles' mass, the share 1 - trust is spread evenly over the first zoom by
area; elsewhere stays. Confidences, radii and alternatives are those of the mixture, so tiles stay nested. See "Evidence
from registration" in docs/method.md. This module knows no pictures, and of registrations only their numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.index.evidence_numbers import OutcomeNumbers
from retrieval.index.reader import Level
from retrieval.search.answer import Alternative, Answer, LevelAnswer, Outcome, TracedLevel
from retrieval.search.answer_point import Place, claim, radii_km
from retrieval.search.beam import Descent
from retrieval.search.points import Even, Support, spread_evenly
from retrieval.search.query import Constraint
from retrieval.sphere import EARTH_RADIUS_KM, distances_km, unit_vectors
from tile_cache.addressing import MAX_LATITUDE, MAX_ZOOM, Tile, code_of_tile, codes_at, tile_of_code

__all__ = ["Mixture", "Registered", "is_covered", "mixed", "outcome_of", "rows_at", "why_outside"]

Floats = NDArray[np.float64]

_DIRECTIONS = 8
_GOLDEN = np.pi * (3 - np.sqrt(5))
_NONE: Floats = np.zeros(0)


class Registered(NamedTuple):
    """An accepted registration: degrees, the probability of being right, the footprint's edge, and the quantiles of
    its error in edges.
    """

    lng: float
    lat: float
    probability: float
    edge_km: float
    errors: Sequence[float]


@dataclass(frozen=True, eq=False)
class Mixture:
    """The posterior of a descent times `weight`, mass on points, and mass spread evenly over the first zoom.

    `codes`: (s,) of the points at MAX_ZOOM, ascending; `vectors`: (s, 3); `mass`: (s,). `even`: the mass that is
    spread. All tiles' mass and `elsewhere` sum to 1.
    """

    descent: Descent
    weight: float
    codes: NDArray[np.uint64]
    vectors: Floats
    mass: Floats
    even: float
    elsewhere: float

    @classmethod
    def accepted(cls, descent: Descent, evidence: Registered) -> "Mixture":
        """The posterior after a registration was accepted."""
        lng, lat = _spread(evidence)
        codes = codes_at(lng, lat, MAX_ZOOM)
        order, p = np.argsort(codes, kind="stable"), evidence.probability
        mass = np.full(len(codes), p / len(codes))
        vectors = unit_vectors(lng, lat)[order]
        return cls(descent, 1 - p, codes[order], vectors, mass, 0.0, (1 - p) * descent.elsewhere)

    @classmethod
    def doubted(cls, descent: Descent, trust: float) -> "Mixture":
        """The posterior after a registration was tried and not accepted."""
        even = (1 - trust) * max(0.0, 1 - descent.elsewhere)
        nothing = np.zeros(0, dtype=np.uint64), np.zeros((0, 3)), _NONE
        return cls(descent, trust, *nothing, even, descent.elsewhere)

    @classmethod
    def uncovered(cls, descent: Descent, probability: float) -> "Mixture":
        """The posterior after a registration was accepted at a place that no tile of the index covers."""
        nothing = np.zeros(0, dtype=np.uint64), np.zeros((0, 3)), _NONE
        elsewhere = probability + (1 - probability) * descent.elsewhere
        return cls(descent, 1 - probability, *nothing, 0.0, elsewhere)

    @property
    def is_unchanged(self) -> bool:
        """Whether it is the descent's own posterior."""
        return self.weight == 1 and not self.even

    def confidences(self, even: Even | None) -> list[Floats]:
        """Per step, the mass in each candidate, (c,); `even`: where the even part lies, if there is one."""
        confidences = [self.weight * mass for mass in self.descent.confidences()]
        for step, mass in zip(self.descent.steps, confidences, strict=True):
            if len(self.mass):
                codes = step.level.codes[step.rows]
                mass += np.diff(self._below(codes, step.level.zoom), axis=0)[0]
        if even is not None:
            confidences[0] += self.even * even.shares
        return confidences

    def points_in(self, code: int, zoom: int) -> float:
        """The mass of the points in a tile."""
        low, high = self._below(np.array([code], dtype=np.uint64), zoom)[:, 0]
        return float(high - low)

    def _below(self, codes: NDArray[np.uint64], zoom: int) -> Floats:
        """The mass of the points before these tiles, and up to their ends, in Morton order: (2, n)."""
        shift, reached = np.uint64(2 * (MAX_ZOOM - zoom)), np.concatenate([[0.0], np.cumsum(self.mass)])
        own = self.codes >> shift
        return np.stack([reached[np.searchsorted(own, codes, side)] for side in ("left", "right")])


def mixed(
    answer: Answer,
    mixture: Mixture,
    levels: Sequence[Level],
    constraint: Constraint | None,
    shares: Sequence[float],
    place: tuple[float, float] | None = None,
) -> Answer:
    """The answer that follows from a mixture, given that of its descent. Alternatives are all that are left.

    `levels`: the index's. `shares`: of the mass, for the 50% and the 90% circle. `place`: the new place, (lng, lat);
    None leaves it. It must lie in a tile of the first zoom.
    """
    if mixture.is_unchanged:
        return answer
    even = spread_evenly(mixture.descent, constraint) if mixture.even else None
    confidences = mixture.confidences(even)
    tiles = [level.tile for level in answer.levels] if place is None else _tiles_at(levels, *place)
    lng, lat = place or (answer.lng, answer.lat)
    chain = _nested([_level(mixture, confidences, tile) for tile in tiles])
    support = _support(mixture, even, constraint)
    centre = Place(lng, lat, unit_vectors(np.array([lng]), np.array([lat]))[0], ())
    radius_50_km, radius_90_km = radii_km(support, mixture.elsewhere, centre, shares)
    old = () if place is None else (Alternative(answer.lng, answer.lat, 0.0, answer.levels[-1].tile),)
    taken_km = claim(support, support.mass, centre).radius_km
    others = [
        replace(other, confidence=_level(mixture, confidences, other.tile).confidence)
        for other in (*old, *answer.alternatives)
        if other.tile != tiles[-1] and _away_km(other, centre.vector) >= (taken_km if place else 0.0)
    ]
    return replace(
        answer,
        lng=lng,
        lat=lat,
        levels=chain,
        radius_50_km=radius_50_km,
        radius_90_km=radius_90_km,
        elsewhere=min(1.0, mixture.elsewhere),
        alternatives=tuple(others),
        trace=None if answer.trace is None else tuple(_traced(level, mixture, confidences) for level in answer.trace),
    )


def outcome_of(answer: Answer, numbers: OutcomeNumbers, *, is_registered: bool, is_doubted: bool = False) -> Outcome:
    """What a caller should do with an answer.

    `is_registered`: an accepted registration was mixed in. `is_doubted`: one was tried and not accepted, which is never
    located.
    """
    if answer.elsewhere >= numbers.elsewhere:
        return "elsewhere"
    if is_registered:
        return "located"
    radius_km = answer.radius_90_km
    is_sure = answer.calibrated and 1 - answer.elsewhere >= numbers.located
    is_narrow = radius_km is not None and radius_km <= numbers.radius_km
    return "located" if is_sure and is_narrow and not is_doubted else "uncertain"


def is_covered(lng: float, lat: float, levels: Sequence[Level]) -> bool:
    """Whether the index has a tile that holds a place, in degrees."""
    return abs(lat) <= MAX_LATITUDE and bool(rows_at(levels, lng, lat))


def why_outside(lng: float, lat: float, levels: Sequence[Level], constraint: Constraint | None) -> str | None:
    """Why a place cannot be an answer; None if it can."""
    if not is_covered(lng, lat, levels):
        return "it lies outside the index's coverage"
    bbox, region = (None, None) if constraint is None else (constraint.bbox, constraint.region)
    if bbox is not None and not bbox.contains(lng, lat):
        return "it lies outside the bbox"
    if region is not None and not region.contains(np.array([lng]), np.array([lat]))[0]:
        return "it lies outside the region"
    return None


def rows_at(levels: Sequence[Level], lng: float, lat: float) -> list[int]:
    """The rows of the tiles that hold a place, in degrees, from the first zoom to the last that has one."""
    rows: list[int] = []
    parent = 0
    for level in levels:
        code = codes_at(np.array([lng]), np.array([lat]), level.zoom)[0]
        start, stop = level.starts[parent], level.starts[parent + 1]
        row = int(start + np.searchsorted(level.codes[start:stop], code))
        if row == stop or level.codes[row] != code:
            break
        rows.append(row)
        parent = row
    return rows


def _tiles_at(levels: Sequence[Level], lng: float, lat: float) -> list[Tile]:
    return [
        tile_of_code(int(level.codes[row]), level.zoom)
        for level, row in zip(levels, rows_at(levels, lng, lat), strict=False)
    ]


def _spread(evidence: Registered) -> tuple[Floats, Floats]:
    """Points that stand for equal shares of the registered mass, degrees: rings of the errors' quantiles."""
    errors = np.asarray(evidence.errors, dtype=np.float64) * evidence.edge_km
    ring, turn = np.divmod(np.arange(len(errors) * _DIRECTIONS), _DIRECTIONS)
    angle = turn * (2 * np.pi / _DIRECTIONS) + ring * _GOLDEN
    north, east = np.cos(angle) * errors[ring], np.sin(angle) * errors[ring]
    lat = np.clip(evidence.lat + np.degrees(north / EARTH_RADIUS_KM), -90, 90)
    across = np.maximum(np.cos(np.radians(evidence.lat)), 1e-3)
    return (evidence.lng + np.degrees(east / EARTH_RADIUS_KM) / across + 180) % 360 - 180, lat


def _support(mixture: Mixture, even: Even | None, constraint: Constraint | None) -> Support:
    """The mixture's mass as points."""
    old = Support.of(mixture.descent, constraint)
    vectors, mass = [old.vectors, mixture.vectors], [mixture.weight * old.mass, mixture.mass]
    if even is not None:
        vectors, mass = [*vectors, even.vectors], [*mass, mixture.even * even.mass]
    total = mixture.weight * old.total + float(mixture.mass.sum()) + mixture.even
    owner = np.full(sum(map(len, mass)), -1)
    return replace(old, vectors=np.concatenate(vectors), mass=np.concatenate(mass), owner=owner, total=total)


def _level(mixture: Mixture, confidences: Sequence[Floats], tile: Tile) -> LevelAnswer:
    """A tile with the mixture's mass. One that the search did not compare has only that of the points, no cosine."""
    code = np.uint64(code_of_tile(tile))
    for step, mass in zip(mixture.descent.steps, confidences, strict=True):
        if step.level.zoom == tile.z:
            codes = step.level.codes[step.rows]
            position = int(np.searchsorted(codes, code))
            if position < len(codes) and codes[position] == code:
                cosine = float(step.similarities[position]) if step.level.has_vectors else None
                return LevelAnswer(tile, min(1.0, float(mass[position])), cosine)
    return LevelAnswer(tile, min(1.0, mixture.points_in(int(code), tile.z)), None)


def _nested(levels: Sequence[LevelAnswer]) -> tuple[LevelAnswer, ...]:
    """The levels; rounding must not make a tile likelier than the tile above it."""
    most = np.minimum.accumulate([level.confidence for level in levels])
    return tuple(replace(level, confidence=float(value)) for level, value in zip(levels, most, strict=True))


def _traced(level: TracedLevel, mixture: Mixture, confidences: Sequence[Floats]) -> TracedLevel:
    beam = [_level(mixture, confidences, each.tile) for each in level.beam]
    return TracedLevel(level.zoom, tuple(sorted(beam, key=lambda each: -each.confidence)))


def _away_km(other: Alternative, vector: Floats) -> float:
    return float(distances_km(vector, unit_vectors(np.array([other.lng]), np.array([other.lat])))[0])
