"""Units of work: units on disk are whole or made again, and equal pictures are encoded once."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workbench import MemorySource, tile_bytes

from indexer.build.compose import Composer
from indexer.build.decode import TileProblem
from indexer.build.embed import Distinct, embed_zoom
from indexer.build.shards import cut_shards, fill_from_children
from indexer.build.units import Unit, ZoomRows, hash_codes, read_unit, unit_path, write_unit
from indexer.threads import ahead
from retrieval.testing.fake import FakeTileEncoder
from tile_cache.addressing import Tile

CODES = np.arange(40, dtype=np.uint64) + 7


class Counting(FakeTileEncoder):
    """Records the shape of every batch and every picture."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.shapes: list[tuple[int, ...]] = []
        self.seen: list[bytes] = []

    def encode(self, zoom: int, pixels: np.ndarray) -> np.ndarray:
        self.shapes.append(pixels.shape)
        self.seen += [p.tobytes() for p in pixels]
        return super().encode(zoom, pixels)


def embed(directory: Path, source: MemorySource, encoder: FakeTileEncoder, **kwargs: object) -> None:
    composer = Composer(source, None, encoder.input_size, 0.0)
    rows = ZoomRows(4, CODES, directory, directory / "filled", 16)
    options = {"dtype": "<f2", "threads": 3} | kwargs
    embed_zoom(rows, encoder, composer, **options)  # type: ignore[arg-type]


def sample_unit() -> Unit:
    flags = np.array([True, False, True], dtype=np.bool_)
    vectors = np.arange(8, dtype=np.float16).reshape(2, 4)
    return Unit(4, 32, flags, vectors, 2, hash_codes(CODES[:3]), (TileProblem(4, 1, 2, "source", "cut off"),))


def test_unit_survives_a_round_trip(tmp_path: Path) -> None:
    unit, path = sample_unit(), unit_path(tmp_path, 4, 2)
    write_unit(path, unit)
    read = read_unit(path)
    assert read is not None
    assert read.has_imagery.tolist() == [True, False, True]
    np.testing.assert_array_equal(read.vectors, unit.vectors)
    assert read.vectors.dtype == np.float16
    assert (read.zoom, read.first_row, read.encoded, read.codes_hash) == (4, 32, 2, unit.codes_hash)
    assert read.problems == unit.problems


def test_any_damage_makes_a_unit_unreadable(tmp_path: Path) -> None:
    path = unit_path(tmp_path, 4, 0)
    write_unit(path, sample_unit())
    data = path.read_bytes()
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        assert read_unit(path) is None
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert read_unit(path) is None
    path.write_bytes(data + b"\0")
    assert read_unit(path) is None
    path.unlink()
    assert read_unit(path) is None


def test_every_batch_has_one_shape_and_equal_pictures_are_encoded_once(tmp_path: Path) -> None:
    encoder = Counting()
    embed(tmp_path, MemorySource(lambda t: tile_bytes(Tile(t.x % 3, 0, 4))), encoder)
    assert set(encoder.shapes) == {(8, 16, 16, 3)}
    assert len(encoder.shapes) == 3  # one a unit: 3 distinct pictures, padded
    assert len(set(encoder.seen)) == 3
    assert read_unit(unit_path(tmp_path, 4, 0)).encoded == 3  # type: ignore[union-attr]


def test_equal_hashes_of_unequal_pictures_stay_apart() -> None:
    distinct = Distinct()
    black, white = np.zeros((2, 2, 3), dtype=np.uint8), np.full((2, 2, 3), 255, dtype=np.uint8)
    places = [distinct.place(p, b"the same") for p in (black, white, black.copy(), white.copy())]
    assert places == [0, 1, 0, 1]


def test_only_damaged_units_are_made_again(tmp_path: Path) -> None:
    source = MemorySource()
    embed(tmp_path, source, FakeTileEncoder())
    before = [unit_path(tmp_path, 4, n).read_bytes() for n in range(3)]
    unit_path(tmp_path, 4, 1).write_bytes(before[1][:-5])
    source.reads.clear()
    embed(tmp_path, source, FakeTileEncoder())
    assert len(source.reads) == 16
    assert [unit_path(tmp_path, 4, n).read_bytes() for n in range(3)] == before


def test_unit_of_other_rows_is_made_again(tmp_path: Path) -> None:
    write_unit(unit_path(tmp_path, 4, 0), sample_unit())
    embed(tmp_path, MemorySource(), FakeTileEncoder())
    assert read_unit(unit_path(tmp_path, 4, 0)).codes_hash == hash_codes(CODES[:16])  # type: ignore[union-attr]


@pytest.mark.parametrize("threads", [1, 4])
def test_vectors_belong_to_their_rows_for_any_thread_count(tmp_path: Path, threads: int) -> None:
    source, encoder = MemorySource(lambda t: None if t.x % 4 == 1 else tile_bytes(t)), FakeTileEncoder()
    embed(tmp_path, source, encoder, threads=threads, dtype="<f4")
    rows = ZoomRows(4, CODES, tmp_path, tmp_path / "filled", 16)
    flags, vectors = rows.gather(5, 37)
    composer = Composer(source, None, 16, 0.0)
    from tile_cache.addressing import tile_of_code

    pictures = [composer.compose(tile_of_code(int(c), 4)).pixels for c in CODES[5:37]]
    assert flags.tolist() == [p is not None for p in pictures]
    expected = encoder.encode(4, np.stack([p for p in pictures if p is not None]))
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_reading_ahead_is_bounded_and_in_order() -> None:
    from concurrent.futures import ThreadPoolExecutor

    taken: list[int] = []

    def items() -> object:
        for i in range(100):
            taken.append(i)
            yield i

    with ThreadPoolExecutor(4) as pool:
        results = ahead(pool, lambda i: i * 2, items(), window=10)  # type: ignore[arg-type]
        assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
        assert len(taken) <= 15
        assert list(results) == [2 * i for i in range(5, 100)]


@settings(max_examples=80, deadline=None)
@given(st.sets(st.integers(0, 63)), st.sets(st.integers(0, 1023), max_size=200), st.integers(1, 60))
def test_shards_end_where_parents_end_and_hold_everything_once(some: set[int], children: set[int], limit: int) -> None:
    codes = np.array(sorted(children), dtype=np.uint64)
    parents = np.array(sorted(some | {c >> 4 for c in children} | {0}), dtype=np.uint64)
    row = parent = 0
    for cut in cut_shards(codes, parents, 2, limit):
        assert (cut.first_row, cut.first_parent) == (row, parent)
        assert cut.parents >= 1
        assert cut.rows <= limit or cut.parents == 1
        assert cut.parents <= limit
        inside = parents[cut.first_parent : cut.first_parent + cut.parents]
        mine = codes[cut.first_row : cut.first_row + cut.rows] >> np.uint64(4)
        assert np.isin(mine, inside).all()
        row, parent = row + cut.rows, parent + cut.parents
    assert (row, parent) == (len(codes), len(parents))


def test_rows_without_imagery_get_the_normalised_mean_of_their_children(tmp_path: Path) -> None:
    units, filled = tmp_path / "units", tmp_path / "filled"
    deep, shallow = np.array([16, 17, 40, 64], dtype=np.uint64), np.array([1, 2, 3, 4, 9], dtype=np.uint64)
    vectors = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
    write_unit(unit_path(units, 4, 0), Unit(4, 0, np.array([1, 1, 0, 1], dtype=np.bool_), vectors, 3, hash_codes(deep)))
    own = np.array([[0, 0, 1]], dtype=np.float32)
    write_unit(
        unit_path(units, 2, 0), Unit(2, 0, np.array([0, 0, 0, 1, 0], dtype=np.bool_), own, 1, hash_codes(shallow))
    )
    rows, below = ZoomRows(2, shallow, units, filled, 8), ZoomRows(4, deep, units, filled, 8)
    assert fill_from_children(rows, below, "<f4") == 1
    flags, filled_vectors = rows.gather(0, 5)
    assert flags.tolist() == [True, False, False, True, False]
    np.testing.assert_allclose(filled_vectors, [[0.5**0.5, 0.5**0.5, 0], [0, 0, 1]], atol=1e-6)
    assert rows.original(0).has_imagery.tolist() == [False, False, False, True, False]
