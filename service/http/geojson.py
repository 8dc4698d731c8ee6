"""An answer as GeoJSON (RFC 7946): the point, the radii, the tiles of each zoom, the alternatives. Degrees.

Rings are closed and counter-clockwise. Shapes that cross the date line are cut there and become a MultiPolygon. This
module knows the answer's JSON and, of HTTP, only the grammar of the Accept header.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from retrieval.search.rounding import degrees
from retrieval.sphere import EARTH_RADIUS_KM, cut_at_date_line
from tile_cache.addressing import Tile, bounds

MEDIA_TYPE = "application/geo+json"
_COLUMNS = 96
"""A circle is drawn by its lowest and highest latitude at this many steps of longitude."""

Position = list[float]


def preferred(accept: str) -> bool:
    """Whether an Accept header names GeoJSON, and does not prefer plain JSON."""
    weights = dict(_weight(part) for part in accept.lower().split(",") if part.strip())
    weight = weights.get(MEDIA_TYPE, 0.0)
    return weight > 0 and weight >= weights.get("application/json", 0.0)


def _weight(part: str) -> tuple[str, float]:
    name, *options = (piece.strip() for piece in part.split(";"))
    try:
        return name, next((float(o[2:]) for o in options if o.startswith("q=")), 1.0)
    except ValueError:
        return name, 0.0


def feature_collection(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The answer as a FeatureCollection; the property `kind` says which part of the answer a feature is."""
    return {"type": "FeatureCollection", "features": list(_features(answer))}


def _features(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    with_own_features = ("lat", "lon", "levels", "alternatives", "trace", "registration")
    about = {name: value for name, value in answer.items() if name not in with_own_features}
    registration = answer["registration"]
    about["registration"] = registration and {n: v for n, v in registration.items() if n != "footprint"}
    yield _feature("answer", _point(answer), about)
    for share, km in answer["radius_km"].items():
        if km is not None:
            about = {"share": int(share) / 100, "radius_km": km}
            yield _feature("radius", cap(answer["lon"], answer["lat"], km), about)
    for level in answer["levels"]:
        yield _feature("tile", _box(level["bounds"]), {n: level[n] for n in ("zoom", "quadkey", "tile", *_FIGURES)})
    for level in answer.get("trace", ()):
        for row in level["kept"]:
            about = {"zoom": level["zoom"], "tile": row["tile"], **{name: row[name] for name in _FIGURES}}
            yield _feature("kept", _box([degrees(edge) for edge in bounds(Tile(**row["tile"]))]), about)
    if registration and "footprint" in registration:
        about = {name: registration[name] for name in _OF_FOOTPRINT}
        yield _feature("footprint", registration["footprint"], about)
    for rank, other in enumerate(answer["alternatives"], 1):
        about = {"rank": rank, "confidence": other["confidence"], "tile": other["tile"]}
        yield _feature("alternative", _point(other), about)


_FIGURES = ("confidence", "similarity")
_OF_FOOTPRINT = ("accepted", "probability", "width_km", "heading_deg")


def _feature(kind: str, geometry: dict[str, Any], properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {"kind": kind, **properties}}


def _point(place: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "Point", "coordinates": [place["lon"], place["lat"]]}


def _box(edges: Sequence[float]) -> dict[str, Any]:
    west, south, east, north = edges
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Polygon", "coordinates": [ring]}


def cap(lon: float, lat: float, km: float) -> dict[str, Any]:
    """The circle of `km` around a point on the sphere, as a Polygon or MultiPolygon. A pole inside becomes an edge."""
    reach = min(km / EARTH_RADIUS_KM, math.pi * 0.999)
    if reach >= math.pi / 2 + abs(math.radians(lat)):
        # Both poles are inside: the whole Earth with a hole around the antipode.
        rest = _rings(lon - math.copysign(180, lon), -math.radians(lat), math.pi - reach)
        return {"type": "Polygon", "coordinates": [_WORLD, *(_hole(ring) for ring in rest)]}
    polygons = [[ring] for ring in _rings(lon, math.radians(lat), reach)]
    if len(polygons) == 1:
        return {"type": "Polygon", "coordinates": polygons[0]}
    return {"type": "MultiPolygon", "coordinates": polygons}


_WORLD: list[Position] = [[-180.0, -90.0], [180.0, -90.0], [180.0, 90.0], [-180.0, 90.0], [-180.0, -90.0]]


def _rings(lon: float, lat: float, reach: float) -> list[list[Position]]:
    """The outline of a circle with at most one pole inside: one ring, or two if it crosses the date line."""
    if reach >= math.pi / 2 - abs(lat):  # a pole is inside: the circle covers every longitude
        longitudes = [-180 + 360 * i / _COLUMNS for i in range(_COLUMNS + 1)]
    else:
        half_width = math.degrees(math.asin(min(1.0, math.sin(reach) / math.cos(lat))))
        # The sine makes columns denser at the ends, where the outline is steep.
        longitudes = [lon + half_width * math.sin(math.pi * (i / _COLUMNS - 0.5)) for i in range(_COLUMNS + 1)]
        # A column on the date line, so that the cut there is exact.
        edges = (edge for edge in (-180.0, 180.0) if longitudes[0] < edge < longitudes[-1])
        longitudes = sorted({*longitudes, *edges})
    columns = [(at, *_column(math.radians(at - lon), lat, reach)) for at in longitudes]
    # Eastwards along the lower edge and back along the upper: counter-clockwise.
    outline = [(at, low) for at, low, _ in columns] + [(at, high) for at, _, high in reversed(columns)]
    return [_closed(piece.tolist()) for piece in cut_at_date_line(np.array(outline))]


def _column(offset: float, lat: float, reach: float) -> tuple[float, float]:
    """Lowest and highest latitude of the circle, in degrees; `offset`: longitude minus the centre's, in radians."""
    # sin(lat) sin(p) + cos(lat) cos(p) cos(offset) >= cos(reach) is |p - middle| <= half, wrapped over the poles.
    a, b = math.sin(lat), math.cos(lat) * math.cos(offset)
    middle, quarter = math.atan2(a, b), math.pi / 2
    half = math.acos(min(1.0, max(-1.0, math.cos(reach) / max(math.hypot(a, b), 1e-12))))
    turns = [
        (max(-quarter, middle - half + turn), min(quarter, middle + half + turn)) for turn in (-math.tau, 0.0, math.tau)
    ]
    low, high = max(turns, key=lambda turn: turn[1] - turn[0])
    return math.degrees(min(low, high)), math.degrees(high)


def _hole(ring: list[Position]) -> list[Position]:
    """A ring as an inner ring: clockwise, and slightly off the date line, because it must not touch the outer ring."""
    edge = 180 - 1e-6
    return [[min(max(at, -edge), edge), latitude] for at, latitude in reversed(ring)]


def _closed(positions: list[Position]) -> list[Position]:
    """The positions rounded, without repetitions, and closed."""
    ring: list[Position] = []
    for at, latitude in positions:
        rounded = [degrees(at), degrees(latitude)]
        if not ring or rounded != ring[-1]:
            ring.append(rounded)
    if ring[0] != ring[-1]:
        ring.append(list(ring[0]))
    return ring
