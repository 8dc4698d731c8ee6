"""Latitudes and longitudes in the forms in which tables and pictures write them, as degrees.

A form is decimal degrees (also with a decimal comma), or degrees with minutes and seconds and a letter or word for the
hemisphere. Knows nothing of tables, files or maps.
"""

import math
import re
from typing import Literal

__all__ = ["Axis", "degrees_of_parts", "degrees_of_text", "degrees_of_xmp", "hemisphere_of"]

Axis = Literal["latitude", "longitude"]

_LONGEST = 100
_SIGNS: dict[Axis, dict[str, int]] = {
    "latitude": {"n": 1, "north": 1, "s": -1, "south": -1},
    "longitude": {"e": 1, "east": 1, "w": -1, "west": -1},
}
_HEMISPHERE = r"[NSEWnsew]|[Nn]orth|[Ss]outh|[Ee]ast|[Ww]est|NORTH|SOUTH|EAST|WEST"
_NUMBER = r"\d{1,3}(?:[.,]\d*)?"
_DECIMAL = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d{1,3})?")
_ANGLE = re.compile(
    rf"""(?P<before>{_HEMISPHERE})?\s*
    (?P<sign>[+-])?\s*(?P<degrees>{_NUMBER})\s*(?:°|º|deg(?:rees)?\b|d\b|:|\s)?\s*
    (?:(?P<minutes>{_NUMBER})\s*(?:'|′|’|´|min\b|m\b|:|\s)?\s*)?
    (?:(?P<seconds>{_NUMBER})\s*(?:"|″|”|''|′′|sec\b|s(?=\s|$))?\s*)?
    (?P<after>{_HEMISPHERE})?""",
    re.VERBOSE,
)
_XMP = re.compile(r"(\d{1,3}),(\d{1,2}(?:\.\d{1,20})?)(?:,(\d{1,2}(?:\.\d{1,20})?))?\s*([NSEWnsew])")


def degrees_of_text(text: str, axis: Axis, hemisphere: str = "") -> float:
    """An angle as a table writes it, as signed degrees of any size; raises ValueError, which says what is wrong.

    `hemisphere`: the text of a column of its own, such as exiftool's GPSLatitudeRef; empty if there is none. A number
    that is already negative agrees with S and W.
    """
    text = text.strip().strip('"')
    if len(text) > _LONGEST:
        raise ValueError(f"{text[:20]!r}... has {len(text):,} characters")
    side = hemisphere_of(hemisphere, axis) if hemisphere.strip() else 0
    if _DECIMAL.fullmatch(text):
        return _with_side(float(text.replace(",", ".")), side, text)
    match = _ANGLE.fullmatch(text)
    if match is None or not (match["before"] or match["after"] or re.search("[°º:]|deg", text)):
        raise ValueError(f"{text!r} is no number of degrees")
    if match["before"] and match["after"]:
        raise ValueError(f"{text!r} names two hemispheres")
    if own := match["before"] or match["after"]:
        own_side = hemisphere_of(own, axis)
        if side and own_side != side:
            raise ValueError(f"{text!r} contradicts the hemisphere {hemisphere.strip()!r}")
        side = own_side
    elif not side and not match["sign"] and "deg" in text.lower():  # exiftool's form, which always names the hemisphere
        raise ValueError(
            f"{text!r} names no hemisphere, as exiftool's EXIF group does: write GPS{axis.capitalize()}Ref too"
        )
    parts = [float(part.replace(",", ".")) for part in match.group("degrees", "minutes", "seconds") if part]
    if not all(part.is_integer() for part in parts[:-1]):
        raise ValueError(f"{text!r} has a fraction before its last number")
    value = degrees_of_parts(parts)
    return _with_side(-value if match["sign"] == "-" else value, side, text)


def degrees_of_xmp(text: str, axis: Axis) -> float:
    """An angle as XMP writes it, `24,40.65N` or `24,40,39N`, or as a table may; raises ValueError."""
    match = _XMP.fullmatch(text.strip()[:_LONGEST])
    if match is None:
        return degrees_of_text(text, axis)
    return hemisphere_of(match[4], axis) * degrees_of_parts([float(part) for part in match.group(1, 2, 3) if part])


def degrees_of_parts(parts: list[float]) -> float:
    """Degrees, minutes and seconds (the last ones may be absent) as degrees; raises ValueError."""
    degrees, minutes, seconds = (*parts, 0.0, 0.0)[:3]
    total = degrees + minutes / 60 + seconds / 3600
    if not math.isfinite(total) or min(minutes, seconds) < 0 or minutes >= 60 or seconds > 60:
        raise ValueError(f"{degrees:g} degrees, {minutes:g} minutes and {seconds:g} seconds are no angle")
    return total


def hemisphere_of(text: str, axis: Axis) -> int:
    """1 for N and E, -1 for S and W, in any case and also as words; raises ValueError for any other text."""
    side = _SIGNS[axis].get(text.strip("\0 \t").lower())
    if side is None:
        letters = "N nor S" if axis == "latitude" else "E nor W"
        raise ValueError(f"the hemisphere of a {axis} is {text.strip(chr(0))[:20]!r}, neither {letters}")
    return side


def _with_side(value: float, side: int, text: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not finite")
    if value < 0 and side > 0:
        raise ValueError(f"{text!r} is negative and N or E")
    return -abs(value) if side < 0 else value
