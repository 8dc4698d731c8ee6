"""A registration for GIS programs: QGIS's control points, GDAL's options, and footprints as GeoJSON. Writes no files.

It takes the contract's `registration` objects, which must have a place, and imports the standard library only, so that
a client of a service can use it. Control points are in the pixels of the file as it is stored, because GDAL and QGIS
ignore EXIF's turn. Longitudes run on beyond 180 degrees where the picture crosses the date line, so that a program can
fit them.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

__all__ = ["WGS84", "footprint_feature", "gdal_options", "holds_pole", "qgis_points"]

WGS84 = (
    'GEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,298.257223563,'
    'LENGTHUNIT["metre",1]]],PRIMEM["Greenwich",0,ANGLEUNIT["degree",0.0174532925199433]],CS[ellipsoidal,2],'
    'AXIS["geodetic latitude (Lat)",north,ORDER[1],ANGLEUNIT["degree",0.0174532925199433]],'
    'AXIS["geodetic longitude (Lon)",east,ORDER[2],ANGLEUNIT["degree",0.0174532925199433]],ID["EPSG",4326]]'
)
"""EPSG:4326 as QGIS writes it into the first line of a points file."""


def qgis_points(registration: Mapping[str, Any]) -> str:
    """The text of a `.points` file of QGIS's georeferencer; `sourceY` is negative downwards."""
    rows = [f"{p.lng},{p.lat},{p.x:.2f},{-p.y + 0.0:.2f},1,0,0,0" for p in _continuous(registration)]
    return "\n".join([f"#CRS: {WGS84}", "mapX,mapY,sourceX,sourceY,enable,dX,dY,residual", *rows, ""])


def gdal_options(registration: Mapping[str, Any]) -> str:
    """The text of a file for `gdal_translate --optfile`: the coordinate system and one `-gcp` a line."""
    rows = [f"-gcp {p.x:.2f} {p.y:.2f} {p.lng} {p.lat}" for p in _continuous(registration)]
    return "\n".join(["-a_srs EPSG:4326", *rows, ""])


def footprint_feature(name: str, registration: Mapping[str, Any]) -> dict[str, Any]:
    """A GeoJSON Feature with the outline, cut at the date line, and the registration's figures as properties."""
    figures = ("accepted", "probability", "lat", "lon", "width_km", "heading_deg")
    properties = {"name": name, **{figure: registration[figure] for figure in figures}}
    return {"type": "Feature", "geometry": registration["footprint"], "properties": properties}


def holds_pole(registration: Mapping[str, Any]) -> bool:
    """Whether a pole lies in the picture: its outline then runs along the pole."""
    outline = registration["footprint"]
    if outline["type"] != "Polygon":
        return False
    return any(abs(lat) == 90 for ring in outline["coordinates"] for _, lat in ring)


class _Point(NamedTuple):
    x: float
    y: float
    lng: float
    lat: float


def _continuous(registration: Mapping[str, Any]) -> Iterator[_Point]:
    """The control points, with longitudes within 180 degrees of the centre's, to 1e-6 degrees."""
    middle = registration["lon"]
    for point in registration["gcps"]:
        lng = middle + (point["lon"] - middle + 180) % 360 - 180
        yield _Point(point["x"], point["y"], round(lng, 6) + 0.0, point["lat"])
