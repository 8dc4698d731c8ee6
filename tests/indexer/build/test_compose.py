"""Composed pictures: margins, overlays, and tiles that are missing or broken."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from workbench import MemorySource, encoded, picture, seed_of, tile_bytes

from indexer.build.area import reach_of
from indexer.build.compose import Composer, Frame
from tile_cache.addressing import Tile


def pixels_of(tile: Tile) -> np.ndarray:
    return np.asarray(picture(seed_of(tile)))


def test_without_margin_the_picture_is_the_tile() -> None:
    composed = Composer(MemorySource(), None, 16, 0.0).compose(Tile(3, 2, 3))
    assert composed.pixels is not None
    np.testing.assert_array_equal(composed.pixels, pixels_of(Tile(3, 2, 3)))


@given(st.integers(8, 400), st.floats(0, 2.5))
def test_frame_has_the_requested_margin(size: int, context: float) -> None:
    frame = Frame.of(size, context)
    side = frame.tile + 2 * frame.margin
    assert frame.tile * (1 + 2 * context) >= size - 1e-6
    assert abs(side - size) <= 2 * (1 + 2 * context) + 2
    assert frame.reach <= reach_of(context)


@pytest.mark.parametrize("x", [0, 3, 7])
def test_margin_comes_from_the_neighbours_and_wraps_at_the_date_line(x: int) -> None:
    composed = Composer(MemorySource(), None, 48, 1.0).compose(Tile(x, 4, 3))
    rows = [
        np.concatenate([pixels_of(Tile((x + dx) % 8, 4 + dy, 3)) for dx in (-1, 0, 1)], axis=1) for dy in (-1, 0, 1)
    ]
    np.testing.assert_array_equal(composed.pixels, np.concatenate(rows))


@pytest.mark.parametrize("y", [0, 7])
def test_edge_is_repeated_beyond_a_pole(y: int) -> None:
    pixels = Composer(MemorySource(), None, 48, 1.0).compose(Tile(3, y, 3)).pixels
    assert pixels is not None
    beyond = pixels[:16, 16:32] if y == 0 else pixels[32:, 16:32]
    edge = pixels_of(Tile(3, y, 3))[0 if y == 0 else -1]
    np.testing.assert_array_equal(beyond, np.broadcast_to(edge, (16, 16, 3)))


def test_half_tile_margin_is_cut_from_the_neighbours() -> None:
    pixels = Composer(MemorySource(), None, 32, 0.5).compose(Tile(3, 3, 3)).pixels
    assert pixels is not None
    np.testing.assert_array_equal(pixels[8:24, :8], pixels_of(Tile(2, 3, 3))[:, 8:])
    np.testing.assert_array_equal(pixels[24:, 24:], pixels_of(Tile(4, 4, 3))[:8, :8])


def test_edge_is_repeated_for_a_missing_neighbour() -> None:
    source = MemorySource(lambda t: None if t.x == 2 else tile_bytes(t))
    pixels = Composer(source, None, 48, 1.0).compose(Tile(3, 3, 3)).pixels
    assert pixels is not None
    own = pixels_of(Tile(3, 3, 3))
    np.testing.assert_array_equal(pixels[16:32, :16], np.repeat(own[:, :1], 16, axis=1))
    np.testing.assert_array_equal(pixels[:16, 16:32], pixels_of(Tile(3, 2, 3)))


def test_tile_without_imagery_has_no_picture_despite_its_neighbours() -> None:
    source = MemorySource(lambda t: None if t == Tile(3, 3, 3) else tile_bytes(t))
    assert Composer(source, None, 48, 1.0).compose(Tile(3, 3, 3)).pixels is None


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<html>no</html>", "HTML"),
        (tile_bytes(Tile(0, 0, 0))[:60], "does not decode"),
        (encoded(picture(1, size=256), "JPEG")[:-900], "does not decode"),
        (encoded(Image.new("L", (5000, 3))), "over 4096"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "does not decode"),
    ],
)
def test_broken_bytes_are_reported_and_treated_as_missing(data: bytes, words: str) -> None:
    source = MemorySource(lambda t: data if t.x == 2 else tile_bytes(t))
    alone = Composer(source, None, 16, 0.0).compose(Tile(2, 3, 3))
    assert alone.pixels is None
    assert words in alone.problems[0].reason
    beside = Composer(source, None, 48, 1.0).compose(Tile(3, 3, 3))
    assert beside.pixels is not None
    assert {(p.x, p.layer) for p in beside.problems} == {(2, "source")}
    assert len(beside.problems) == 3


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "RGBA", "I;16"])
def test_every_kind_of_picture_becomes_rgb(mode: str) -> None:
    kind = "JPEG" if mode == "CMYK" else "PNG"
    if mode == "I;16":
        image = Image.fromarray(np.full((16, 16), 0x8040, dtype=np.uint16))
    else:
        image = Image.new("RGB", (16, 16), (200, 200, 200)).convert(mode)
    pixels = Composer(MemorySource(lambda t: encoded(image, kind)), None, 16, 0.0).compose(Tile(0, 0, 1)).pixels
    assert pixels is not None
    assert pixels.shape == (16, 16, 3)
    expected = {"I;16": 0x80, "1": 200}.get(mode, 200)
    assert abs(float(pixels.mean()) - expected) < 6


def test_transparent_tile_has_no_imagery_and_half_transparent_is_composited_on_black() -> None:
    clear = encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 0)))
    assert Composer(MemorySource(lambda t: clear), None, 16, 0.0).compose(Tile(0, 0, 1)).pixels is None
    half = encoded(Image.new("RGBA", (16, 16), (200, 100, 0, 128)))
    pixels = Composer(MemorySource(lambda t: half), None, 16, 0.0).compose(Tile(0, 0, 1)).pixels
    assert pixels is not None
    assert np.abs(pixels[0, 0].astype(int) - [100, 50, 0]).max() <= 1


def sliver(tile: Tile, columns: int, side: int = 64) -> bytes:
    """A tile of which only the first columns are opaque."""
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    image.paste((200, 100, 0, 255), (0, 0, columns, side))
    return encoded(image)


@pytest.mark.parametrize("columns", [1, 32, 63])
def test_transparent_part_of_a_neighbour_repeats_the_tiles_edge(columns: int) -> None:
    own = encoded(Image.new("RGB", (64, 64), (90, 150, 210)))
    source = MemorySource(lambda t: sliver(t, columns) if t.x == 4 else own)
    pixels = Composer(source, None, 192, 1.0).compose(Tile(3, 3, 3)).pixels
    assert pixels is not None
    assert (pixels[:, 128 + columns :] == (90, 150, 210)).all()
    assert (pixels[:, 128 : 128 + columns] == (200, 100, 0)).all()
    assert (pixels[:, :128] == (90, 150, 210)).all()


def test_half_transparent_neighbour_counts_by_half() -> None:
    half = encoded(Image.new("RGBA", (16, 16), (200, 100, 0, 128)))
    own = encoded(Image.new("RGB", (16, 16), (100, 200, 50)))
    source = MemorySource(lambda t: half if t.x == 4 else own)
    pixels = Composer(source, None, 48, 1.0).compose(Tile(3, 3, 3)).pixels
    assert pixels is not None
    assert np.abs(pixels[20, 40].astype(int) - [150, 150, 25]).max() <= 1


@given(st.integers(0, 255), st.integers(1, 64))
def test_no_transparency_darkens_a_margin_of_one_colour(alpha: int, columns: int) -> None:
    """Where the neighbour has the tile's colour, its transparency must not be seen but for the ringing of an edge."""
    image = Image.new("RGBA", (64, 64), (90, 150, 210, alpha))
    image.paste((90, 150, 210, 255), (0, 0, columns, 64))
    own = encoded(Image.new("RGB", (64, 64), (90, 150, 210)))
    source = MemorySource(lambda t: encoded(image) if t.x == 4 else own)
    pixels = Composer(source, None, 72, 1.0).compose(Tile(3, 3, 3)).pixels
    assert pixels is not None
    assert np.abs(pixels.astype(int) - [90, 150, 210]).max() <= 16


def test_overlay_is_composited_where_it_exists() -> None:
    label = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    label.paste((255, 0, 0, 255), (0, 0, 8, 16))
    overlay = MemorySource(lambda t: encoded(label) if t.x == 0 else None)
    composer = Composer(MemorySource(), overlay, 16, 0.0)
    pixels = composer.compose(Tile(0, 0, 1)).pixels
    assert pixels is not None
    assert (pixels[:, :8] == (255, 0, 0)).all()
    np.testing.assert_array_equal(pixels[:, 8:], pixels_of(Tile(0, 0, 1))[:, 8:])
    np.testing.assert_array_equal(composer.compose(Tile(1, 0, 1)).pixels, pixels_of(Tile(1, 0, 1)))


def test_broken_overlay_is_reported_and_the_tile_is_used() -> None:
    composed = Composer(MemorySource(), MemorySource(lambda t: b"rubbish"), 16, 0.0).compose(Tile(0, 0, 1))
    assert composed.pixels is not None
    assert composed.problems[0].layer == "overlay"


def test_overlays_of_another_size_keep_their_colour_at_transparent_edges() -> None:
    label = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    label.paste((255, 255, 255, 255), (0, 0, 31, 64))
    white = MemorySource(lambda t: encoded(Image.new("RGB", (16, 16), (255, 255, 255))))
    pixels = Composer(white, MemorySource(lambda t: encoded(label)), 16, 0.0).compose(Tile(0, 0, 1)).pixels
    assert pixels is not None
    assert pixels.min() >= 254


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    source = MemorySource(lambda t: encoded(Image.fromarray(stripes)))
    pixels = Composer(source, None, 48, 1.0).compose(Tile(3, 3, 3)).pixels
    assert pixels is not None
    assert abs(pixels.astype(int) - 127).max() < 25


def test_raster_source_renders_at_the_requested_size() -> None:
    class Raster(MemorySource):
        sizes: set[int] = set()  # noqa: RUF012

        def render(self, tile: Tile, size: int) -> np.ndarray:
            self.sizes.add(size)
            return np.full((size, size, 3), tile.x, dtype=np.uint8)

    source = Raster()
    pixels = Composer(source, None, 72, 1.0).compose(Tile(3, 3, 3)).pixels
    assert source.sizes == {24}
    assert not source.reads
    assert pixels is not None
    assert pixels[0, :, 0].tolist() == [2] * 24 + [3] * 24 + [4] * 24


def test_tile_is_decoded_once_for_many_threads() -> None:
    source = MemorySource()
    lock = threading.Lock()

    def slowly(tile: Tile) -> bytes:
        with lock:
            return tile_bytes(tile)

    source.answer = slowly
    composer = Composer(source, None, 48, 1.0)
    tiles = [Tile(x, y, 3) for y in range(8) for x in range(8)]
    with ThreadPoolExecutor(8) as pool:
        pictures = list(pool.map(composer.compose, tiles))
    assert len(source.reads) == len(set(source.reads)) == 64
    one_by_one = [Composer(MemorySource(), None, 48, 1.0).compose(t) for t in tiles]
    for a, b in zip(pictures, one_by_one, strict=True):
        np.testing.assert_array_equal(a.pixels, b.pixels)


def test_errors_of_the_source_pass_through() -> None:
    def lost(tile: Tile) -> bytes:
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        Composer(MemorySource(lost), None, 48, 1.0).compose(Tile(0, 0, 3))


@pytest.mark.parametrize("context", [-0.1, float("nan"), float("inf")])
def test_invalid_margins_are_refused(context: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        Frame.of(72, context)
