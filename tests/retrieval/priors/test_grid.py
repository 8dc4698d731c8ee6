import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.errors import PriorError
from retrieval.priors.grid import FLOOR, GridBelief
from tile_cache.addressing import area_shares, bounds, centre, children_of_codes, codes_at, tile_of_code


def random_mass(seed: int, zoom: int) -> np.ndarray:
    """Masses over twelve orders of magnitude, some of them zero."""
    rng = np.random.default_rng(seed)
    mass = np.exp(rng.uniform(-28, 0, 4**zoom))
    mass[rng.random(4**zoom) < 0.2] = 0
    mass[0] += 1e-3
    return mass


def linear(belief: GridBelief, codes: np.ndarray, zoom: int) -> np.ndarray:
    return np.exp(belief.log_mass(codes, zoom).astype(np.float64))


@given(seed=st.integers(0, 10**6), base=st.integers(0, 5), zoom=st.integers(0, 7), floor=st.sampled_from([0, FLOOR]))
def test_each_zoom_sums_to_one_and_children_to_their_parent(seed: int, base: int, zoom: int, floor: float) -> None:
    belief = GridBelief.of(random_mass(seed, base), base, floor=floor)
    codes = np.arange(4**zoom, dtype=np.uint64)
    mass = linear(belief, codes, zoom)
    assert mass.sum() == pytest.approx(1, abs=1e-5)
    children = linear(belief, children_of_codes(codes, 2), zoom + 2).reshape(-1, 16).sum(1)
    np.testing.assert_allclose(children, mass, rtol=1e-4, atol=1e-12)


def test_masses_equal_the_input_up_to_the_floor() -> None:
    given_mass = random_mass(3, 4)
    belief = GridBelief.of(given_mass, 4, floor=0.01)
    expected = 0.99 * given_mass / given_mass.sum() + 0.01 * area_shares(np.arange(256, dtype=np.uint64), 4)
    np.testing.assert_allclose(linear(belief, np.arange(256, dtype=np.uint64), 4), expected, rtol=1e-5)


def test_hard_belief_keeps_zero_masses_at_every_zoom() -> None:
    mass = np.zeros(256)
    mass[17] = 2.0
    belief = GridBelief.of(mass, 4, floor=0)
    for zoom in (2, 3, 4, 6, 9):
        codes = np.arange(min(4**zoom, 4**6), dtype=np.uint64)
        above = codes >> np.uint64(2 * max(zoom - 4, 0)) if zoom > 4 else codes
        holds = above == (17 >> (2 * max(4 - zoom, 0)))
        assert (np.isfinite(belief.log_mass(codes, zoom)) == holds).all()


@pytest.mark.parametrize("zoom", [0, 4, 12, 22])
def test_area_shares_are_those_on_the_sphere(zoom: int) -> None:
    codes = np.unique(codes_at(np.array([0.0, 12.3, -179.9, 7.7]), np.array([0.0, 85.0, -84.9, 47.0]), zoom))
    whole = bounds(tile_of_code(0, 0))
    for code, share in zip(codes.tolist(), area_shares(codes, zoom), strict=True):
        edges = [np.sin(np.radians(v)) for v in (bounds(tile_of_code(code, zoom)))]
        band = np.sin(np.radians(whole.north)) * 2
        assert share == pytest.approx((edges[3] - edges[1]) / band / 2**zoom, rel=1e-4)


def test_best_place_is_the_centre_of_the_heaviest_tile() -> None:
    mass = random_mass(5, 4)
    mass[77] = 9
    best = GridBelief.of(mass, 4).best()
    assert best == pytest.approx(centre(tile_of_code(77, 4)))


@pytest.mark.parametrize(
    "mass", [np.zeros(256), np.full(256, np.nan), np.full(256, -1.0), np.ones(255), np.full(256, np.inf)]
)
def test_invalid_masses_are_refused(mass: np.ndarray) -> None:
    with pytest.raises(PriorError):
        GridBelief.of(mass, 4)
