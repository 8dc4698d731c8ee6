"""The built-in Earth and tile sources as references."""

import io

import numpy as np
import pytest
from PIL import Image

from retrieval.registration.geometry import Frame, pixel_centres
from retrieval.registration.reference import BuiltinEarth
from retrieval.registration.tiles import TileReference
from tile_cache.addressing import Tile
from tile_cache.bluemarble import BlueMarble

EARTH = BuiltinEarth(("bmng",))


@pytest.mark.parametrize(("lng", "lat", "edge"), [(12, 42, 800), (180, -17, 900), (-100, 60, 2000), (30, 0, 150)])
def test_tiles_show_what_the_whole_earth_product_shows(lng: float, lat: float, edge: float) -> None:
    source = BlueMarble()
    tiles = TileReference(source.read, source.info.identity, range(9))
    places = Frame.upright(lng, lat, edge).ground(*pixel_centres(64))
    [(from_tiles, weight)] = tiles.layers(*places, edge / 64)
    from_product = EARTH.layers(*places, edge / 64)[0][0]
    assert weight == 1.0
    assert np.corrcoef(from_tiles.ravel(), from_product.ravel())[0, 1] > 0.97


def test_missing_damaged_and_polar_tiles_are_flat() -> None:
    flat = io.BytesIO()
    Image.new("RGB", (256, 256), (10, 20, 30)).save(flat, "PNG")
    data = {Tile(0, 0, 1): flat.getvalue(), Tile(1, 0, 1): b"no picture"}
    reference = TileReference(data.get, "x", [1])
    lng, lat = np.array([[-90.0, 90.0, 90.0, -90.0]]), np.array([[45.0, 45.0, -45.0, 89.0]])
    [(values, _)] = reference.layers(lng, lat, 100.0)
    assert values[:, 0].T.tolist() == [[10, 20, 30], [128, 128, 128], [128, 128, 128], [128, 128, 128]]


def test_drawing_reads_a_bounded_number_of_tiles() -> None:
    reads: list[Tile] = []
    reference = TileReference(lambda tile: reads.append(tile), "x", range(13), max_bytes=1)  # type: ignore[func-returns-value]
    reference.layers(*Frame.upright(0, 75, 10_000).ground(*pixel_centres(128)), 1.0)
    assert 0 < len(reads) <= 64


def test_source_without_zooms_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one zoom"):
        TileReference(lambda tile: None, "x", [])


def test_earth_has_a_layer_for_each_product_and_land() -> None:
    layers = BuiltinEarth(("bmng", "etopo1")).layers(np.array([[10.0, -30.0]]), np.array([[50.0, 0.0]]), 50.0)
    assert [(c.shape, w) for c, w in layers] == [((3, 1, 2), 1.0), ((3, 1, 2), 1.0), ((1, 1, 2), 0.7)]
    assert layers[-1][0].tolist() == [[[255.0, 0.0]]]
