"""An answer as GeoJSON (RFC 7946): the point, the radii, the tiles of each zoom, the alternatives. Plain Python.

Degrees. Rings are closed and counter-clockwise, nothing crosses the date line: what would is cut there and becomes a
MultiPolygon. Knows the answer's JSON and nothing of HTTP but the Accept header's grammar.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retrieval.sphere import EARTH_RADIUS_KM
from tile_cache.addressing import Tile, bounds

__all__ = ["MEDIA_TYPE", "cap", "feature_collection", "preferred"]

MEDIA_TYPE = "application/geo+json"
_COLUMNS = 96

Position = list[float]
Column = tuple[float, float, float]
"""longitude, lowest and highest latitude"""


def preferred(accept: str) -> bool:
    """Whether an Accept header names GeoJSON, and names plain JSON no higher."""
    weights = dict(_weight(part) for part in accept.lower().split(",") if part.strip())
    ours = weights.get(MEDIA_TYPE, 0.0)
    return ours > 0 and ours >= weights.get("application/json", 0.0)


def _weight(part: str) -> tuple[str, float]:
    name, *options = (piece.strip() for piece in part.split(";"))
    try:
        return name, next((float(o[2:]) for o in options if o.startswith("q=")), 1.0)
    except ValueError:
        return name, 0.0


def feature_collection(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The HTTP contract's answer as a FeatureCollection; each feature's `kind` says what it is."""
    return {"type": "FeatureCollection", "features": list(_features(answer))}


def _features(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    apart = ("lat", "lon", "levels", "alternatives", "trace")
    about = {name: value for name, value in answer.items() if name not in apart}
    yield _feature("answer", _point(answer), about)
    for share, km in answer["radius_km"].items():
        if km is not None:
            about = {"share": int(share) / 100, "radius_km": km}
            yield _feature("radius", cap(answer["lon"], answer["lat"], km), about)
    for level in answer["levels"]:
        yield _feature("tile", _box(level["bounds"]), {n: level[n] for n in ("zoom", "quadkey", "tile", *_FIGURES)})
    for level in answer.get("trace", ()):
        for kept in level["kept"]:
            about = {"zoom": level["zoom"], "tile": kept["tile"], **{name: kept[name] for name in _FIGURES}}
            yield _feature("kept", _box(bounds(Tile(**kept["tile"]))), about)
    for rank, other in enumerate(answer["alternatives"], 1):
        about = {"rank": rank, "confidence": other["confidence"], "tile": other["tile"]}
        yield _feature("alternative", _point(other), about)


_FIGURES = ("confidence", "similarity")


def _feature(kind: str, geometry: dict[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {"kind": kind, **properties}}


def _point(place: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Point", "coordinates": [place["lon"], place["lat"]]}


def _box(edges: Sequence[float]) -> dict[str, Any]:
    west, south, east, north = edges
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def cap(lon: float, lat: float, km: float) -> dict[str, Any]:
    """All that lies within `km` of a point, as a Polygon or MultiPolygon; a pole inside is an edge along it."""
    reach = min(km / EARTH_RADIUS_KM, math.pi * 0.999)
    if reach >= math.pi / 2 + abs(
        math.radians(lat)
    ):  # both poles: the whole Earth but for the rest around the antipode
        rest = _strips(lon - math.copysign(180, lon), -math.radians(lat), math.pi - reach)
        return {"type": "Polygon", "coordinates": [_WORLD, *(_hole(strip) for strip in rest)]}
    polygons = [[_ring(strip)] for strip in _strips(lon, math.radians(lat), reach)]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


_WORLD: list[Position] = [[-180.0, -90.0], [180.0, -90.0], [180.0, 90.0], [-180.0, 90.0], [-180.0, -90.0]]


def _strips(lon: float, lat: float, reach: float) -> Iterator[list[Column]]:
    """A cap with one pole in it or none, in columns from west to east; in two strips where it crosses the date line."""
    if reach >= math.pi / 2 - abs(lat):  # a pole inside: every longitude
        around = [-180 + 360 * i / _COLUMNS for i in range(_COLUMNS + 1)]
        yield [(at, *_column(math.radians(at - lon), lat, reach)) for at in around]
        return
    most = math.degrees(math.asin(min(1.0, math.sin(reach) / math.cos(lat))))  # columns are denser at its ends
    across = [lon + most * math.sin(math.pi * (i / _COLUMNS - 0.5)) for i in range(_COLUMNS + 1)]
    across = sorted({*across, *(edge for edge in (-180.0, 180.0) if across[0] < edge < across[-1])})
    for turn in (-360, 0, 360):
        part = [at for at in across if -180 <= at + turn <= 180]
        if len(part) > 1:
            yield [(at + turn, *_column(math.radians(at - lon), lat, reach)) for at in part]


def _column(offset: float, lat: float, reach: float) -> tuple[float, float]:
    """Latitudes, in degrees, that lie in the cap at this longitude less its centre's, in radians."""
    # sin(lat) sin(p) + cos(lat) cos(p) cos(offset) >= cos(reach) is |p - middle| <= half, wrapped over the poles.
    a, b = math.sin(lat), math.cos(lat) * math.cos(offset)
    middle, quarter = math.atan2(a, b), math.pi / 2
    half = math.acos(min(1.0, max(-1.0, math.cos(reach) / max(math.hypot(a, b), 1e-12))))
    turns = [
        (max(-quarter, middle - half + turn), min(quarter, middle + half + turn)) for turn in (-math.tau, 0.0, math.tau)
    ]
    low, high = max(turns, key=lambda turn: turn[1] - turn[0])
    return math.degrees(min(low, high)), math.degrees(high)


def _hole(strip: list[Column]) -> list[Position]:
    """A strip as an inner ring: clockwise, and a hair off the date line, where it may not touch the outer ring."""
    edge = 180 - 1e-6
    return [[min(max(at, -edge), edge), latitude] for at, latitude in reversed(_ring(strip))]


def _ring(strip: list[Column]) -> list[Position]:
    """Along the lower edge eastwards and back along the upper: counter-clockwise, closed, no point twice in a row."""
    around = [[at, low] for at, low, _ in strip] + [[at, high] for at, _, high in reversed(strip)]
    ring: list[Position] = []
    for position in around:
        rounded = [round(position[0], 9), round(position[1], 9)]
        if not ring or rounded != ring[-1]:
            ring.append(rounded)
    if ring[0] != ring[-1]:
        ring.append(list(ring[0]))
    return ring
