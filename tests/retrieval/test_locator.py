"""The locator: the answer's JSON, invalid queries, mismatched encoders, and many threads."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from retrieval.errors import EncoderError, EncoderMismatchError, QueryError
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.locator import BBox, LocateQuery, Locator
from retrieval.pipeline import locate_picture
from retrieval.testing.fake import FakePhotoEncoder, FakeTileEncoder, fake_pyramid, write_fake_index
from tile_cache.addressing import bounds_of_codes, quadkey, tile_at


def test_answer_json_follows_the_contract(small):
    directory, levels, photo = small
    locator = Locator.open(directory, encoder=photo)
    query = LocateQuery(k=8, alternatives=2, trace=True)
    answer = json.loads(json.dumps(locator.locate(levels[2].vectors[[5]], query)[0].to_json(), allow_nan=False))
    wanted = "lat lon confidence calibrated radius_km zoom levels alternatives trace elsewhere index attribution"
    assert set(answer) == {"outcome", *wanted.split()}
    assert set(answer["radius_km"]) == {"50", "90"}
    level_keys = "zoom tile quadkey lat lon bounds confidence similarity"
    assert set(answer["levels"][0]) == set(level_keys.split())
    assert answer["confidence"] == answer["levels"][-1]["confidence"]
    assert answer["zoom"] == answer["levels"][-1]["zoom"]
    assert answer["index"] == {
        "id": locator.describe()["id"],
        "calibration_id": None,
        "zooms": [4, 6, 8],
        "pictures": None,
    }
    kept = [len(level["kept"]) for level in answer["trace"]]
    assert kept[0] == 8
    assert len(kept) == 3
    assert min(kept) > 0
    assert set(answer["trace"][0]["kept"][0]) == {"tile", "confidence", "similarity"}
    assert "trace" not in locator.locate(levels[2].vectors[[5]], LocateQuery())[0].to_json()


@pytest.mark.parametrize("tau", [0.02, 0.3, 3.0])
@pytest.mark.parametrize("scoring", ["posterior", "paper"])
def test_levels_are_nested_tiles_that_contain_the_point(small, tau, scoring):
    directory, levels, photo = small
    index = Locator.open(directory, encoder=photo).index
    locator = Locator(index, Calibration({z: ZoomNumbers(tau, b=0.1) for z in (4, 6, 8)}), photo)
    for answer in locator.locate(levels[2].vectors[:40], LocateQuery(k=16, alternatives=4, scoring=scoring)):
        tiles = [level.tile for level in answer.levels]
        assert tiles == [tile_at(answer.lng, answer.lat, z) for z in (4, 6, 8)[: len(tiles)]]
        confidences = [level.confidence for level in answer.levels]
        assert confidences == sorted(confidences, reverse=True)
        assert answer.levels[0].confidence + answer.elsewhere <= 1 + 1e-12
        assert answer.to_json()["levels"][-1]["quadkey"] == quadkey(tiles[-1])
        others = [(a.tile, a.tile == tile_at(a.lng, a.lat, a.tile.z)) for a in answer.alternatives]
        assert all(right for _, right in others)
        assert len({tiles[-1], *(tile for tile, _ in others)}) == 1 + len(others)


@pytest.mark.parametrize("k", [0, -1, 1025, 2.0, True, "64", None])
def test_invalid_k_raises(k):
    with pytest.raises(QueryError, match=r"k is .*from 1 to 1024"):
        LocateQuery(k=k)


@pytest.mark.parametrize("alternatives", [-1, 21])
def test_invalid_alternatives_raise(alternatives):
    with pytest.raises(ValueError, match="alternatives"):
        LocateQuery(alternatives=alternatives)


def test_unknown_scoring_raises():
    with pytest.raises(QueryError, match="'best'"):
        LocateQuery(scoring="best")


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0, 10, 1, 5), "south 10 is greater"),
        ((float("nan"), 0, 1, 1), "west is nan"),
        ((0, 0, float("inf"), 1), "east is inf"),
        ((-181, 0, 1, 1), "west is -181"),
        ((0, -91, 1, 1), "south is -91"),
        ((50, 20, 60, 20), "no height"),
        ((50, 20, 50, 30), "no width"),
        ((180, 20, -180, 30), "no width"),
        ((0, 90, 1, 90), "no height"),
        ((0, 86, 1, 89), "covers no tile"),
        ((0, -90, 1, -86), "covers no tile"),
    ],
)
def test_invalid_bbox_names_the_edge(box, words):
    with pytest.raises(QueryError, match=words):
        BBox(*box)


def test_bbox_without_tiles_raises(tmp_path):
    levels = fake_pyramid(7, (4,), 32, tiles=100)
    write_fake_index(tmp_path, levels)
    locator = Locator.open(tmp_path, encoder=FakePhotoEncoder(32))
    absent = np.setdiff1d(np.arange(4**4, dtype=np.uint64), levels[0].codes)[:1]
    west, south, east, north = (float(edge[0]) for edge in bounds_of_codes(absent, 4))
    with pytest.raises(QueryError, match="covers no indexed tile"):
        locator.locate(levels[0].vectors[:1], LocateQuery(bbox=BBox(west + 1, south + 1, east - 1, north - 1)))


@pytest.mark.parametrize("embedding", [np.zeros(32), np.zeros((1, 31))])
def test_invalid_embeddings_raise(small, embedding):
    directory, _, photo = small
    with pytest.raises(QueryError):
        Locator.open(directory, encoder=photo).locate(embedding, LocateQuery())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_embedding_that_is_not_finite_is_the_encoders_fault(small, value):
    directory, _, photo = small
    with pytest.raises(EncoderError, match="not finite"):
        Locator.open(directory, encoder=photo).locate(np.full((1, 32), value), LocateQuery())


def test_k_larger_than_the_index_keeps_all_tiles(small):
    directory, levels, photo = small
    locator = Locator.open(directory, encoder=photo)
    descent = locator.descend(levels[2].vectors[5], locator.plan(LocateQuery(k=1024)))
    assert len(descent.steps[0].beam) == int(levels[0].has_vector.sum())


def test_mismatched_encoder_is_named(small):
    directory, _, photo = small
    with pytest.raises(EncoderMismatchError, match=f"{photo.fingerprint[:12]}.*not fake"):
        Locator.open(directory, encoder=FakePhotoEncoder(32, seed=1))
    other = FakePhotoEncoder(32)
    other.dim = 16
    with pytest.raises(EncoderMismatchError, match="dimension 16"):
        Locator.open(directory, encoder=other)


def test_answers_from_sixteen_threads_equal_those_of_one(tmp_path):
    levels = fake_pyramid(2, [4, 6, 8, 10], 64, tiles=1500, holes=0.2, thinning=0.2)
    photo = FakePhotoEncoder(64)
    write_fake_index(tmp_path, levels, photo=photo, shard_parents=400)
    locator = Locator.open(tmp_path, encoder=photo)
    jobs = [(levels[3].vectors[i], LocateQuery(k=1 + (37 * i) % 200)) for i in range(160)]

    def answer(job):
        return locator.locate(job[0][None], job[1])[0]

    alone = [answer(job) for job in jobs]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(answer, jobs)) == alone


def test_batch_equals_single_answers(small):
    directory, levels, photo = small
    locator = Locator.open(directory, encoder=photo)
    batch = locator.locate(levels[2].vectors[:7], LocateQuery(alternatives=1))
    assert batch == [locator.locate(v[None], LocateQuery(alternatives=1))[0] for v in levels[2].vectors[:7]]
    assert locator.locate(levels[2].vectors[:0], LocateQuery()) == []


def test_description_hides_the_encoder_path(small):
    directory, _, photo = small
    description = Locator.open(directory, encoder=photo).describe()
    assert description["zooms"][2]["rows"] == 300
    assert description["coverage"]["geometry"]["type"] == "Polygon"
    assert "spec" not in json.dumps(description)


def test_fakes_locate_a_picture_in_its_own_tile(tmp_path):
    """Tiles of noise, and a picture that equals one of them."""
    rng = np.random.default_rng(3)
    levels, photo, maps = fake_pyramid(1, [3], 48, tiles=64, holes=0), FakePhotoEncoder(48), FakeTileEncoder(48)
    pixels = rng.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    levels[0].vectors[:] = maps.encode(3, pixels)
    write_fake_index(tmp_path, levels, photo=photo)
    locator = Locator.open(tmp_path, encoder=photo)
    picture = Image.fromarray(pixels[21]).resize((64, 64), Image.Resampling.NEAREST)
    answer = locator.locate(locator.encoder.encode(locator.encoder.prepare(picture)[None]), LocateQuery())[0]
    assert answer.levels[0].similarity > 0.999
    assert quadkey(answer.levels[0].tile) == np.base_repr(21, 4).zfill(3)


def test_a_directory_may_be_text_and_a_path_is_not_a_picture(small):
    directory, _, photo = small
    locator = Locator.open(str(directory), encoder=photo)
    for not_bytes in (directory / "photo.jpg", "photo.jpg", None):
        with pytest.raises(TypeError, match=r"the bytes of a file, not .*read_bytes\(\)"):
            locate_picture(locator, not_bytes)
