"""Examples for the OpenAPI description: one picture asked about, answered in every form, and what can go wrong.

Plain data; the tests hold it against the schemas and against each other.
"""

from typing import Any

from service.http import geojson
from service.problems import TABLE, TYPE_PREFIX, Kind

__all__ = ["ANSWER", "DETAILS", "FEATURES", "INDEX", "KINDS", "LINES", "RELOADED", "TILE_JSON", "problem"]

_REQUEST_ID = "9f3c1a7e5b2d4860"
_ID, _CALIBRATION = "5d0c3f6b9e1a", "a7f2c4d81e03"

ANSWER: dict[str, Any] = {
    "lat": 48.61,
    "lon": 2.24,
    "confidence": 0.41,
    "calibrated": True,
    "radius_km": {"50": 61.2, "90": 240.7},
    "zoom": 8,
    "levels": [
        {
            "zoom": 4,
            "tile": {"z": 4, "x": 8, "y": 5},
            "quadkey": "1202",
            "lat": 48.922499,
            "lon": 11.25,
            "bounds": [0.0, 40.979898, 22.5, 55.776573],
            "confidence": 0.93,
            "similarity": 0.71,
        },
        {
            "zoom": 6,
            "tile": {"z": 6, "x": 32, "y": 22},
            "quadkey": "120220",
            "lat": 47.040182,
            "lon": 2.8125,
            "bounds": [0.0, 45.089036, 5.625, 48.922499],
            "confidence": 0.66,
            "similarity": 0.64,
        },
        {
            "zoom": 8,
            "tile": {"z": 8, "x": 129, "y": 88},
            "quadkey": "12022001",
            "lat": 48.458352,
            "lon": 2.109375,
            "bounds": [1.40625, 47.989922, 2.8125, 48.922499],
            "confidence": 0.41,
            "similarity": 0.58,
        },
    ],
    "alternatives": [{"lat": 52.05, "lon": 4.92, "confidence": 0.08, "tile": {"z": 8, "x": 131, "y": 84}}],
    "elsewhere": 0.03,
    "index": {"id": _ID, "calibration_id": _CALIBRATION, "zooms": [4, 6, 8]},
    "attribution": "NASA Earth Observatory",
    "timing_ms": {"decode": 4.1, "encode": 9.8, "search": 1.2},
}

FEATURES = geojson.feature_collection(ANSWER)
"""The same as GeoJSON, its circles left out: they have two hundred corners."""
FEATURES["features"] = [each for each in FEATURES["features"] if each["properties"]["kind"] != "radius"]

INDEX: dict[str, Any] = {
    "id": _ID,
    "calibration_id": _CALIBRATION,
    "format_version": 1,
    "zooms": [{"zoom": zoom, "rows": 4**zoom, "vectors": 4**zoom, "inferred": 0} for zoom in (4, 6, 8)],
    "dim": 128,
    "codec": "fp16",
    "coverage": {"world": True},
    "encoders": {"photo": {"name": "builtin"}, "map": {}},
    "attribution": "NASA Earth Observatory",
    "priors": [{"name": "geocells", "fingerprint": "5b1e0c8d9f27", "calibration_id": "77ab31f00c2e"}],
    "prior": "geocells",
    "engine": "lists on cpu",
}
RELOADED: dict[str, Any] = {
    "id": "c81e90b7d2f4",
    "calibration_id": "0b47fd29e6c5",
    "previous": {"id": _ID, "calibration_id": _CALIBRATION},
}
TILE_JSON: dict[str, Any] = {
    "tilejson": "3.0.0",
    "name": "bluemarble",
    "tiles": ["/tiles/{z}/{x}/{y}"],
    "scheme": "xyz",
    "minzoom": 0,
    "maxzoom": 8,
    "attribution": "NASA Earth Observatory",
}

KINDS: dict[str, Kind] = {kind.slug: kind for kind in TABLE.values()} | {
    "internal": Kind(500, "internal", "Something went wrong here")
}
"""What a problem's type can end in."""

DETAILS: dict[str, str] = {
    "unreadable-photo": "the JPEG is damaged or cut off (image file is truncated); send the file again, whole",
    "unauthorized": "this service asks for a key; send `Authorization: Bearer KEY` or `X-API-Key: KEY`",
    "forbidden": "'alice' may not change the service; use a key made with `tilebeam key new --admin`, or send SIGHUP",
    "no-tile": "there is no tile 12/0/0 in 'bluemarble'; it has zooms 0 to 8",
    "slow-upload": "nothing arrived for 30 s in the middle of the upload; send it again",
    "reload-refused": "the new index cannot locate a picture; the log has the reason, the old one serves",
    "photo-too-large": "the picture has 100000 x 100000 pixels and 100,000,000 are allowed; send a smaller copy",
    "body-too-large": "the request has 20,000,001 bytes and 20,000,000 are allowed; send less at once",
    "unsupported-photo": "BMP is not taken; send JPEG, PNG, WebP, TIFF or GIF",
    "unsupported-body": "content type 'text/plain' is not taken; send multipart/form-data with a file field 'image', "
    "or the picture's bytes with an image/* content type",
    "invalid-query": "no tile of the index lies in the bbox; ask without it, or for what GET /index says is covered",
    "invalid-request": "query parameter k='0' is wrong: Input should be greater than or equal to 1",
    "rate-limited": "'alice' has sent its 60 images for this minute; ask again in 12 s",
    "overloaded": "128 images are in work, the most allowed; ask again in 3 s",
    "store-unavailable": "the temporary store cannot be written (No space left on device); ask again later",
    "too-slow": "answering took longer than 60 s; ask again later, or send less at once",
    "audit-unavailable": "the audit cannot be written, and nothing is answered without it; ask again later",
    "not-ready": "an inference on what is loaded has failed; the service's log has the reason",
    "internal": "This is a fault of the service and not of the request; its log has the reason.",
}
"""What a problem of each kind says."""


def problem(slug: str, instance: str | None = "/locate") -> dict[str, Any]:
    """A problem document; None for `instance` makes that of a batch's line."""
    kind = KINDS[slug]
    body = {"type": TYPE_PREFIX + slug, "title": kind.title, "status": kind.status, "detail": DETAILS[slug]}
    return body if instance is None else body | {"instance": instance, "request_id": _REQUEST_ID}


LINES: list[dict[str, Any]] = [
    {"index": 0, "name": "a.jpg", "result": ANSWER},
    {"index": 1, "name": "b.jpg", "error": problem("unreadable-photo", None)},
]
