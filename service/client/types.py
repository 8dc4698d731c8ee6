"""The HTTP contract as types for Python callers. Imports nothing beyond the standard library.

Generated from service/http/models.py by scripts/export-openapi: edit the models, not this file.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal, NotRequired, TypedDict


class LocateOptions(TypedDict, total=False):
    """Options of `Client.locate`. None, or no value: the service's default."""

    k: int | None
    """Beam width: tiles kept per zoom."""
    alternatives: int | None
    """How many other places to return."""
    bbox: Sequence[float] | str | None
    """Search only this box: `west,south,east,north` in degrees; west > east crosses the date line."""
    trace: bool | None
    """Also return the tiles kept at each zoom."""
    prior: str | None
    """Name of a prior listed by `GET /index`, or `none`. Without it the index's default prior is used."""
    within: Mapping[str, Any] | str | PathLike[str] | None
    """Search only this region: a GeoJSON polygon (or MultiPolygon, Feature, ...) as text. With `bbox`, only the
    overlap of both.
    """
    register: Literal["auto", "on", "off"] | None
    """Find exactly where a picture from above lies: `auto` where the index can and there is room, `on` in any case
    (422 where the index cannot, 503 where there is no room), or `off`.
    """
    width_km: float | None
    """For registration: the width of what the picture shows on the ground, within 10%."""
    heading: float | None
    """For registration: the compass direction of the picture's top, in degrees, within 15."""


RadiusKm = TypedDict("RadiusKm", {"50": float | None, "90": float | None})
"""Radii of the circles around the point that contain the true place with 50% and 90% probability."""


class Tile(TypedDict):
    """A slippy-map tile."""

    z: int
    x: int
    y: int


class Level(TypedDict):
    """The tile of one zoom that contains the point; `lat` and `lon` are the tile's centre."""

    zoom: int
    tile: Tile
    quadkey: str
    lat: float
    lon: float
    bounds: list[float]
    confidence: float
    similarity: float | None


class Alternative(TypedDict):
    """Another place."""

    lat: float
    lon: float
    confidence: float
    tile: Tile


class Kept(TypedDict):
    """A tile that the beam kept."""

    tile: Tile
    confidence: float
    similarity: float | None


class TracedLevel(TypedDict):
    """The tiles that the beam kept at one zoom."""

    zoom: int
    kept: list[Kept]


class Polygon(TypedDict):
    """A GeoJSON polygon: its outer ring, then its holes."""

    type: Literal["Polygon"]
    coordinates: list[list[list[float]]]


class MultiPolygon(TypedDict):
    """Several GeoJSON polygons, such as one that is cut at the date line."""

    type: Literal["MultiPolygon"]
    coordinates: list[list[list[list[float]]]]


class GroundPoint(TypedDict):
    """A control point: a place in the picture, in pixels of the file as it is stored, and on the ground."""

    x: float
    y: float
    lon: float
    lat: float


class Registration(TypedDict):
    """How a picture from above fits the reference. Without a place, only the first three and `reason`."""

    accepted: bool
    probability: float
    method: str
    reason: str | None
    score: NotRequired[float]
    margin: NotRequired[float]
    lat: NotRequired[float]
    lon: NotRequired[float]
    width_km: NotRequired[float]
    heading_deg: NotRequired[float]
    residual_km: NotRequired[float | None]
    footprint: NotRequired[Polygon | MultiPolygon]
    gcps: NotRequired[list[GroundPoint]]
    homography: NotRequired[list[list[float]]]


class IndexVersion(TypedDict):
    """The index that answered."""

    id: str
    calibration_id: str | None
    zooms: list[int]
    pictures: Literal["above", "ground"] | None


class Timing(TypedDict):
    """Milliseconds of work, without waiting; work shared by a group is divided by its pictures."""

    decode: float
    encode: float
    search: float
    register: NotRequired[float]


class Answer(TypedDict):
    """Where one picture was taken."""

    outcome: Literal["located", "uncertain", "elsewhere"]
    lat: float
    lon: float
    confidence: float
    calibrated: bool
    radius_km: RadiusKm
    zoom: int
    levels: list[Level]
    alternatives: list[Alternative]
    trace: NotRequired[list[TracedLevel]]
    prior: NotRequired[str]
    registration: Registration | None
    registration_reason: NotRequired[str]
    notes: NotRequired[list[str]]
    elsewhere: float
    index: IndexVersion
    attribution: str
    timing_ms: Timing


class Problem(TypedDict):
    """An error as a problem document (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance: NotRequired[str]
    request_id: NotRequired[str]


class Line(TypedDict):
    """One line of a batch's answer: the `result` or the `error` of one picture."""

    index: int
    name: str
    result: NotRequired[Answer]
    error: NotRequired[Problem]


class IndexZoom(TypedDict):
    """Number of tiles at one zoom."""

    zoom: int
    rows: int
    vectors: int
    inferred: int


class DeepCoverage(TypedDict):
    """The smaller region that the deep zooms cover."""

    from_zoom: int
    geometry: Polygon | MultiPolygon


class CoverageProperties(TypedDict):
    """How the area is covered."""

    zooms: list[int]
    land: NotRequired[float]
    deep: NotRequired[DeepCoverage]


class Coverage(TypedDict):
    """The covered area as a GeoJSON Feature."""

    type: Literal["Feature"]
    geometry: Polygon | MultiPolygon
    properties: CoverageProperties


class PhotoPreprocess(TypedDict):
    """How pictures become the encoder's input."""

    size: NotRequired[int]
    mean: NotRequired[list[float]]
    std: NotRequired[list[float]]


class PhotoEncoderInfo(TypedDict):
    """The encoder of pictures."""

    name: str
    fingerprint: str
    dim: int
    preprocess: PhotoPreprocess


class MapEncoderInfo(TypedDict):
    """The encoder of one zoom's tiles."""

    fingerprint: str | None
    context: float


class MapEncodersInfo(TypedDict):
    """The encoders of tiles; `zooms`: by zoom."""

    name: NotRequired[str]
    input_size: NotRequired[int]
    zooms: dict[str, MapEncoderInfo]


class IndexEncoders(TypedDict):
    """The encoders that an index was built with."""

    photo: PhotoEncoderInfo
    map: MapEncodersInfo


class IndexPrior(TypedDict):
    """A prior that the parameter `prior` may name."""

    name: str
    fingerprint: str
    calibration_id: str | None


class Index(TypedDict):
    """The loaded index."""

    id: str
    calibration_id: str | None
    format_version: int
    zooms: list[IndexZoom]
    dim: int
    codec: str
    coverage: Coverage
    encoders: IndexEncoders
    attribution: str
    pictures: Literal["above", "ground"] | None
    priors: list[IndexPrior]
    prior: str | None
    engine: str
