"""Tiles as a tower takes them: the pictures of the index build, in order, without tiles that have no imagery."""

import numpy as np
import pytest
import torch
from workbench import MemorySource, encoded, picture, seed_of

from indexer.build.compose import Composer
from indexer.training.tiles import LocalSources, TilePixels
from retrieval.encoders.preprocess import Preprocess
from tile_cache.addressing import Tile, code_of_tile, tile_of_code
from tile_cache.repeats import picture_hash

ZOOM = 5
PREPROCESS = Preprocess(24, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28))
SEA, BROKEN, CUT, CLEAR = (Tile(x, 9, ZOOM) for x in (3, 4, 5, 6))


def answer(tile: Tile) -> bytes | None:
    if tile == SEA:
        return None
    if tile == BROKEN:
        return b"<html>quota exceeded</html>"
    if tile == CLEAR:
        return encoded(picture(1, "RGBA").point(lambda value: 0))
    whole = encoded(picture(seed_of(tile)))
    return whole[: len(whole) // 2] if tile == CUT else whole


def overlay(tile: Tile) -> bytes | None:
    return encoded(picture(seed_of(tile) + 1, "RGBA")) if tile.x % 2 else None


def codes_of(*tiles: Tile) -> np.ndarray:
    return np.array([code_of_tile(tile) for tile in tiles], dtype=np.uint64)


@pytest.mark.parametrize("context", [0.0, 0.5])
@pytest.mark.parametrize("layer", [None, MemorySource(overlay)])
@pytest.mark.parametrize("floor", [None, 0.1])
def test_pictures_equal_those_of_a_build(context: float, layer: MemorySource | None, floor: float | None) -> None:
    preprocess = Preprocess(24, PREPROCESS.mean, PREPROCESS.std, contrast_floor=floor)
    codes = codes_of(*(Tile(x, y, ZOOM) for x in (31, 0, 7) for y in (0, 8, 31)))
    pictures, present = TilePixels(LocalSources(MemorySource(answer), layer), preprocess, context, ZOOM).read(codes)
    composer = Composer(MemorySource(answer), layer, 24, context)
    composed = [composer.compose(tile_of_code(int(code), ZOOM)).pixels for code in codes]
    expected = preprocess.pixels(np.stack([p for p in composed if p is not None]))
    assert present.all()
    assert pictures.dtype == torch.float32
    np.testing.assert_array_equal(pictures.numpy(), expected)


@pytest.mark.parametrize("context", [0.0, 0.5])
def test_tiles_without_imagery_are_left_out_with_a_reason(context: float) -> None:
    tiles = TilePixels(
        LocalSources(MemorySource(answer), MemorySource(lambda tile: b"no image")), PREPROCESS, context, ZOOM
    )
    good = Tile(20, 9, ZOOM), Tile(21, 9, ZOOM)
    codes = codes_of(SEA, good[1], BROKEN, CUT, good[0], CLEAR)
    pictures, present = tiles.read(codes)
    assert present.tolist() == [False, True, False, False, True, False]
    alone, _ = TilePixels(LocalSources(MemorySource(answer), None), PREPROCESS, context, ZOOM).read(
        codes_of(good[1], good[0])
    )
    assert torch.equal(pictures, alone), "in the order of the codes; a broken overlay is ignored"
    reasons = [tiles.reasons.get(int(code)) for code in codes]
    assert reasons[0] == reasons[5] == "no imagery"
    assert reasons[1] is reasons[4] is None
    assert reasons[2] != "no imagery"
    assert reasons[3] != "no imagery"
    assert "html" in str(reasons[2]).lower()


def test_has_imagery_agrees_with_read() -> None:
    codes = codes_of(*(Tile(x, y, ZOOM) for x in range(8) for y in (8, 9)))
    probed, read = (TilePixels(LocalSources(MemorySource(answer), None), PREPROCESS, 0.25, ZOOM) for _ in range(2))
    np.testing.assert_array_equal(probed.has_imagery(codes), read.read(codes)[1])
    assert probed.reasons == read.reasons
    assert len(probed.reasons) == 4


@pytest.mark.parametrize("context", [0.0, 0.5])
def test_pictures_named_as_absent_are_no_imagery(context: float) -> None:
    """As in a build with --absent-image: a server's "no data here" picture teaches nothing."""
    tile, other = Tile(20, 9, ZOOM), Tile(21, 9, ZOOM)
    absent = frozenset({picture_hash(answer(tile) or b"")})
    tiles = TilePixels(LocalSources(MemorySource(answer), None, absent), PREPROCESS, context, ZOOM)
    codes = codes_of(tile, other)
    assert tiles.has_imagery(codes).tolist() == tiles.read(codes)[1].tolist() == [False, True]


def test_no_pictures_still_have_the_shape_of_pictures() -> None:
    tiles = TilePixels(LocalSources(MemorySource(answer), None), PREPROCESS, 0.0, ZOOM)
    for codes in (codes_of(SEA), codes_of()):
        pictures, present = tiles.read(codes)
        assert pictures.shape == (0, 3, 24, 24)
        assert not present.any()
        assert len(present) == len(tiles.has_imagery(codes)) == len(codes)


def test_source_error_is_not_taken_for_missing_imagery() -> None:
    def broken(tile: Tile) -> bytes:
        raise OSError("the store is gone")

    tiles = TilePixels(LocalSources(MemorySource(broken), None), PREPROCESS, 0.0, ZOOM)
    for method in (tiles.read, tiles.has_imagery):
        with pytest.raises(OSError, match="gone"):
            method(codes_of(SEA))
