"""Reading `west,south,east,north` as people type it. Plain Python: the command line needs it without the engine."""

from service.errors import RequestError

__all__ = ["parse_bbox"]

_FORM = "write west,south,east,north in degrees, for example -10,35,30,60 (west > east crosses the date line)"


def parse_bbox(text: str) -> tuple[float, float, float, float]:
    """(west, south, east, north); raises RequestError for other than four numbers. `BBox` checks their ranges."""
    parts = text.split(",")
    if len(parts) != 4:
        raise RequestError(f"bbox={text!r} has {len(parts)} values instead of 4; {_FORM}")
    west, south, east, north = (_degrees(part, text) for part in parts)
    return west, south, east, north


def _degrees(part: str, text: str) -> float:
    try:
        return float(part)
    except ValueError as exc:
        raise RequestError(f"bbox={text!r}: {part.strip()!r} is no number; {_FORM}") from exc
