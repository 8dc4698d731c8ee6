"""Ranges and text forms of a query's options. Imports without NumPy, for command lines and clients."""

from typing import Literal

MAX_K = 1024
DEFAULT_K = 64
"""Beam width: tiles kept per zoom."""
MAX_ALTERNATIVES = 20
MAX_REGION_TEXT = 16_000
"""Characters of a region's GeoJSON in a request's address."""
Scoring = Literal["posterior", "paper"]
"""How tiles are ranked: by posterior mass, or, as in the hierarchical-search paper, by similarity alone."""

Register = Literal["auto", "on", "off"]
"""Whether a picture is registered: where it can be, in any case (a QueryError where it cannot), or never."""
MAX_WIDTH_KM = 20_000.0

Device = Literal["auto", "cpu", "cuda"]
"""Where the encoder and the search run; `auto` is a GPU if there is one with enough free memory for the index."""

_BBOX_FORM = "write west,south,east,north in degrees, for example -10,35,30,60 (west > east crosses the date line)"


def parse_bbox(text: str) -> tuple[float, float, float, float]:
    """Parse `west,south,east,north`; raises ValueError unless these are four numbers. `BBox` checks their ranges."""
    values = text.split(",")
    if len(values) != 4:
        raise ValueError(f"bbox={text!r} has {len(values)} values instead of 4; {_BBOX_FORM}")
    west, south, east, north = (_degrees(value, text) for value in values)
    return west, south, east, north


def _degrees(value: str, text: str) -> float:
    try:
        return float(value)
    except ValueError as exc:
        raise ValueError(f"bbox={text!r}: {value.strip()!r} is not a number; {_BBOX_FORM}") from exc
