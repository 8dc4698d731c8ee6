"""The answer as GeoJSON, as pydantic models for the OpenAPI document. `service.http.geojson` makes such answers.

A feature's `properties.kind` says which part of the answer it is, and so which properties it has.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from service.answer_parts import MultiPolygon, Point, Polygon, Registration, Timing, absent
from service.http.models import (
    Attribution,
    Confidence,
    IndexVersion,
    RadiusKm,
    Similarity,
    Tile,
    Zoom,
)


class AnswerProperties(BaseModel):
    """The point of the answer, with what holds for the whole answer."""

    kind: Literal["answer"]
    outcome: Literal["located", "uncertain", "elsewhere"]
    confidence: Confidence
    calibrated: bool
    radius_km: RadiusKm
    zoom: Zoom
    prior: str = Field(default_factory=absent)
    registration: Registration | None = Field(description="Without the footprint, which is a feature of its own.")
    registration_reason: str = Field(default_factory=absent)
    notes: list[str] = Field(default_factory=absent)
    elsewhere: float = Field(ge=0, le=1)
    index: IndexVersion
    attribution: Attribution
    timing_ms: Timing


class RadiusProperties(BaseModel):
    """A circle around the point that contains the true place with the probability `share`."""

    kind: Literal["radius"]
    share: float
    radius_km: float


class TileProperties(BaseModel):
    """The tile of one zoom that contains the point."""

    kind: Literal["tile"]
    zoom: Zoom
    quadkey: str
    tile: Tile
    confidence: Confidence
    similarity: Similarity


class KeptProperties(BaseModel):
    """A tile that the beam kept."""

    kind: Literal["kept"]
    zoom: Zoom
    tile: Tile
    confidence: Confidence
    similarity: Similarity


class FootprintProperties(BaseModel):
    """The outline of what the picture shows, by registration."""

    kind: Literal["footprint"]
    accepted: bool
    probability: float = Field(ge=0, le=1)
    width_km: float
    heading_deg: float


class AlternativeProperties(BaseModel):
    """Another place; `rank` counts from 1."""

    kind: Literal["alternative"]
    rank: int = Field(ge=1)
    confidence: Confidence
    tile: Tile


Properties = (
    AnswerProperties | RadiusProperties | TileProperties | KeptProperties | FootprintProperties | AlternativeProperties
)


class Feature(BaseModel):
    """One part of the answer, as `properties.kind` says."""

    type: Literal["Feature"]
    geometry: Annotated[Point | Polygon | MultiPolygon, Field(discriminator="type")]
    properties: Annotated[Properties, Field(discriminator="kind")]


class FeatureCollection(BaseModel):
    """The answer as GeoJSON (RFC 7946)."""

    type: Literal["FeatureCollection"]
    features: list[Feature]
