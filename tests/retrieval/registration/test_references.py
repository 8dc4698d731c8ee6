"""The built-in Earth and tile sources as references."""

import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.registration.geometry import Frame, pixel_centres
from retrieval.registration.reference import BuiltinEarth
from retrieval.registration.tiles import TileReference
from tile_cache.addressing import Tile
from tile_cache.bluemarble import BlueMarble, load_product, product_image

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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process is read from /proc")
def test_earth_is_read_within_400_mb() -> None:
    code = (
        "from retrieval.registration.reference import BuiltinEarth; BuiltinEarth().load();"
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 400_000_000  # it was 1.1 GB


def test_threads_read_the_earth_once() -> None:
    earth = BuiltinEarth(("etopo1",))
    with ThreadPoolExecutor(4) as pool:
        levels = list(pool.map(lambda _: earth._loaded(), range(4)))
    assert all(level is levels[0] for level in levels)


@pytest.mark.parametrize("product", ["bmng", "shadedrelief"])
def test_reduced_product_shows_what_the_whole_one_shows(product: str) -> None:
    whole = load_product(product)
    factor = whole.shape[0] // 2700
    averaged = whole[1000 * factor : 1200 * factor].reshape(200, factor, 5400, factor, 3).mean(axis=(1, 3))
    reduced = np.asarray(product_image(product, (5400, 2700)).crop((0, 1000, 5400, 1200)))
    assert np.abs(reduced - averaged).mean() < 1.5
