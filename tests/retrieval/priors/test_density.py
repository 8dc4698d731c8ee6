"""The density of photos: a probability at every zoom, higher where there are photos."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import PriorError
from retrieval.priors.density import Density, DensityPrior
from retrieval.priors.geoclip_data import gallery
from retrieval.priors.registry import open_prior
from tile_cache.addressing import area_shares, children_of_codes, codes_at

places = st.lists(st.tuples(st.floats(-90, 90), st.floats(-180, 180)), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(places, st.integers(0, 22))
def test_mass_of_a_tile_is_the_sum_of_its_children(photos: list[tuple[float, float]], zoom: int) -> None:
    """From the top to below the zoom at which places are stored, on the path to a photo."""
    lat, lng = np.array(photos).T
    density = Density.of(lat, lng)
    tiles = np.unique(codes_at(lng, lat, zoom))
    children = np.exp(density.log_mass(children_of_codes(tiles, 1), zoom + 1).astype(np.float64)).reshape(-1, 4)
    assert children.sum(axis=1) == pytest.approx(np.exp(density.log_mass(tiles, zoom)), rel=1e-5)


def test_masses_sum_to_one_and_no_tile_has_zero() -> None:
    density = Density.of(np.array([47.0, 47.0, -33.0]), np.array([8.0, 8.1, 151.0]))
    for zoom in (0, 3, 8, 9):
        mass = np.exp(density.log_mass(np.arange(4**zoom, dtype=np.uint64), zoom).astype(np.float64))
        assert mass.sum() == pytest.approx(1, abs=1e-5)
        assert mass.min() > 0


def test_photos_raise_the_mass_of_their_tile_as_in_polyas_urn() -> None:
    """With two photos of three at one place, their quarter gets more than half of the mass."""
    lat, lng = np.array([47.0, 47.0, -33.0]), np.array([8.0, 8.0, 151.0])
    first, second = codes_at(lng, lat, 1)[[0, 2]]
    mass = np.exp(Density.of(lat, lng).log_mass(np.array([first, second]), 1))
    expected = (np.array([2, 1]) + area_shares(np.array([first, second]), 1)) / (3 + 1)
    assert mass == pytest.approx(expected, rel=1e-6)


def test_held_out_photos_are_likelier_than_by_area() -> None:
    """On the real gallery, half of it held out: 3.9 nats a photo at zoom 8."""
    photos = gallery()
    assert len(photos) == 100_000
    seen, unseen = photos[::2], photos[1::2]
    codes = codes_at(unseen[:, 1], unseen[:, 0], 8)
    density = Density.of(seen[:, 0], seen[:, 1])
    assert density.log_mass(codes, 8).mean() - np.log(area_shares(codes, 8)).mean() > 3.8


def test_written_prior_opens_unchanged(tmp_path: Path) -> None:
    lat, lng = np.array([47.0, 46.0]), np.array([8.0, 7.0])
    DensityPrior.write(tmp_path / "density", lat, lng)
    prior = open_prior(tmp_path / "density")
    assert prior.fingerprint == Density.of(lat[::-1], lng[::-1]).fingerprint
    one, other = prior.beliefs(np.zeros((2, 0), dtype=np.float32))
    codes = codes_at(lng, lat, 10)
    assert (one.log_mass(codes, 10) == other.log_mass(codes, 10)).all()
    assert DensityPrior.open(None).fingerprint != prior.fingerprint


@pytest.mark.parametrize(
    "bad", [np.array([3, 2], np.uint64), np.array([4**20], np.uint64), np.zeros((1, 2)), np.zeros(0)]
)
def test_damaged_places_are_refused(tmp_path: Path, bad: np.ndarray) -> None:
    DensityPrior.write(tmp_path, np.zeros(1), np.zeros(1))
    np.save(tmp_path / "places.npy", bad)
    with pytest.raises(PriorError, match=r"places\.npy"):
        open_prior(tmp_path)
    (tmp_path / "places.npy").write_bytes(b"no array")
    with pytest.raises(PriorError, match=r"places\.npy"):
        open_prior(tmp_path)
