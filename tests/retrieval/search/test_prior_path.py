"""A prior in the beam search: it counts once along a path, for any beam width, and none of its mass is lost."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from indexer.evaluation.exhaustive import Exhaustive
from retrieval.errors import QueryError
from retrieval.index.calibration import Calibration, ElsewhereNumbers, Feature, ZoomNumbers
from retrieval.index.reader import TileIndex
from retrieval.priors.grid import GridBelief
from retrieval.search.beam import Descent, descend
from retrieval.search.plan import SearchPlan
from retrieval.testing.fake import FakeLevel, fake_pyramid, write_fake_index
from tile_cache.addressing import LngLat, centre, code_of_tile, tile_at, tile_of_code

DIM = 4
SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def opened(folder: str, levels: Sequence[FakeLevel]) -> TileIndex:
    write_fake_index(Path(folder), levels)
    return TileIndex.open(Path(folder))


def pyramid(seed: int, zooms: list[int], *, flat: bool = False, thinning: float = 0.0, tiles: int = 60) -> list:
    """A pyramid with components in halves; `flat`: every cosine is 0."""
    rng = np.random.default_rng(seed)
    levels = fake_pyramid(seed, zooms, DIM, tiles=tiles, holes=0.0, thinning=thinning)
    return [
        replace(v, vectors=(0 if flat else 1) * (rng.integers(-2, 3, (len(v.codes), DIM)) / 2).astype(np.float32))
        for v in levels
    ]


def belief_of(seed: int, zoom: int, *, hard: bool = False, best: LngLat | None = None) -> GridBelief:
    rng = np.random.default_rng(seed)
    mass = np.exp(rng.normal(0, 3, 4**zoom))
    if hard:
        mass[rng.random(4**zoom) < 0.3] = 0
        mass[rng.integers(0, 4**zoom)] += 1
    return GridBelief.of(mass, zoom, floor=0 if hard else 1e-7, best=best)


def frontier_of(descent: Descent) -> dict[tuple[int, int], float]:
    found = descent.frontier()
    levels = [step.level for step in descent.steps]
    codes = [int(levels[s].codes[descent.steps[s].rows[p]]) for s, p in zip(found.steps, found.positions, strict=True)]
    zooms = [levels[s].zoom for s in found.steps]
    return dict(zip(zip(zooms, codes, strict=True), found.mass.tolist(), strict=True))


@FEW
@given(seed=SEEDS, base=st.sampled_from([0, 2, 4, 6]), k=st.sampled_from([1, 3, 16, 1024]), hard=st.booleans())
def test_posterior_equals_prior_without_cosines(seed: int, base: int, k: int, hard: bool) -> None:
    zooms = [1, 3, 5]
    belief = belief_of(seed, base, hard=hard)
    numbers = ZoomNumbers(tau=0.1, lam=1.0)
    with tempfile.TemporaryDirectory() as folder:
        index = opened(folder, pyramid(seed, zooms, flat=True, tiles=4**5))
        plan = SearchPlan(Calibration(dict.fromkeys(zooms, numbers)), k=k)
        descent = descend(index, np.ones(DIM, np.float32), plan, belief)
    frontier = frontier_of(descent)
    for (zoom, code), mass in frontier.items():
        expected = np.exp(belief.log_mass(np.array([code], dtype=np.uint64), zoom)[0])
        assert mass == pytest.approx(float(expected), rel=1e-4)
    assert sum(frontier.values()) == pytest.approx(1)
    assert len(descent.steps) == 3


@FEW
@given(
    seed=SEEDS,
    zooms=st.sampled_from([[2], [1, 3], [2, 4, 6], [0, 1, 5]]),
    thinning=st.sampled_from([0.0, 0.4]),
    b=st.sampled_from([None, 1.5]),
    lam=st.sampled_from([0.0, 0.3, 1.7]),
    rho=st.sampled_from([1.0, 0.5]),
    hard=st.booleans(),
    nowhere=st.booleans(),
)
def test_full_beam_with_prior_equals_exhaustive_search(
    seed: int,
    zooms: list[int],
    thinning: float,
    b: float | None,
    lam: float,
    rho: float,
    hard: bool,
    nowhere: bool,
) -> None:
    rng = np.random.default_rng(seed)
    numbers = {z: ZoomNumbers(rng.uniform(0.05, 0.6), rng.uniform(0.3, 1.4), b, lam, 0.2, rho) for z in zooms}
    features = {f"{name}_{zooms[-1]}": Feature(0.3, 0.5, 1.5) for name in ("best", "outside")}
    calibration = Calibration(numbers, elsewhere=ElsewhereNumbers(-0.5, features) if nowhere else None)
    belief = belief_of(seed, 3, hard=hard)
    embedding = (rng.integers(-2, 3, DIM) / 2).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        index = opened(folder, pyramid(seed, zooms, thinning=thinning))
        try:
            beam = descend(index, embedding, SearchPlan(calibration, k=1024), belief)
        except QueryError:
            assert hard
            return
        whole = Exhaustive(index).descend(embedding, calibration, belief)
    assert frontier_of(beam) == pytest.approx(frontier_of(whole), rel=1e-9, abs=1e-12)
    assert beam.elsewhere == pytest.approx(whole.elsewhere, rel=1e-9)
    assert sum(frontier_of(beam).values()) + beam.elsewhere == pytest.approx(1)


def test_elsewhere_gets_prior_mass_outside_the_candidates(tmp_path: Path) -> None:
    codes = np.array([3, 7], dtype=np.uint64)
    flat = FakeLevel(2, codes, np.ones(2, dtype=bool), np.zeros((2, DIM), np.float32))
    mass = np.full(16, 0.6 / 14)
    mass[[3, 7]] = 0.1, 0.3
    index, belief = opened(str(tmp_path), [flat]), GridBelief.of(mass, 2, floor=0)
    calibration = Calibration({2: ZoomNumbers(b=0.0, lam=1.0)})
    descent = descend(index, np.zeros(DIM, np.float32), SearchPlan(calibration, k=4), belief)
    assert descent.elsewhere == pytest.approx(0.6, abs=1e-6)
    assert np.exp(descent.steps[0].log_mass) == pytest.approx([0.1, 0.3], abs=1e-6)


@FEW
@given(seed=SEEDS, k=st.sampled_from([1, 4, 64]))
def test_prior_with_weight_0_changes_nothing(seed: int, k: int) -> None:
    zooms, rng = [2, 4, 6], np.random.default_rng(seed)
    numbers = {z: ZoomNumbers(rng.uniform(0.05, 0.6), rng.uniform(0.3, 1.4), 0.5) for z in zooms}
    embedding = rng.standard_normal(DIM).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        index = opened(folder, pyramid(seed, zooms, thinning=0.2))
        plain, fused = (
            descend(index, embedding, SearchPlan(Calibration(numbers), k=k), belief)
            for belief in (None, belief_of(seed, 4))
        )
    assert frontier_of(fused) == frontier_of(plain)
    assert fused.elsewhere == plain.elsewhere


@FEW
@given(seed=SEEDS, k=st.sampled_from([1, 3]))
def test_always_keep_adds_the_tile_to_every_beam(seed: int, k: int) -> None:
    zooms, rng = [1, 3, 5], np.random.default_rng(seed)
    place = centre(tile_of_code(int(rng.integers(0, 4**5)), 5))
    embedding = rng.standard_normal(DIM).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        index = opened(folder, pyramid(seed, zooms, tiles=4**5))
        plan = SearchPlan(Calibration(), k=k, scoring="paper")
        plain = descend(index, embedding, plan)
        extended = descend(index, embedding, plan, always_keep=place)
    for zoom, one, other in zip(zooms, plain.steps, extended.steps, strict=True):
        own_tile = code_of_tile(tile_at(place.lng, place.lat, zoom))
        beam = set(other.level.codes[other.rows[other.beam]].tolist())
        assert own_tile in beam
        assert len(beam) <= k + 1
        if zoom == zooms[0]:
            assert beam == set(one.level.codes[one.rows[one.beam]].tolist()) | {own_tile}
