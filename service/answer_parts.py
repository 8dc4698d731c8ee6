"""Parts of an answer in the HTTP contract, as pydantic models: GeoJSON's geometries, registration, times, and states.

`service/http/models.py` holds the whole answers, and says how models become documents and types.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field


def absent() -> Any:
    """Default factory of a field that may be missing: the schema then neither requires it nor names a default."""


def example_of(model: type[BaseModel]) -> dict[str, Any]:
    """An example of a model's JSON, composed of its fields' examples; optional fields are left out."""
    fields = {field.alias or name: field for name, field in model.model_fields.items() if field.is_required()}
    return {name: field.examples[0] if field.examples else _nested(field.annotation) for name, field in fields.items()}


def _nested(annotation: Any) -> Any:
    arguments = getattr(annotation, "__args__", ())
    return [example_of(arguments[0])] if arguments else example_of(annotation)


Latitude = Annotated[float, Field(ge=-90, le=90, description="Degrees north.", examples=[48.61])]
Longitude = Annotated[float, Field(ge=-180, le=180, description="Degrees east.", examples=[2.24])]
Milliseconds = Annotated[float, Field(ge=0)]
Position = Annotated[list[float], Field(min_length=2, max_length=3, description="Longitude, latitude in degrees.")]


class Point(BaseModel):
    """A GeoJSON point."""

    type: Literal["Point"]
    coordinates: Position


class Polygon(BaseModel):
    """A GeoJSON polygon: its outer ring, then its holes."""

    type: Literal["Polygon"]
    coordinates: list[list[Position]]


class MultiPolygon(BaseModel):
    """Several GeoJSON polygons, such as one that is cut at the date line."""

    type: Literal["MultiPolygon"]
    coordinates: list[list[list[Position]]]


Area = Annotated[Polygon | MultiPolygon, Field(discriminator="type")]


class Timing(BaseModel):
    """Milliseconds of work, without waiting; work shared by a group is divided by its pictures."""

    decode: Milliseconds = Field(examples=[4.1])
    encode: Milliseconds = Field(examples=[9.8])
    search: Milliseconds = Field(examples=[1.2])
    register_: Milliseconds = Field(
        default_factory=absent, alias="register", description="Only if the picture was registered."
    )


class GroundPoint(BaseModel):
    """A control point: a place in the picture, in pixels of the file as it is stored, and on the ground."""

    x: float = Field(description="From the left.", examples=[0.0])
    y: float = Field(description="From the top.", examples=[0.0])
    lon: Longitude
    lat: Latitude


class Registration(BaseModel):
    """How a picture from above fits the reference. Without a place, only the first three and `reason`."""

    accepted: bool = Field(description="Whether the answer is at its place.", examples=[False])
    probability: float = Field(ge=0, le=1, description="Of its place being right.", examples=[0.21])
    method: str = Field(description="`none` if the picture fits nowhere.", examples=["field"])
    reason: str | None = Field(
        description="Why it was not accepted; null if it was.",
        examples=["the picture fits no place clearly better than others"],
    )
    score: float = Field(default_factory=absent, description="Of the best fit, -1 to 1.")
    margin: float = Field(default_factory=absent, description="Its lead over the best fit at another place.")
    lat: Latitude = Field(default_factory=absent, description="Of the picture's centre.")
    lon: Longitude = Field(default_factory=absent, description="Of the picture's centre.")
    width_km: float = Field(default_factory=absent, description="Of the whole picture on the ground.")
    heading_deg: float = Field(default_factory=absent, description="Compass direction of the picture's top.")
    residual_km: float | None = Field(
        default_factory=absent, description="How far parts of the picture still lie off the fit; null if unknown."
    )
    footprint: Polygon | MultiPolygon = Field(
        default_factory=absent, description="The picture's outline, cut at the date line."
    )
    gcps: list[GroundPoint] = Field(default_factory=absent, description="Control points, in a grid over the picture.")
    homography: list[list[float]] = Field(
        default_factory=absent,
        description="From the upright picture, in edges of its central square, to km east and north of its centre in "
        "the azimuthal equidistant projection.",
    )


class Alive(BaseModel):
    """The answer of /healthz."""

    status: Literal["alive"] = Field(examples=["alive"])


class Ready(BaseModel):
    """The answer of /readyz."""

    status: Literal["ready"] = Field(examples=["ready"])
