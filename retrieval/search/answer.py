"""An answer and its JSON object in the HTTP contract. Degrees, kilometres and probabilities.

It converts places and descents to tiles; all choices are made before. Numbers are rounded in the JSON only
(`retrieval.search.rounding`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from retrieval.search.answer_point import Place
from retrieval.search.beam import Descent, Step
from retrieval.search.posterior import Floats
from retrieval.search.rounding import degrees, kilometres, probability
from tile_cache.addressing import Tile, bounds, centre, morton_decode, quadkey

Outcome = Literal["located", "uncertain", "elsewhere"]
"""What a caller should do with an answer; see `retrieval.search.evidence.outcome_of`."""


@dataclass(frozen=True)
class LevelAnswer:
    """The answer's tile at one zoom, the posterior mass in it, and its cosine (None: the tile has no vector)."""

    tile: Tile
    confidence: float
    similarity: float | None

    def to_json(self) -> dict[str, Any]:
        """One element of `levels`."""
        lng, lat = centre(self.tile)
        place = {
            "zoom": self.tile.z,
            "tile": _tile_json(self.tile),
            "quadkey": quadkey(self.tile),
            "lat": degrees(lat),
            "lon": degrees(lng),
            "bounds": [degrees(edge) for edge in bounds(self.tile)],
        }
        return place | self.figures()

    def figures(self) -> dict[str, float | None]:
        """`confidence` and `similarity`."""
        similarity = None if self.similarity is None else probability(self.similarity)
        return {"confidence": probability(self.confidence), "similarity": similarity}


@dataclass(frozen=True)
class Alternative:
    """Another possible place, with its deepest tile."""

    lng: float
    lat: float
    confidence: float
    tile: Tile

    def to_json(self) -> dict[str, Any]:
        """One element of `alternatives`."""
        place = {"lat": degrees(self.lat), "lon": degrees(self.lng), "confidence": probability(self.confidence)}
        return {**place, "tile": _tile_json(self.tile)}


@dataclass(frozen=True)
class TracedLevel:
    """The beam of one zoom, most confident tile first."""

    zoom: int
    beam: tuple[LevelAnswer, ...]

    def to_json(self) -> dict[str, Any]:
        """One element of `trace`."""
        beam = [{"tile": _tile_json(t.tile), **t.figures()} for t in self.beam]
        return {"zoom": self.zoom, "kept": beam}


@dataclass(frozen=True)
class Answer:
    """Where the picture was taken. Radii are km around (lat, lng), None if elsewhere has more mass than all tiles."""

    lng: float
    lat: float
    levels: tuple[LevelAnswer, ...]  # coarse to fine, nested, at least one
    calibrated: bool
    radius_50_km: float | None
    radius_90_km: float | None
    elsewhere: float
    alternatives: tuple[Alternative, ...]
    trace: tuple[TracedLevel, ...] | None  # None: not requested
    index_id: str
    calibration_id: str | None
    zooms: tuple[int, ...]
    attribution: str
    prior: str | None = None  # the prior's name; None without a prior
    outcome: Outcome = "uncertain"
    pictures: str | None = None  # where the index's pictures are taken from

    @property
    def confidence(self) -> float:
        """The confidence of the deepest level."""
        return self.levels[-1].confidence

    def to_json(self) -> dict[str, Any]:
        """The contract's object without `timing_ms`, which the pipeline adds. `trace` and `prior` only if not None."""
        index = {"id": self.index_id, "calibration_id": self.calibration_id, "zooms": list(self.zooms)}
        index["pictures"] = self.pictures
        trace = {} if self.trace is None else {"trace": [level.to_json() for level in self.trace]}
        head: dict[str, Any] = {
            "outcome": self.outcome,
            "lat": degrees(self.lat),
            "lon": degrees(self.lng),
            "confidence": probability(self.confidence),
            "calibrated": self.calibrated,
            "radius_km": {"50": _radius(self.radius_50_km), "90": _radius(self.radius_90_km)},
            "zoom": self.levels[-1].tile.z,
            "levels": [level.to_json() for level in self.levels],
            "alternatives": [other.to_json() for other in self.alternatives],
        }
        prior = {} if self.prior is None else {"prior": self.prior}
        tail = {"elsewhere": probability(self.elsewhere), "index": index, "attribution": self.attribution}
        return head | trace | prior | tail


def levels_of(descent: Descent, confidences: Sequence[Floats], place: Place) -> tuple[LevelAnswer, ...]:
    """The tiles that hold a place, coarse to fine, with their confidences."""
    steps = descent.steps[: len(place.path)]
    return _levels(steps, confidences[: len(steps)], place.path)


def alternative_of(descent: Descent, confidences: Sequence[Floats], place: Place) -> Alternative:
    """A place as an alternative of the answer."""
    i = len(place.path) - 1
    (deepest,) = _levels(descent.steps[i : i + 1], confidences[i : i + 1], place.path[i:])
    return Alternative(place.lng, place.lat, deepest.confidence, deepest.tile)


def trace_of(descent: Descent, confidences: Sequence[Floats]) -> tuple[TracedLevel, ...]:
    """The beam of every zoom."""
    levels = []
    for step, confidence in zip(descent.steps, confidences, strict=True):
        order = step.beam[np.argsort(-confidence[step.beam], kind="stable")]
        levels.append(TracedLevel(step.level.zoom, _levels([step] * len(order), [confidence] * len(order), order)))
    return tuple(levels)


def _levels(
    steps: Sequence[Step], confidences: Sequence[Floats], positions: Sequence[int] | NDArray[np.intp]
) -> tuple[LevelAnswer, ...]:
    """One tile per step, by position. Decoded in one call, because NumPy's cost here is per call."""
    tiles = list(zip(steps, confidences, positions, strict=True))
    codes = np.array([step.level.codes[step.rows[i]] for step, _, i in tiles], dtype=np.uint64)
    x, y = (v.tolist() for v in morton_decode(codes))
    cosines = [float(step.similarities[i]) if step.level.has_vectors else None for step, _, i in tiles]
    return tuple(
        LevelAnswer(Tile(x[n], y[n], step.level.zoom), min(1.0, float(mass[i])), cosines[n])
        for n, (step, mass, i) in enumerate(tiles)
    )


def _radius(km: float | None) -> float | None:
    return None if km is None else kilometres(km)


def _tile_json(tile: Tile) -> dict[str, int]:
    return {"z": tile.z, "x": tile.x, "y": tile.y}
