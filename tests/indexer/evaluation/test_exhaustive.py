"""A beam wide enough to keep everything equals the exhaustive search, to the tile and the bit."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from indexer.evaluation.exhaustive import NO_RANK, Exhaustive
from retrieval.errors import QueryError
from retrieval.index.calibration import Calibration, ElsewhereNumbers, Feature, ZoomNumbers
from retrieval.index.reader import TileIndex
from retrieval.locator import Locator
from retrieval.search.options import MAX_K
from retrieval.search.query import LocateQuery
from retrieval.testing.fake import FakeLevel, FakePhotoEncoder, fake_pyramid, write_fake_index
from tile_cache.addressing import code_of_tile

DIM = 4
SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=25, suppress_health_check=list(HealthCheck))


def pyramid(seed: int, zooms: list[int], holes: float, thinning: float) -> list[FakeLevel]:
    """Vectors with components that are multiples of 1/2: many are equal to the bit, so that ties are common."""
    rng = np.random.default_rng(seed)
    levels = fake_pyramid(seed, zooms, DIM, tiles=60, holes=holes, thinning=thinning)
    return [
        FakeLevel(v.zoom, v.codes, v.has_vector, (rng.integers(-2, 3, (len(v.codes), DIM)) / 2).astype(np.float32))
        for v in levels
    ]


def opened(folder: Path, levels: list[FakeLevel], calibration: Calibration, shard_parents: int | None) -> Locator:
    photo = FakePhotoEncoder(DIM)
    write_fake_index(folder, levels, photo=photo, shard_parents=shard_parents)
    return Locator(TileIndex.open(folder), calibration, photo)


@FEW
@given(
    seed=SEEDS,
    zooms=st.sampled_from([[2], [1, 3], [2, 4, 6], [0, 1, 5], [3, 4, 5, 7]]),
    holes=st.sampled_from([0.0, 0.3, 0.7]),
    thinning=st.sampled_from([0.0, 0.4]),
    scoring=st.sampled_from(["posterior", "paper"]),
    b=st.sampled_from([None, 1.5]),
    kappa=st.sampled_from([0.0, 0.4]),
    rho=st.sampled_from([1.0, 0.5]),
    nowhere=st.booleans(),
    shard_parents=st.sampled_from([None, 7]),
)
def test_beam_that_keeps_everything_equals_exhaustive_search(
    seed: int,
    zooms: list[int],
    holes: float,
    thinning: float,
    scoring: str,
    b: float | None,
    kappa: float,
    rho: float,
    nowhere: bool,
    shard_parents: int | None,
) -> None:
    rng = np.random.default_rng(seed)
    numbers = {z: ZoomNumbers(rng.uniform(0.05, 0.6), rng.uniform(0.3, 1.4), b, 0.0, kappa, rho) for z in zooms}
    features = {f"{name}_{zooms[0]}": Feature(0.3, 0.5, 1.5) for name in ("best", "entropy")}
    calibration = Calibration(numbers, elsewhere=ElsewhereNumbers(-0.5, features) if nowhere else None)
    query = LocateQuery(k=MAX_K, scoring=scoring, alternatives=2)
    embedding = (rng.integers(-2, 3, DIM) / 2).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        locator = opened(Path(folder), pyramid(seed, zooms, holes, thinning), calibration, shard_parents)
        try:
            beam = locator.descend(embedding, locator.plan(query))
        except QueryError:
            with pytest.raises(QueryError):
                Exhaustive(locator.index)
            return
        whole = Exhaustive(locator.index)
        everything = whole.descend(embedding, locator.calibration)
        for step, expected in zip(beam.steps, everything.steps, strict=True):
            for name in ("rows", "similarities", "log_mass", "slots", "beam", "expanded"):
                assert np.array_equal(getattr(step, name), getattr(expected, name)), name
        assert beam.elsewhere == everything.elsewhere
        answer = locator.answer_of(beam, locator.plan(query))
        assert answer == locator.answer_of(everything, locator.plan(query))
        if scoring == "paper":
            # The hierarchical-search paper's answer: the most similar leaf, of equal ones the lower row.
            deepest, leaves = answer.levels[-1], everything.steps[-1]
            best = int(np.argmax(leaves.similarities))
            code = int(leaves.level.codes[leaves.rows[best]])
            assert (deepest.tile.z, code_of_tile(deepest.tile)) == (leaves.level.zoom, code)
            assert deepest.similarity == leaves.similarities[best]


@FEW
@given(seed=SEEDS, holes=st.sampled_from([0.0, 0.3]))
def test_ranks_equal_positions_in_a_stable_sort_of_the_zoom(seed: int, holes: float) -> None:
    levels, rng = pyramid(seed, [2, 4], holes, 0.2), np.random.default_rng(seed)
    assume(levels[0].has_vector.any())
    embedding = (rng.integers(-2, 3, DIM) / 2).astype(np.float32)
    truths = np.array([rng.integers(-1, len(level.codes)) for level in levels])
    with tempfile.TemporaryDirectory() as folder:
        index = opened(Path(folder), levels, Calibration(), None).index
        ranks = Exhaustive(index).ranks(embedding, truths)
    for rank, truth, level in zip(ranks, truths, levels, strict=True):
        rows = np.flatnonzero(level.has_vector)
        order = rows[np.argsort(-(level.vectors[rows] @ embedding), kind="stable")].tolist()
        assert rank == (order.index(truth) if truth in order else NO_RANK)


def test_unreachable_tiles_are_ranked_but_never_answers(tmp_path: Path) -> None:
    """The most similar tile lies under a tile without vector: no search finds it, but its rank counts it."""
    above = FakeLevel(
        1, np.arange(4, dtype=np.uint64), np.array([True, False, True, True]), np.eye(4, dtype=np.float32)
    )
    codes, vectors = np.array([0, 4, 8], dtype=np.uint64), np.eye(4, dtype=np.float32)[[1, 0, 2]]
    below = FakeLevel(2, codes, np.ones(3, dtype=bool), vectors)
    locator = opened(tmp_path, [above, below], Calibration(), None)
    whole, embedding = Exhaustive(locator.index), np.array([1, 0.5, 0.2, 0], dtype=np.float32)
    leaves = whole.descend(embedding, Calibration()).steps[-1]
    assert leaves.rows[np.argmax(leaves.similarities)] == 0
    assert whole.ranks(embedding, np.array([0, 1])).tolist() == [0, 0]
    assert locator.locate(embedding[None], LocateQuery(scoring="paper"))[0].levels[-1].tile.x == 0
