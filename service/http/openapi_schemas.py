"""The HTTP contract's JSON as OpenAPI components: what `service.client.types` says as types, with ranges and units.

Plain data. It knows no route; `service.http.openapi` says which answers with what.
"""

from typing import Any

__all__ = ["COMPONENTS", "SECURITY", "ref"]

Schema = dict[str, Any]


def ref(name: str) -> Schema:
    """A reference to one of COMPONENTS."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(about: str, required: dict[str, Schema], **optional: Schema) -> Schema:
    properties = {**required, **optional}
    return {"type": "object", "description": about, "required": list(required), "properties": properties}


def _list(items: Schema, about: str = "") -> Schema:
    return {"type": "array", "items": items} | ({"description": about} if about else {})


def _is(kind: str, about: str = "", **more: Any) -> Schema:
    return {"type": kind} | ({"description": about} if about else {}) | more


_SHARE: Schema = {"minimum": 0, "maximum": 1}
_COUNT: Schema = {"minimum": 0}
_ZOOM = _is("integer", "0 is the whole world as one tile.", minimum=0, maximum=30)
_CONFIDENCE = _is("number", "The probability of everything beneath this tile.", **_SHARE)
_SIMILARITY = {"type": ["number", "null"], "description": "The cosine; null where the tile has no vector."}
_RADIUS = {"type": ["number", "null"], "minimum": 0, "description": "km; null where `elsewhere` is likelier than not."}
_PLACE = {
    "lat": _is("number", "Degrees north.", minimum=-90, maximum=90),
    "lon": _is("number", "Degrees east.", minimum=-180, maximum=180),
}
_BOUNDS = _list(_is("number"), "West, south, east, north in degrees.") | {"minItems": 4, "maxItems": 4}
_IDS = {
    "id": _is("string", "What was indexed, as a hash."),
    "calibration_id": {"type": ["string", "null"], "description": "What the confidences were fitted to, as a hash."},
}

_TILE = _object(
    "A slippy-map tile.",
    {
        "z": _ZOOM,
        "x": _is("integer", "From the west.", **_COUNT),
        "y": _is("integer", "From the north.", **_COUNT),
    },
)
_LEVEL = _object(
    "One zoom's tile on the way to the point; `lat` and `lon` are its centre.",
    {
        "zoom": _ZOOM,
        "tile": ref("Tile"),
        "quadkey": _is("string"),
        **_PLACE,
        "bounds": _BOUNDS,
        "confidence": _CONFIDENCE,
        "similarity": _SIMILARITY,
    },
)
_KEPT = _object(
    "A tile that the beam kept.", {"tile": ref("Tile"), "confidence": _CONFIDENCE, "similarity": _SIMILARITY}
)
_ANSWER = _object(
    "Where one picture was taken.",
    {
        **_PLACE,
        "confidence": _is("number", "That of the deepest level.", **_SHARE),
        "calibrated": _is("boolean", "Whether the confidences were fitted for this question."),
        "radius_km": _object("Circles around the point that hold it with 50% and 90%.", {"50": _RADIUS, "90": _RADIUS}),
        "zoom": _is("integer", "The deepest level's."),
        "levels": _list(ref("Level"), "Nested tiles that contain the point, coarse to fine.") | {"minItems": 1},
        "alternatives": _list(ref("Alternative")),
        "elsewhere": _is("number", "The probability of none of the covered tiles.", **_SHARE),
        "index": _object("What answered.", {**_IDS, "zooms": _list(_is("integer"))}),
        "attribution": _is("string", "Of the map; show it beside the answer."),
        "timing_ms": _object(
            "Work, not waiting; what a batch shares is divided by its pictures.",
            {stage: _is("number", **_COUNT) for stage in ("decode", "encode", "search")},
        ),
    },
    trace=_list(ref("TracedLevel"), "Only if asked for."),
    prior=_is("string", "Which prior was asked; absent where none was."),
)
_PROBLEM = _object(
    "An error, as RFC 9457 has it.",
    {
        "type": _is("string", "`urn:tilebeam:problem:` and a word, or `about:blank`."),
        "title": _is("string"),
        "status": _is("integer", minimum=400, maximum=599),
        "detail": _is("string", "Names the offending value and the way out."),
    },
    instance=_is("string", "The path; not in a batch's line."),
    request_id=_is("string", "As in the header X-Request-ID; not in a batch's line."),
)
_LINE = _object(
    "One line of a batch's answer: a picture's `result` or `error`.",
    {"index": _is("integer", "Its place in the request, from 0.", **_COUNT), "name": _is("string", "Its file name.")},
    result=ref("Answer"),
    error=ref("Problem"),
) | {"oneOf": [{"required": ["result"]}, {"required": ["error"]}]}
_FEATURE = _object(
    "One part of the answer; `properties.kind` says which.",
    {
        "type": {"const": "Feature"},
        "geometry": _object(
            "In degrees, cut at the date line.",
            {"type": {"enum": ["Point", "Polygon", "MultiPolygon"]}, "coordinates": _list({})},
        ),
        "properties": _object("", {"kind": {"enum": ["answer", "radius", "tile", "kept", "alternative"]}}),
    },
)
_ABOUT_INDEX = _object(
    "The index that is loaded.",
    {
        **_IDS,
        "format_version": _is("integer"),
        "zooms": _list(_object("Rows, and how many have vectors.", {"zoom": _ZOOM, "rows": _is("integer", **_COUNT)})),
        "dim": _is("integer", **_COUNT),
        "codec": _is("string"),
        "coverage": _is("object", "What was planned, with its outline as GeoJSON where it is not the world."),
        "encoders": _is("object"),
        "attribution": _is("string"),
        "priors": _list(
            _object(
                "One that `prior=` may name.",
                {"name": _is("string"), "fingerprint": _is("string"), "calibration_id": _IDS["calibration_id"]},
            )
        ),
        "prior": {"type": ["string", "null"], "description": "The one that is asked unless a question names another."},
        "engine": _is("string", "What searches it, and where."),
    },
)

COMPONENTS: dict[str, Schema] = {
    "Answer": _ANSWER,
    "Level": _LEVEL,
    "Tile": _TILE,
    "Alternative": _object("Another place.", {**_PLACE, "confidence": _CONFIDENCE, "tile": ref("Tile")}),
    "TracedLevel": _object("What one zoom's beam kept.", {"zoom": _ZOOM, "kept": _list(ref("Kept"))}),
    "Kept": _KEPT,
    "Line": _LINE,
    "Problem": _PROBLEM,
    "FeatureCollection": _object(
        "RFC 7946.", {"type": {"const": "FeatureCollection"}, "features": _list(ref("Feature"))}
    ),
    "Feature": _FEATURE,
    "Index": _ABOUT_INDEX,
    "Reloaded": _object("What is loaded now, and what was.", {**_IDS, "previous": _object("Before.", dict(_IDS))}),
    "Status": _object("A probe's answer.", {"status": {"enum": ["alive", "ready"]}}),
    "TileJSON": _object(
        "TileJSON 3.0.",
        {name: _is("string") for name in ("tilejson", "name", "scheme", "attribution")}
        | {"tiles": _list(_is("string"))}
        | {"minzoom": _ZOOM, "maxzoom": _ZOOM},
    ),
}
"""Every schema that an operation names; generated clients call their types so."""

SECURITY: dict[str, Schema] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key of `tilebeam key new`."},
    "apiKey": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same, in a header of its own.",
    },
}
