"""The HTTP contract as pydantic models: query parameters, answers, a batch's lines, problem documents.

`LocateParams` validates requests. The other models only describe the JSON that the engine builds; answers are not
validated on their way out, because that would cost time per request. `scripts/export-openapi` writes docs/openapi.json
and the client's types (service/client/types.py) from these models, so each field is written once.

To add a query parameter, edit two places, or three:
1. `LocateQuery` in retrieval/search/query.py: a field that the search uses;
2. `LocateParams` below: a field of the same name with its range and description;
3. only if the text in the URL has another type than the field of `LocateQuery`: the conversion in `LocateParams.query`.
Then run `scripts/export-openapi`. If the command line should have the parameter too, add an option to service/cli.py.
"""

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from retrieval.search.options import (
    MAX_ALTERNATIVES,
    MAX_K,
    MAX_REGION_TEXT,
    MAX_WIDTH_KM,
    Register,
    Scoring,
    parse_bbox,
)
from retrieval.search.query import BBox, LocateQuery
from service.answer_parts import Alive, Area, Latitude, Longitude, Ready, Registration, Timing, absent, example_of
from service.errors import RequestError

_MAX_PRIOR_NAME = 40


class ClientType(NamedTuple):
    """Metadata of a field: its Python type in the client, where that differs from the text in the URL."""

    annotation: str


class LocateParams(BaseModel):
    """Query parameters of `/locate` and `/locate/batch`."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(LocateQuery.k, ge=1, le=MAX_K, description="Beam width: tiles kept per zoom.")
    alternatives: int = Field(
        LocateQuery.alternatives, ge=0, le=MAX_ALTERNATIVES, description="How many other places to return."
    )
    bbox: Annotated[str | None, ClientType("Sequence[float] | str")] = Field(
        None,
        description="Search only this box: `west,south,east,north` in degrees; west > east crosses the date line.",
        examples=["-10,35,30,60"],
    )
    trace: bool = Field(LocateQuery.trace, description="Also return the tiles kept at each zoom.")
    prior: str | None = Field(
        None,
        max_length=_MAX_PRIOR_NAME,
        description="Name of a prior listed by `GET /index`, or `none`. Without it the index's default prior is used.",
        examples=["none"],
    )
    within: Annotated[str | None, ClientType("Mapping[str, Any] | str | PathLike[str]")] = Field(
        None,
        max_length=MAX_REGION_TEXT,
        description="Search only this region: a GeoJSON polygon (or MultiPolygon, Feature, ...) as text. "
        "With `bbox`, only the overlap of both.",
        examples=['{"type":"Polygon","coordinates":[[[5,45],[11,45],[8,48],[5,45]]]}'],
    )

    register_: Register = Field(  # pydantic's models have a method `register`
        LocateQuery.register,
        alias="register",
        description="Find exactly where a picture from above lies: `auto` where the index can and there is room, `on` "
        "in any case (422 where the index cannot, 503 where there is no room), or `off`.",
    )
    width_km: float | None = Field(
        None,
        ge=1,
        le=MAX_WIDTH_KM,
        allow_inf_nan=False,
        description="For registration: the width of what the picture shows on the ground, within 10%.",
        examples=[600],
    )
    heading: float | None = Field(
        None,
        ge=-360,
        le=360,
        allow_inf_nan=False,
        description="For registration: the compass direction of the picture's top, in degrees, within 15.",
        examples=[0],
    )

    def query(self, scoring: Scoring) -> LocateQuery:
        """The query for the search; raises RequestError for a malformed bbox and QueryError for invalid values."""
        box = None if self.bbox is None else BBox(*_box(self.bbox))
        within = None
        if self.within is not None:
            from retrieval.geo.region import Region  # loads shapely, which most queries do not need

            within = Region.of_geojson(self.within)
        return LocateQuery(**self.model_dump(by_alias=True) | {"bbox": box, "within": within, "scoring": scoring})


PARAMETERS = frozenset(field.alias or name for name, field in LocateParams.model_fields.items())
"""The names of the query parameters."""


def _box(text: str) -> tuple[float, float, float, float]:
    try:
        return parse_bbox(text)
    except ValueError as exc:
        raise RequestError(str(exc)) from exc


Zoom = Annotated[int, Field(ge=0, le=30, description="0 is the whole world as one tile.", examples=[8])]
Count = Annotated[int, Field(ge=0)]
Confidence = Annotated[
    float, Field(ge=0, le=1, description="Probability of everything inside this tile.", examples=[0.41])
]
Similarity = Annotated[float | None, Field(description="Cosine; null if the tile has no vector.", examples=[0.58])]
Radius = Annotated[Annotated[float, Field(ge=0)] | None, Field(description="km; null if `elsewhere` exceeds one half.")]
IndexId = Annotated[str, Field(description="Hash of what was indexed.", examples=["5d0c3f6b9e1a"])]
CalibrationId = Annotated[
    str | None, Field(description="Hash of what the confidences were fitted to.", examples=["a7f2c4d81e03"])
]
Attribution = Annotated[str, Field(examples=["NASA Earth Observatory"])]


Pictures = Annotated[
    Literal["above", "ground"] | None,
    Field(description="Where the index's pictures are taken from; null if nobody said so.", examples=["above"]),
]


class Tile(BaseModel):
    """A slippy-map tile."""

    z: Zoom
    x: int = Field(ge=0, description="Column, from the west.", examples=[129])
    y: int = Field(ge=0, description="Row, from the north.", examples=[88])


class Level(BaseModel):
    """The tile of one zoom that contains the point; `lat` and `lon` are the tile's centre."""

    zoom: Zoom
    tile: Tile
    quadkey: str = Field(examples=["12022001"])
    lat: Latitude = Field(examples=[48.458352])
    lon: Longitude = Field(examples=[2.109375])
    bounds: list[float] = Field(
        min_length=4,
        max_length=4,
        description="West, south, east, north in degrees.",
        examples=[[1.40625, 47.989922, 2.8125, 48.922499]],
    )
    confidence: Confidence
    similarity: Similarity


class Alternative(BaseModel):
    """Another place."""

    lat: Latitude = Field(examples=[52.05])
    lon: Longitude = Field(examples=[4.92])
    confidence: Confidence = Field(examples=[0.08])
    tile: Tile = Field(examples=[{"z": 8, "x": 131, "y": 84}])


class Kept(BaseModel):
    """A tile that the beam kept."""

    tile: Tile
    confidence: Confidence
    similarity: Similarity


class TracedLevel(BaseModel):
    """The tiles that the beam kept at one zoom."""

    zoom: Zoom
    kept: list[Kept]


class RadiusKm(BaseModel):
    """Radii of the circles around the point that contain the true place with 50% and 90% probability."""

    within_50: Radius = Field(alias="50", examples=[61.2])
    within_90: Radius = Field(alias="90", examples=[240.7])


class IndexVersion(BaseModel):
    """The index that answered."""

    id: IndexId
    calibration_id: CalibrationId
    zooms: list[int] = Field(examples=[[4, 6, 8]])
    pictures: Pictures


class Answer(BaseModel):
    """Where one picture was taken."""

    outcome: Literal["located", "uncertain", "elsewhere"] = Field(
        description="What to do with it: take the place, show it as uncertain, or say that the picture shows nothing "
        "that the index covers.",
        examples=["uncertain"],
    )
    lat: Latitude
    lon: Longitude
    confidence: Confidence = Field(description="Confidence of the deepest level.")
    calibrated: bool = Field(description="Whether the confidences were fitted for this query.", examples=[True])
    radius_km: RadiusKm
    zoom: int = Field(description="Zoom of the deepest level.", examples=[8])
    levels: list[Level] = Field(min_length=1, description="Nested tiles that contain the point, coarse to fine.")
    alternatives: list[Alternative]
    trace: list[TracedLevel] = Field(default_factory=absent, description="Only with `trace=true`.")
    prior: str = Field(default_factory=absent, description="Name of the prior that was used; absent if none was.")
    registration: Registration | None = Field(
        description="Null if it was not tried.", examples=[example_of(Registration)]
    )
    registration_reason: str = Field(
        default_factory=absent, description="Why it was not tried; absent if it was, and with `register=off`."
    )
    notes: list[str] = Field(
        default_factory=absent,
        description="How the region was read and what was done to the picture's samples; absent if there is nothing "
        "to say.",
    )
    elsewhere: float = Field(ge=0, le=1, description="Probability of none of the covered tiles.", examples=[0.03])
    index: IndexVersion
    attribution: Attribution = Field(description="Of the map; show it beside the answer.")
    timing_ms: Timing


class Problem(BaseModel):
    """An error as a problem document (RFC 9457)."""

    type: str = Field(description="`urn:tilebeam:problem:` and a word, or `about:blank`.")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="Names the wrong value and what to do.")
    instance: str = Field(default_factory=absent, description="Path of the request; absent in a batch's line.")
    request_id: str = Field(
        default_factory=absent, description="As in the header X-Request-ID; absent in a batch's line."
    )


class Line(BaseModel):
    """One line of a batch's answer: the `result` or the `error` of one picture."""

    # Exactly one of `result` and `error`. By their number, because generators of clients make types of a `oneOf`.
    model_config = ConfigDict(json_schema_extra={"minProperties": 3, "maxProperties": 3})

    index: Count = Field(description="Position in the request, from 0.")
    name: str = Field(description="File name.")
    result: Answer = Field(default_factory=absent)
    error: Problem = Field(default_factory=absent)


class IndexZoom(BaseModel):
    """Number of tiles at one zoom."""

    zoom: Zoom
    rows: Count = Field(examples=[65536])
    vectors: Count = Field(description="Rows with a vector.", examples=[65536])
    inferred: Count = Field(description="Rows whose vector is the mean of their children's.", examples=[0])


class IndexPrior(BaseModel):
    """A prior that the parameter `prior` may name."""

    name: str = Field(examples=["geocells"])
    fingerprint: str = Field(examples=["5b1e0c8d9f27"])
    calibration_id: CalibrationId = Field(examples=["77ab31f00c2e"])


class DeepCoverage(BaseModel):
    """The smaller region that the deep zooms cover."""

    from_zoom: Zoom
    geometry: Area


class CoverageProperties(BaseModel):
    """How the area is covered."""

    zooms: list[int] = Field(examples=[[4, 6, 8]])
    land: float = Field(default_factory=absent, description="Least share of land of a covered tile; absent: any.")
    deep: DeepCoverage = Field(default_factory=absent, description="Absent if all zooms cover the same area.")


class Coverage(BaseModel):
    """The covered area as a GeoJSON Feature."""

    type: Literal["Feature"] = Field(examples=["Feature"])
    geometry: Area = Field(examples=[{"type": "Polygon", "coordinates": [[[5, 45], [11, 45], [8, 48], [5, 45]]]}])
    properties: CoverageProperties


class PhotoPreprocess(BaseModel):
    """How pictures become the encoder's input."""

    size: int = Field(default_factory=absent, description="Edge in pixels.", examples=[64])
    mean: list[float] = Field(default_factory=absent)
    std: list[float] = Field(default_factory=absent)


class PhotoEncoderInfo(BaseModel):
    """The encoder of pictures."""

    name: str = Field(examples=["builtin"])
    fingerprint: str = Field(examples=["91c4be02d7aa"])
    dim: Count = Field(examples=[128])
    preprocess: PhotoPreprocess = Field(examples=[{"size": 64}])


class MapEncoderInfo(BaseModel):
    """The encoder of one zoom's tiles."""

    fingerprint: str | None = Field(description="Null at a zoom without vectors.", examples=["e07a113b6f59"])
    context: float = Field(description="Margin around a tile, in tile widths.", examples=[0.5])


class MapEncodersInfo(BaseModel):
    """The encoders of tiles; `zooms`: by zoom."""

    name: str = Field(default_factory=absent)
    input_size: int = Field(default_factory=absent, description="Edge in pixels.")
    zooms: dict[str, MapEncoderInfo] = Field(examples=[{"4": {"fingerprint": "e07a113b6f59", "context": 0.5}}])


class IndexEncoders(BaseModel):
    """The encoders that an index was built with."""

    photo: PhotoEncoderInfo
    map: MapEncodersInfo


class Index(BaseModel):
    """The loaded index."""

    id: IndexId
    calibration_id: CalibrationId
    format_version: int = Field(examples=[1])
    zooms: list[IndexZoom]
    dim: Count = Field(examples=[128])
    codec: str = Field(examples=["fp16"])
    coverage: Coverage
    encoders: IndexEncoders
    attribution: Attribution
    pictures: Pictures
    priors: list[IndexPrior]
    prior: str | None = Field(description="The prior that is used if a query names none.", examples=["geocells"])
    engine: str = Field(description="Search engine and device.", examples=["lists on cpu"])


class IndexIds(BaseModel):
    """What identifies a loaded index."""

    id: IndexId
    calibration_id: CalibrationId


class Reloaded(BaseModel):
    """The index that is loaded now, and the previous one."""

    id: IndexId = Field(examples=["c81e90b7d2f4"])
    calibration_id: CalibrationId = Field(examples=["0b47fd29e6c5"])
    previous: IndexIds


class TileJSON(BaseModel):
    """TileJSON 3.0."""

    tilejson: str = Field(examples=["3.0.0"])
    name: str = Field(examples=["bluemarble"])
    tiles: list[str] = Field(
        description="Addresses of tiles, relative to that of this document.", examples=[["tiles/{z}/{x}/{y}?of=5d0c"]]
    )
    scheme: str = Field(examples=["xyz"])
    minzoom: Zoom = Field(examples=[0])
    maxzoom: Zoom
    attribution: Attribution


ANSWERS: tuple[type[BaseModel], ...] = (Answer, Line, Problem, Index, Reloaded, Alive, Ready, TileJSON)
"""Models of whole answers; the others are parts of these."""
