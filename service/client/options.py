"""A call's options as query parameters, checked as far as their types go; the service checks their values."""

import json
import math
import operator
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from retrieval.picture_files import printable
from retrieval.search.options import MAX_REGION_TEXT, parse_bbox
from service.client.types import LocateOptions
from service.errors import ClientError, LocalFileError

__all__ = ["query_of", "region_text"]

_DECIMALS = 6
"""Of a large region's coordinates, in degrees: 11 cm."""
_BOX = "bbox takes four numbers in degrees: west, south, east, north"
_WITHIN = "within takes a GeoJSON object as a mapping or text, or the path of a GeoJSON file"


def query_of(options: LocateOptions) -> dict[str, str]:
    """The options as query parameters; None is the service's default.

    Raises TypeError for an unknown option or a value of a wrong type, ValueError for a bbox of another length,
    LocalFileError for a region's file that cannot be read, ClientError for a region that is too long for a request.
    """
    if unknown := options.keys() - LocateOptions.__annotations__.keys():
        raise TypeError(f"unknown option {min(unknown)!r}; use {', '.join(LocateOptions.__annotations__)}")
    return {name: _text(name, value) for name, value in options.items() if value is not None}


def region_text(within: Any) -> str:
    """A region as the text of the parameter `within`; a long one without properties, to 1e-6 degrees.

    `within`: a mapping, an object with `__geo_interface__`, GeoJSON text, or the path of a file.
    """
    value = getattr(within, "__geo_interface__", within)
    if isinstance(value, os.PathLike) or (isinstance(value, str) and not value.lstrip("\ufeff \t\r\n").startswith("{")):
        value = _file_text(Path(os.fsdecode(value)))
    if isinstance(value, str):
        text = value.lstrip("\ufeff")
        return text if len(text) <= MAX_REGION_TEXT else _shortened(_parsed(text))
    if not isinstance(value, Mapping):
        raise TypeError(f"{_WITHIN}, not {type(within).__name__}")
    try:
        text = _dumped(value)
    except (TypeError, ValueError) as exc:
        raise TypeError(f"within={type(within).__name__} is not a GeoJSON object ({exc}); {_WITHIN}") from exc
    return text if len(text) <= MAX_REGION_TEXT else _shortened(json.loads(text))


def _text(name: str, value: Any) -> str:
    if name == "bbox":
        return _box(value)
    if name == "within":
        return region_text(value)
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):  # NumPy's
        return str(bool(value)).lower()
    try:
        return str(operator.index(value))
    except TypeError:
        pass
    try:
        number = float(value)
    except (TypeError, ValueError) as exc:
        raise TypeError(f"{name}={value!r} is {type(value).__name__}; give a number, text, True or False") from exc
    return str(int(number)) if number.is_integer() else repr(number)


def _box(value: Any) -> str:
    if isinstance(value, str):
        parse_bbox(value)
        return value
    if isinstance(value, Mapping | bytes) or not isinstance(value, Iterable):
        raise TypeError(f"bbox={value!r}: {_BOX}, not {type(value).__name__}")
    edges = list(value)
    try:
        numbers = [float(edge) for edge in edges]
    except (TypeError, ValueError) as exc:
        raise TypeError(f"bbox={value!r}: {_BOX}") from exc
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ValueError(f"bbox={value!r}: {_BOX}")
    return ",".join(map(repr, numbers))


def _file_text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise LocalFileError(f"{printable(path)}: {reason}; {_WITHIN}") from exc
    if not text.lstrip().startswith("{"):
        raise LocalFileError(f"{printable(path)}: no GeoJSON object (it begins with {text[:16]!r}); {_WITHIN}")
    return text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ClientError(f"the region in within is not JSON ({exc}); give a GeoJSON object") from exc


def _shortened(document: Any) -> str:
    text = _dumped(_bare(document))
    if len(text) > MAX_REGION_TEXT:
        raise ClientError(
            f"the region in within has {len(text):,} characters and a service takes {MAX_REGION_TEXT:,}; simplify it "
            "(ogr2ogr -simplify 0.01 simple.geojson region.geojson), or locate with an index, which takes larger files"
        )
    return text


def _bare(value: Any) -> Any:
    """A GeoJSON object without properties and other members, its numbers rounded."""
    if isinstance(value, Mapping):
        kept_members = ("type", "crs", "geometry", "geometries", "features", "coordinates")
        return {name: value[name] if name == "crs" else _bare(value[name]) for name in kept_members if name in value}
    if isinstance(value, list):
        return [_bare(each) for each in value]
    return round(value, _DECIMALS) if isinstance(value, float) else value


def _dumped(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_plain)


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays as Python's; other mappings as dicts."""
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
