"""How rows lie, and which projections are Web Mercator: claims that agree, contradict, and fit the tiles or not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tile_cache.addressing import Bounds, Tile, bounds, tile_at
from tile_cache.errors import SourceError
from tile_cache.layout.decide import Claim, Claims, Extent, TileBox, check_grid, check_url, decide, is_web_mercator

EUROPE = (-10.0, 35.0, 30.0, 60.0)


def extent(box: tuple[float, float, float, float], zoom: int, *, south_first: bool) -> Extent:
    """The tiles of a zoom that a box touches, as a source numbers them."""
    west, south, east, north = box
    first, last = tile_at(west, north, zoom), tile_at(east, south, zoom)
    rows = [(1 << zoom) - 1 - t.y if south_first else t.y for t in (first, last)]
    return Extent(zoom, first.x, last.x, min(rows), max(rows))


def claims(scheme: str = "", box: tuple[float, ...] | None = None, crs: str = "") -> Claims:
    made = Claims()
    made.schemes.append(Claim("the scheme", scheme))
    made.projections.append(Claim("the crs", crs))
    if box is not None:
        made.add_bounds("the bounds", str(box), box)
    return made


@pytest.mark.parametrize("south_first", [False, True])
@pytest.mark.parametrize(("scheme", "expected"), [("xyz", False), ("TMS", True), (" tms ", True), ("", None)])
def test_scheme_decides_and_the_kind_of_source_where_it_is_missing(scheme, expected, south_first):
    layout = decide("s", claims(scheme), list, south_first=south_first)
    assert layout.south_first == (south_first if expected is None else expected)


@given(
    st.tuples(st.floats(-179, 100), st.floats(-80, 60), st.floats(5, 70), st.floats(5, 20)),
    st.booleans(),
    st.integers(4, 12),
)
def test_tiles_that_fit_their_bounds_are_accepted(place, south_first, deepest):
    west, south, width, height = place
    box = (west, south, west + width, south + height)
    extents = [extent(box, z, south_first=south_first) for z in range(deepest - 3, deepest + 1)]
    layout = decide("s", claims("tms" if south_first else "xyz", box), lambda: extents, south_first=not south_first)
    assert layout.south_first == south_first


@given(st.floats(20, 60), st.booleans(), st.booleans(), st.integers(4, 14))
def test_rows_that_fit_only_from_the_other_side_are_refused(south, north_half, south_first, zoom):
    box = (0.0, south, 40.0, south + 15) if north_half else (0.0, -south - 15, 40.0, -south)
    scheme = "tms" if south_first else "xyz"
    mirrored = [extent(box, zoom, south_first=not south_first)]
    with pytest.raises(SourceError, match=r"the scheme says.*the bounds.*correct the scheme or the bounds"):
        decide("s", claims(scheme, box), lambda: mirrored, south_first=south_first)


def test_default_rows_that_contradict_the_bounds_are_refused_too():
    with pytest.raises(SourceError, match=r"from the south \(TMS\), as its format has it.*the bounds"):
        decide("s", claims("", EUROPE), lambda: [extent(EUROPE, 6, south_first=False)], south_first=True)


@pytest.mark.parametrize(
    "box",
    [
        pytest.param((-180.0, -85.06, 180.0, 85.06), id="world"),
        pytest.param((-180.0, -90.0, 180.0, 90.0), id="poles"),
        pytest.param((170.0, -50.0, -170.0, -20.0), id="across the date line"),
        pytest.param((0.0, 0.0, 0.0, 0.0), id="nothing"),
        pytest.param((float("nan"), 0.0, 1.0, 1.0), id="nan"),
        pytest.param((0.0, 10.0, 1.0, -10.0), id="south above north"),
    ],
)
def test_bounds_that_say_nothing_of_rows_do_not_refuse(box):
    tiles = [extent((172.0, -45.0, 178.0, -35.0), z, south_first=True) for z in (3, 6)]
    assert decide("s", claims("tms", box), lambda: tiles, south_first=True).south_first


def test_whole_blocks_of_tiles_around_the_bounds_are_accepted():
    near = extent(EUROPE, 8, south_first=False)
    wider = near._replace(first_row=near.first_row - 2, last_row=near.last_row + 2)
    assert not decide("s", claims("xyz", EUROPE), lambda: [wider], south_first=False).south_first


@pytest.mark.parametrize("box", [(-80.0, 35.0, -60.0, 60.0), (-10.0, -5.0, 30.0, 5.0)])
def test_tiles_that_do_not_touch_the_bounds_are_refused(box):
    with pytest.raises(SourceError, match="lie outside its the bounds"):
        decide("s", claims("xyz", box), lambda: [extent(EUROPE, 8, south_first=False)], south_first=False)


def test_two_readings_of_bounds_both_count():
    made = Claims(schemes=[Claim("x", "tms")])
    made.add_bounds("box", "swapped", (35.0, -10.0, 60.0, 30.0), EUROPE)
    assert decide("s", made, lambda: [extent(EUROPE, 6, south_first=True)], south_first=False).south_first


def test_contradicting_schemes_are_refused_with_both_named():
    made = Claims(schemes=[Claim("tilemapresource.xml", "tms"), Claim("metadata.json: scheme", "xyz")])
    with pytest.raises(SourceError, match=r"tilemapresource\.xml says.*south.*metadata\.json: scheme says.*north"):
        decide("s", made, list, south_first=False)


def test_unknown_scheme_is_refused_with_the_way_out():
    with pytest.raises(SourceError, match=r"the scheme is 'zyx'.*write 'xyz'.*'tms'"):
        decide("s", claims("zyx"), list, south_first=False)


@pytest.mark.parametrize(
    "text",
    [
        "EPSG:3857", "epsg:900913", "EPSG::3785", "urn:ogc:def:crs:EPSG::3857", "urn:ogc:def:crs:EPSG:6.9:3857",
        "http://www.opengis.net/def/crs/EPSG/0/3857", "OSGEO:41001", "3857", "mercator", "global-mercator",
        'PROJCS["WGS 84 / Pseudo-Mercator",GEOGCS["WGS 84",AUTHORITY["EPSG","4326"]],AUTHORITY["EPSG","3857"]]',
        "+proj=merc +a=6378137 +b=6378137 +lat_ts=0 +units=m",
    ],
)  # fmt: skip
def test_spellings_of_web_mercator_are_recognised(text):
    assert is_web_mercator(text)
    decide("s", claims(crs=text), list, south_first=False)


@pytest.mark.parametrize(
    "text",
    [
        "EPSG:4326", "CRS:84", "WGS84", "geodetic", "global-geodetic", "raster", "local", "EPSG:3395", "EPSG:25832",
        "urn:ogc:def:crs:OGC:1.3:CRS84", "4326",
        'GEOGCS["WGS 84",DATUM["WGS_1984",SPHEROID["WGS 84",6378137,298.25,AUTHORITY["EPSG","7030"]]],'
        'AUTHORITY["EPSG","4326"]]',
        "+proj=utm +zone=32 +ellps=GRS80",
    ],
)  # fmt: skip
def test_other_projections_are_refused_with_the_way_out(text):
    with pytest.raises(SourceError, match=r"s is not in Web Mercator: the crs says .*gdal2tiles\.py -p mercator"):
        decide("s", claims(crs=text), list, south_first=False)


@pytest.mark.parametrize(
    ("template", "other"),
    [
        ("https://h/wmts/epsg4326/best/L/{z}/{y}/{x}.jpg", "EPSG:4326"),
        ("https://h/tiles/EPSG%3A25832/{z}/{x}/{y}", "EPSG:25832"),
        ("https://h/?TILEMATRIXSET=EPSG:4326&TILEMATRIX={z}&TILEROW={y}&TILECOL={x}", "EPSG:4326"),
        ("https://h/WorldCRS84Quad/{z}/{y}/{x}", "WorldCRS84Quad"),
        ("https://h/wmts/epsg3857/best/L/{z}/{y}/{x}.jpg", None),
        ("https://h/epsg28992_as_EPSG:3857/{z}/{y}/{x}.jpg", None),
        ("https://h/{z}/{y}/{x}.jpg", None),
    ],
)
def test_url_that_names_another_projection_is_refused(template, other):
    if other is None:
        check_url(template, template)
        return
    with pytest.raises(SourceError, match=f"names {re.escape(other)}, which is not Web Mercator"):
        check_url(template, template)


@pytest.mark.parametrize("edges", [(0, 16, 0, 3), (0, 3, 0, 16), (-1, 3, 0, 3), (0, 3, -2, 3)])
def test_columns_and_rows_beyond_the_grid_are_refused(edges):
    with pytest.raises(SourceError, match=r"of zoom 4, where Web Mercator has 16"):
        check_grid("s", Extent(4, *edges))
    check_grid("s", Extent(4, 0, 15, 0, 15))


def test_edges_of_a_tile_say_how_rows_count():
    box = bounds(Tile(3, 2, 4))
    made = Claims(boxes=[TileBox("2.kml", Tile(3, 2, 4), box)])
    assert not decide("s", made, list, south_first=False).south_first
    with pytest.raises(SourceError, match=r'2\.kml says: write \{"scheme": "xyz"\} into metadata\.json'):
        decide("s", made, list, south_first=True)
    made.boxes[0] = TileBox("2.kml", Tile(3, 2, 4), Bounds(-112.5, 22.5, -90.0, 45.0))
    with pytest.raises(SourceError, match=r"not in Web Mercator: 2\.kml says that tile 4/3/2 reaches from 22\.5 to 45"):
        decide("s", made, list, south_first=False)
