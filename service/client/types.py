"""The HTTP contract's JSON as types, for whoever calls the service from Python. Plain Python: no engine."""

from typing import Any, NotRequired, TypedDict

__all__ = ["Alternative", "Answer", "Level", "Line", "Problem", "Tile"]


class Tile(TypedDict):
    """A slippy-map tile."""

    z: int
    x: int
    y: int


class Level(TypedDict):
    """One zoom's tile on the way to the point: degrees, bounds as west, south, east, north, confidence from 0 to 1."""

    zoom: int
    tile: Tile
    quadkey: str
    lat: float
    lon: float
    bounds: list[float]
    confidence: float
    similarity: float | None


class Alternative(TypedDict):
    """Another place, with its deepest tile."""

    lat: float
    lon: float
    confidence: float
    tile: Tile


class Answer(TypedDict):
    """Where one picture was taken; `radius_km` has the keys "50" and "90"."""

    lat: float
    lon: float
    confidence: float
    calibrated: bool
    radius_km: dict[str, float | None]
    zoom: int
    levels: list[Level]
    alternatives: list[Alternative]
    trace: NotRequired[list[dict[str, Any]]]
    prior: NotRequired[str]
    elsewhere: float
    index: dict[str, Any]
    attribution: str
    timing_ms: dict[str, float]


class Problem(TypedDict):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    instance: NotRequired[str]
    request_id: NotRequired[str]


class Line(TypedDict):
    """One picture of a batch: its place in the request, its name, and either a result or an error."""

    index: int
    name: str
    result: NotRequired[Answer]
    error: NotRequired[Problem]
