"""Decide how a source's rows lie and whether it is in Web Mercator; the one place where this is settled.

Sources bring what is said about them (`Claims`) and the tiles that they hold (`Extent`). Rows are never guessed: where
two claims contradict each other, or the tiles do not fit the bounds, the source is refused with both named. The module
knows nothing of files and servers.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tile_cache.addressing import MAX_LATITUDE, MAX_ZOOM, Bounds, Tile, bounds, tile_at
from tile_cache.errors import SourceError

__all__ = ["Claim", "Claims", "Extent", "Layout", "TileBox", "check_grid", "check_url", "decide", "is_web_mercator"]

_WEB_MERCATOR = frozenset((3857, 900913, 3785, 41001, 102100, 102113))
_MERCATOR_NAMES = re.compile(
    r"pseudo-?\s?mercator|web-?\s?mercator|popular visualisation|google ?maps|spherical ?mercator|global-mercator"
    r"|^mercator$|googlemapscompatible|webmercatorquad|osmtile|\+proj=webmerc|\+proj=merc\b.*\+b=6378137\b",
    re.IGNORECASE,
)
_EPSG = re.compile(r"(?:EPSG|OSGEO|ESRI)(?:[:/\"',\s]+[0-9.]*[:/]+|[:/\"',\s]+)\"?(\d+)", re.IGNORECASE)
_URL_EPSG = re.compile(r"epsg(?:[:/_-]|%3a)*(\d{4,6})", re.IGNORECASE)
_URL_CRS84 = re.compile(r"\w*crs84\w*|(?<=tilematrixset=)wgs84|(?<=[?&][cs]rs=)wgs84", re.IGNORECASE)
_WAY_OUT = "tiles of other grids would be read at wrong places: cut them anew in EPSG:3857 (gdal2tiles.py -p mercator)"

_SCHEMES = {"xyz": False, "tms": True}
_STRAY_SHARE = 0.1
"""Share of a zoom's rows that may lie outside the bounds; exporters round bounds, or write whole blocks of tiles."""


class Claim(NamedTuple):
    """Something that a source says about itself: where it stands, in words, and its value."""

    where: str
    value: str


class TileBox(NamedTuple):
    """A tile as the source numbers it, and the edges that the source gives for it."""

    where: str
    tile: Tile
    box: Bounds


class Extent(NamedTuple):
    """The tiles of one zoom as the source numbers them: first and last column and row, inclusive."""

    zoom: int
    first_column: int
    last_column: int
    first_row: int
    last_row: int


@dataclass
class Claims:
    """What a source says about itself. `bounds`: the possible readings of what it says, in degrees."""

    schemes: list[Claim] = field(default_factory=list)
    projections: list[Claim] = field(default_factory=list)
    bounds: list[tuple[Claim, tuple[Bounds, ...]]] = field(default_factory=list)
    boxes: list[TileBox] = field(default_factory=list)

    def add_bounds(self, where: str, value: str, *readings: Sequence[float]) -> None:
        """Add bounds W, S, E, N in degrees; readings that cannot be bounds are left out."""
        usable = tuple(Bounds(*r) for r in readings if _are_bounds(r))
        if usable:
            self.bounds.append((Claim(where, value), usable))


class Layout(NamedTuple):
    """How rows count: from the south if `south_first`. `said_by`: the claim that says so, or None for the default."""

    south_first: bool
    said_by: Claim | None


def decide(name: str, claims: Claims, extents: Callable[[], Sequence[Extent]], *, south_first: bool) -> Layout:
    """The layout of the source `name`; `south_first`: how its kind counts rows where nothing is said.

    `extents` is called only if something is to be compared with the tiles. Raises SourceError for another projection,
    for claims that contradict each other, and for tiles that do not fit what is said.
    """
    for claim in claims.projections:
        _check_projection(name, claim)
    layout = _by_schemes(name, claims.schemes, south_first)
    for box in claims.boxes:
        _check_box(name, layout, box)
    if claims.bounds:
        tiles = extents()
        for claim, readings in claims.bounds:
            _check_bounds(name, layout, claim, readings, tiles)
    return layout


def is_web_mercator(text: str) -> bool:
    """Whether the code, name or definition of a projection is that of Web Mercator."""
    codes = [int(code) for code in _EPSG.findall(text)]  # of a definition in WKT, the last is the whole's
    known = codes[-1] in _WEB_MERCATOR if codes else text.strip().isdigit() and int(text) in _WEB_MERCATOR
    return known or _MERCATOR_NAMES.search(text.strip()) is not None


def _check_projection(name: str, claim: Claim) -> None:
    text = claim.value.strip()
    if text and not is_web_mercator(text):
        shown = text if len(text) <= 60 else f"{text[:40]} ... {text[-17:]}"
        raise SourceError(f"{name} is not in Web Mercator: {claim.where} says {shown!r}; {_WAY_OUT}")


def check_url(shown: str, template: str) -> None:
    """Raise SourceError if a URL template names another projection and not Web Mercator, as WMTS addresses do."""
    codes = [int(code) for code in _URL_EPSG.findall(template)]
    other = [f"EPSG:{code}" for code in codes] or _URL_CRS84.findall(template)
    if other and _WEB_MERCATOR.isdisjoint(codes):
        raise SourceError(
            f"{shown!r} names {other[0]}, which is not Web Mercator: use the server's address for EPSG:3857, often"
            " called GoogleMapsCompatible"
        )


def check_grid(name: str, extent: Extent) -> None:
    """Raise SourceError for columns or rows that Web Mercator does not have at this zoom."""
    size = 1 << extent.zoom if 0 <= extent.zoom <= MAX_ZOOM else 0
    for what, first, last in (
        ("column", extent.first_column, extent.last_column),
        ("row", extent.first_row, extent.last_row),
    ):
        if not 0 <= first <= last < size:
            outside = first if first < 0 else last
            raise SourceError(
                f"{name} has a tile in {what} {outside} of zoom {extent.zoom}, where Web Mercator has"
                f" {size} {what}s: it is cut in another grid; {_WAY_OUT}"
            )


def _by_schemes(name: str, claims: Sequence[Claim], south_first: bool) -> Layout:
    stated = [claim for claim in claims if claim.value.strip()]
    for claim in stated:
        if claim.value.strip().lower() not in _SCHEMES:
            raise SourceError(
                f"{name}: {claim.where} is {claim.value[:40]!r}, which says nothing of rows: write 'xyz' if rows count"
                " from the north, 'tms' if they count from the south"
            )
    for claim in stated[1:]:
        if claim.value.strip().lower() != stated[0].value.strip().lower():
            raise SourceError(
                f"{name}: {_words(stated[0])}, but {_words(claim)}: correct or remove the one that is wrong"
            )
    return Layout(_SCHEMES[stated[0].value.strip().lower()], stated[0]) if stated else Layout(south_first, None)


def _words(claim: Claim) -> str:
    return f"{claim.where} says that rows count from the {_from(_SCHEMES[claim.value.strip().lower()])}"


def _from(south_first: bool) -> str:
    return "south (TMS)" if south_first else "north (XYZ)"


def _reason(layout: Layout) -> str:
    said = f"{layout.said_by.where} says" if layout.said_by else "its format has it, nothing else being said"
    return f"rows counted from the {_from(layout.south_first)}, as {said}"


def _check_box(name: str, layout: Layout, stated: TileBox) -> None:
    z, row = stated.tile.z, stated.tile.y
    here = f"{stated.tile.z}/{stated.tile.x}/{row}"
    if _same_box(stated.box, bounds(stated.tile._replace(y=_north(row, z, layout.south_first)))):
        return
    if _same_box(stated.box, bounds(stated.tile._replace(y=_north(row, z, not layout.south_first)))):
        raise SourceError(
            f"{name}: with {_reason(layout)}, tile {here} lies elsewhere than {stated.where} says: write"
            f' {{"scheme": "{"xyz" if layout.south_first else "tms"}"}} into metadata.json'
        )
    raise SourceError(
        f"{name} is not in Web Mercator: {stated.where} says that tile {here} reaches from {stated.box.south:g} to"
        f" {stated.box.north:g} degrees of latitude; {_WAY_OUT}"
    )


def _same_box(a: Bounds, b: Bounds) -> bool:
    slack = 0.02 * min(b.north - b.south, b.east - b.west)
    return all(abs(x - y) <= slack for x, y in zip(a, b, strict=True))


def _check_bounds(
    name: str, layout: Layout, claim: Claim, readings: Sequence[Bounds], extents: Sequence[Extent]
) -> None:
    """Compare rows with bounds: refuse if they fit only when counted from the other side, or do not touch at all."""
    if not extents or any(_fits(r, extents, layout.south_first) for r in readings):
        return
    stated_bounds = f"{claim.where} {claim.value[:60]!r}"
    if any(_within(r, extents, not layout.south_first) for r in readings):
        raise SourceError(
            f"{name}: {_reason(layout)}, do not fit its {stated_bounds}; counted from the"
            f" {_from(not layout.south_first)} they would: correct the scheme or the bounds"
        )
    if all(_apart(r, extents, layout.south_first) for r in readings):
        raise SourceError(
            f"{name}: its tiles, {_reason(layout)}, lie outside its {stated_bounds}: correct or remove the"
            f" bounds, if the tiles are right; {_WAY_OUT}"
        )


def _fits(box: Bounds, extents: Sequence[Extent], south_first: bool) -> bool:
    """Whether no zoom has more than a few rows outside the bounds."""
    for e in extents:
        stray = _stray_rows(box, e, south_first)
        if stray > _STRAY_SHARE * (e.last_row - e.first_row + 1):
            return False
    return not _apart(box, extents, south_first)


def _within(box: Bounds, extents: Sequence[Extent], south_first: bool) -> bool:
    return all(_stray_rows(box, e, south_first) == 0 for e in extents)


def _stray_rows(box: Bounds, extent: Extent, south_first: bool) -> int:
    """How many rows of a zoom lie beyond the bounds and one more row on each side."""
    first, last = _rows(extent, south_first)
    top, bottom = _row_range(box, extent.zoom)
    return max(0, top - 1 - first) + max(0, last - bottom - 1)


def _apart(box: Bounds, extents: Sequence[Extent], south_first: bool) -> bool:
    """Whether the deepest zoom's tiles and the bounds have nothing in common, with one tile to spare."""
    deepest = max(extents, key=lambda e: e.zoom)
    first, last = _rows(deepest, south_first)
    top, bottom = _row_range(box, deepest.zoom)
    if last < top - 1 or first > bottom + 1:
        return True
    if box.west > box.east:
        return False
    west, east = (int(tile_at(min(max(lng, -180.0), 179.999999), 0.0, deepest.zoom).x) for lng in (box.west, box.east))
    return deepest.last_column < west - 1 or deepest.first_column > east + 1


def _rows(extent: Extent, south_first: bool) -> tuple[int, int]:
    """The first and last row of a zoom, counted from the north."""
    first, last = (_north(row, extent.zoom, south_first) for row in (extent.first_row, extent.last_row))
    return min(first, last), max(first, last)


def _row_range(box: Bounds, zoom: int) -> tuple[int, int]:
    return tile_at(0.0, box.north, zoom).y, tile_at(0.0, box.south, zoom).y


def _north(row: int, z: int, south_first: bool) -> int:
    return (1 << z) - 1 - row if south_first else row


def _are_bounds(values: Sequence[float]) -> bool:
    if len(values) != 4 or not all(math.isfinite(v) for v in values):
        return False
    west, south, east, north = values
    return -90 <= south < north <= 90 and all(-180.001 <= v <= 180.001 for v in (west, east)) and south < MAX_LATITUDE
