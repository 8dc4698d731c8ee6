"""Pictures that stand at many places are counted, in bounded memory; those of one colour are left alone."""

import io

import numpy as np
import pytest
from loopback import image, tile_image
from PIL import Image

from tile_cache.addressing import Tile
from tile_cache.errors import SourceError
from tile_cache.images import is_uniform
from tile_cache.repeats import Repeats, absent_images, picture_hash

PLACEHOLDER = image(99)


def counted(answers: dict[Tile, bytes]) -> Repeats:
    repeats = Repeats()
    for tile, data in answers.items():
        repeats.add(picture_hash(data), tile)
    return repeats


def jpeg(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=60)
    return out.getvalue()


def test_picture_at_many_tiles_is_found_with_its_count_hash_and_an_example():
    answers = {
        Tile(x, y, 3): PLACEHOLDER if (x + y) % 2 else tile_image(Tile(x, y, 3)) for x in range(8) for y in range(8)
    }
    (found,) = counted(answers).often(answers.get)
    assert (found.sha256, found.count, found.tiles) == (picture_hash(PLACEHOLDER), 32, 64)
    assert answers[found.example] == PLACEHOLDER
    assert found.to_json()["example"] == f"3/{found.example.x}/{found.example.y}"


def test_open_sea_and_rare_repetitions_are_left_alone():
    sea = jpeg(np.full((64, 64, 3), (10, 20, 60), dtype=np.uint8))
    answers = {Tile(x, y, 4): sea for x in range(16) for y in range(16)}
    assert is_uniform(sea)
    assert counted(answers).often(answers.get) == ()
    twins = {Tile(0, 0, 5): image(1), Tile(1, 0, 5): image(1)}
    assert counted(twins).often(twins.get) == ()


def test_named_picture_is_always_reported():
    sea = jpeg(np.full((64, 64, 3), 200, dtype=np.uint8))
    answers = {Tile(0, 0, 3): sea}
    (found,) = counted(answers).often(answers.get, named=frozenset([picture_hash(sea)]))
    assert found.count == 1


def test_memory_is_bounded_and_a_frequent_picture_is_still_found():
    repeats = Repeats()
    for n in range(20_000):
        repeats.add(picture_hash(PLACEHOLDER) if n % 3 == 0 else f"{n:064}", Tile(n % 1024, 0, 10))
    assert len(repeats._counts) <= 4096
    (found,) = repeats.often(lambda tile: PLACEHOLDER)
    assert 6_667 - 20_000 // 4096 - 1 <= found.count <= 6_667


def test_absent_images_are_files_or_hashes(tmp_path):
    file = tmp_path / "nodata.png"
    file.write_bytes(PLACEHOLDER)
    sha256 = picture_hash(PLACEHOLDER)
    assert absent_images([str(file), sha256.upper()]) == {sha256}
    for wrong in ("nowhere.png", sha256[:-1], "", str(tmp_path)):
        with pytest.raises(SourceError, match="neither a file that can be read nor a SHA-256"):
            absent_images([wrong])


@pytest.mark.parametrize(
    ("pixels", "uniform"),
    [
        (np.full((32, 32, 3), 7), True),
        (np.full((32, 32, 4), 0), True),
        (np.arange(32 * 32 * 3).reshape(32, 32, 3) % 250, False),
    ],
)
def test_one_colour_is_uniform(pixels, uniform):
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(out, "PNG")
    assert is_uniform(out.getvalue()) is uniform
    assert not is_uniform(b"no image")
