"""A registration for GIS programs: QGIS's control points, GDAL's options, and footprints as GeoJSON. Writes no files.

Control points are in the pixels of the file as it is stored, because GDAL and QGIS ignore EXIF's turn. Longitudes run
on beyond 180 degrees where the picture crosses the date line, so that a program can fit them.
"""

from collections.abc import Iterator
from typing import Any

from retrieval.registration.footprint import ControlPoint, outline
from retrieval.registration.result import Registration
from retrieval.search.rounding import degrees

__all__ = ["WGS84", "footprint_feature", "gdal_options", "qgis_points"]

WGS84 = (
    'GEOGCRS["WGS 84",DATUM["World Geodetic System 1984",ELLIPSOID["WGS 84",6378137,298.257223563,'
    'LENGTHUNIT["metre",1]]],PRIMEM["Greenwich",0,ANGLEUNIT["degree",0.0174532925199433]],CS[ellipsoidal,2],'
    'AXIS["geodetic latitude (Lat)",north,ORDER[1],ANGLEUNIT["degree",0.0174532925199433]],'
    'AXIS["geodetic longitude (Lon)",east,ORDER[2],ANGLEUNIT["degree",0.0174532925199433]],ID["EPSG",4326]]'
)
"""EPSG:4326 as QGIS writes it into the first line of a points file."""


def qgis_points(registration: Registration) -> str:
    """The text of a `.points` file of QGIS's georeferencer; `sourceY` is negative downwards."""
    rows = [f"{degrees(p.lng)},{degrees(p.lat)},{p.x:.2f},{-p.y + 0.0:.2f},1,0,0,0" for p in _continuous(registration)]
    return "\n".join([f"#CRS: {WGS84}", "mapX,mapY,sourceX,sourceY,enable,dX,dY,residual", *rows, ""])


def gdal_options(registration: Registration) -> str:
    """The text of a file for `gdal_translate --optfile`: the coordinate system and one `-gcp` a line."""
    rows = [f"-gcp {p.x:.2f} {p.y:.2f} {degrees(p.lng)} {degrees(p.lat)}" for p in _continuous(registration)]
    return "\n".join(["-a_srs EPSG:4326", *rows, ""])


def footprint_feature(name: str, registration: Registration) -> dict[str, Any]:
    """A GeoJSON Feature with the outline, cut at the date line, and the registration's figures as properties.

    The registration must have a frame.
    """
    assert registration.frame is not None
    values = registration.to_json()
    figures = ("accepted", "probability", "lat", "lon", "width_km", "heading_deg")
    properties = {"name": name, **{figure: values[figure] for figure in figures}}
    return {"type": "Feature", "geometry": outline(registration.frame, registration.aspect), "properties": properties}


def _continuous(registration: Registration) -> Iterator[ControlPoint]:
    """The control points, with longitudes within 180 degrees of the centre's."""
    assert registration.frame is not None
    middle = registration.frame.lng
    for point in registration.control_points:
        yield point._replace(lng=middle + (point.lng - middle + 180) % 360 - 180)
