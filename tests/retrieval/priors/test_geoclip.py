"""GeoCLIP's location encoder with the package's weights, and the belief's arithmetic on a fast stand-in."""

import sys
import types
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from geoclip_stand_ins import FeaturesOfPlaces, SeededPlaces, photos_around
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import PriorError
from retrieval.priors.geoclip import GeoclipPrior, GeoclipSettings
from retrieval.priors.geoclip_data import QuarterTable, gallery, package_folder, tile_embeddings
from retrieval.priors.geoclip_models import LocationEncoder
from tile_cache.addressing import LngLat, area_shares, centres_of_codes, children_of_codes, codes_at

CITIES = [LngLat(8.5, 47.4), LngLat(2.3, 48.9), LngLat(151.2, -33.9), LngLat(-179.9, -16.5), LngLat(30.0, 78.0)]
EDGES = np.array([[90.0, 0.0], [-90.0, 12.0], [0.0, 180.0], [0.0, -180.0], [0.0, 0.0], [47.37, 8.54]])


def of_stand_ins(settings: GeoclipSettings | None = None, folders: tuple[Path, ...] = ()) -> GeoclipPrior:
    places = SeededPlaces()
    settings = settings or GeoclipSettings(base_zoom=4)
    return GeoclipPrior(places, FeaturesOfPlaces(places), photos_around(CITIES, 40), settings, folders)


@pytest.fixture(scope="module")
def prior() -> GeoclipPrior:
    return of_stand_ins()


@pytest.fixture(scope="module")
def location() -> LocationEncoder:
    return LocationEncoder.load("cpu")


def mass(belief: object, codes: np.ndarray, zoom: int) -> np.ndarray:
    return np.exp(belief.log_mass(codes, zoom).astype(np.float64))  # type: ignore[attr-defined]


def test_location_encoder_equals_the_packages_own(location: LocationEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """To 1e-6, with the same weights. Only one module of the package is run: importing the rest takes half a minute."""
    for name, path in (("geoclip", package_folder()), ("geoclip.model", package_folder() / "model")):
        module = types.ModuleType(name)
        module.__path__ = [str(path)]
        monkeypatch.setitem(sys.modules, name, module)
    import torch

    theirs = import_module("geoclip.model.location_encoder").LocationEncoder().eval()
    for name in [name for name in sys.modules if name.startswith("geoclip.")]:
        monkeypatch.delitem(sys.modules, name)
    rng = np.random.default_rng(0)
    places = np.concatenate([EDGES, np.stack([rng.uniform(-90, 90, 100), rng.uniform(-180, 180, 100)], axis=1)])
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(theirs(torch.tensor(places, dtype=torch.float32)), dim=1).numpy()
    assert np.abs(location.encode(places[:, 0], places[:, 1]) - expected).max() < 1e-6


def test_belief_is_highest_where_the_photo_looks_like(location: LocationEncoder) -> None:
    """With the real weights and a place's embedding in place of a photo's, at every zoom."""
    some = gallery()[::1000]
    places = np.concatenate([some, [[47.37, 8.54]]])
    prior = GeoclipPrior(
        location, FeaturesOfPlaces(SeededPlaces()), places, GeoclipSettings(base_zoom=4, finest_zoom=8)
    )
    feature = location.encode(np.array([47.37]), np.array([8.54]))
    (belief,) = prior.beliefs(feature)
    assert belief.best() == LngLat(8.54, 47.37)
    at = np.array([codes_at(np.array([8.54]), np.array([47.37]), z)[0] for z in (4, 6, 8)])
    masses = [mass(belief, at[i : i + 1], z)[0] for i, z in enumerate((4, 6, 8))]
    assert masses[0] > 0.9
    assert masses[2] > 0.5
    assert masses == sorted(masses, reverse=True)


def test_own_answer_is_the_softmax_over_the_gallery(location: LocationEncoder) -> None:
    """As the package's `predict`: the most similar place, and its share of exp(logit scale times cosine)."""
    places = gallery()[::500]
    prior = GeoclipPrior(location, FeaturesOfPlaces(SeededPlaces()), places, GeoclipSettings(base_zoom=1))
    features = np.random.default_rng(1).normal(size=(3, 512)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    logits = location.logit_scale * features @ location.encode(places[:, 0], places[:, 1]).T
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = prior.answers(features)
    assert answers[:, :2] == pytest.approx(places[logits.argmax(axis=1)], abs=1e-6)
    assert answers[:, 2] == pytest.approx(shares.max(axis=1), rel=0.02)
    assert [b.best() for b in prior.beliefs(features)] == [LngLat(lng, lat) for lat, lng, _ in answers.tolist()]


def test_answer_is_exact_among_neighbours_closer_than_the_rounding() -> None:
    """Two hundred places around a town: with fp16 tables alone, half of the answers would be a neighbour's."""
    rng = np.random.default_rng(2)
    crowd = np.array([47.0, 8.0]) + rng.normal(0, 0.4, (200, 2))
    places = SeededPlaces()
    prior = GeoclipPrior(places, FeaturesOfPlaces(places), crowd, GeoclipSettings(base_zoom=1))
    features = places.encode(*crowd.T)
    assert np.abs(prior.answers(features)[:, :2] - crowd).max() < 1e-9
    assert [(b.best().lat, b.best().lng) for b in prior.beliefs(features[:9])] == list(map(tuple, crowd[:9].tolist()))


@pytest.mark.slow
def test_package_predicts_the_same(location: LocationEncoder, tmp_path: Path) -> None:
    """Its own `predict` on a picture file, with fixed features in place of CLIP's."""
    import torch
    from geoclip import GeoCLIP
    from geoclip import LocationEncoder as Theirs
    from PIL import Image

    feature = torch.nn.functional.normalize(torch.randn(1, 512, generator=torch.Generator().manual_seed(3)), dim=1)

    class FixedFeatures(torch.nn.Module):
        """An image encoder with fixed features, which are not unit vectors."""

        def preprocess_image(self, image: Image.Image) -> torch.Tensor:
            return torch.zeros(1, 3, 224, 224)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return 3 * feature

    places = gallery()[::100]
    theirs = GeoCLIP.__new__(GeoCLIP)  # without its __init__, which asks the hub for CLIP
    torch.nn.Module.__init__(theirs)
    theirs.image_encoder, theirs.location_encoder = FixedFeatures(), Theirs()
    theirs.logit_scale = torch.nn.Parameter(torch.tensor(location.logit_scale).log())
    theirs.gps_gallery, theirs.device = torch.tensor(places, dtype=torch.float32), "cpu"
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    where, share = theirs.eval().predict(str(tmp_path / "picture.png"), 1)

    prior = GeoclipPrior(location, FeaturesOfPlaces(SeededPlaces()), places, GeoclipSettings(base_zoom=1))
    (answer,) = prior.answers(feature.numpy())
    assert answer[:2] == pytest.approx(where[0].numpy(), abs=1e-5)
    assert answer[2] == pytest.approx(float(share[0]), rel=0.02)


@pytest.mark.parametrize("weighting", ["gallery", "area"])
@settings(max_examples=25, deadline=None)
@given(city=st.integers(0, 4), zoom=st.integers(0, 17), seed=st.integers(0, 99))
def test_mass_of_a_tile_is_the_sum_of_its_quarters(weighting: str, city: int, zoom: int, seed: int) -> None:
    prior = PRIORS[weighting]
    place = CITIES[city]
    (belief,) = prior.beliefs(prior.encoder.encode(np.random.default_rng(seed).integers(0, 255, (1, 3, 1, 1))))
    tile = codes_at(np.array([place.lng]), np.array([place.lat]), zoom)
    quarters = mass(belief, children_of_codes(tile, 1), zoom + 1)
    assert quarters.sum() == pytest.approx(mass(belief, tile, zoom)[0], rel=1e-4)
    assert (quarters > 0).all()


PRIORS = {
    name: of_stand_ins(GeoclipSettings(weighting=name, base_zoom=4, finest_zoom=12))  # type: ignore[arg-type]
    for name in ("gallery", "area")
}


@pytest.mark.parametrize("zoom", [0, 2, 4, 6])
def test_masses_of_a_zoom_sum_to_one(prior: GeoclipPrior, zoom: int) -> None:
    (belief,) = prior.beliefs(prior.encoder.encode(np.full((1, 3, 1, 1), 77.0)))
    assert mass(belief, np.arange(4**zoom, dtype=np.uint64), zoom).sum() == pytest.approx(1, abs=1e-4)


def test_masses_equal_the_formula(prior: GeoclipPrior) -> None:
    """Density times the mean of exp(logit) over a tile's photos and its centre, computed in another way."""
    feature = prior.encoder.encode(np.full((1, 3, 1, 1), 60.0))
    (belief,) = prior.beliefs(feature)
    places, photos = SeededPlaces(), photos_around(CITIES, 40)
    tiles = np.arange(4**4, dtype=np.uint64)
    lng, lat = centres_of_codes(tiles, 4)
    centres = np.exp(places.logit_scale * (places.encode(lat, lng) @ feature[0]).astype(np.float64))
    gains = np.exp(places.logit_scale * (places.encode(*photos.T) @ feature[0]).astype(np.float64))
    homes = codes_at(photos[:, 1], photos[:, 0], 4)
    means = [(gains[homes == t].sum() + centres[int(t)]) / ((homes == t).sum() + 1) for t in tiles]
    expected = np.exp(prior.density.log_mass(tiles, 4).astype(np.float64)) * means
    assert mass(belief, tiles, 4) == pytest.approx(expected / expected.sum(), rel=0.01, abs=1e-6)


def test_weighting_by_area_ignores_the_gallery() -> None:
    prior = PRIORS["area"]
    (belief,) = prior.beliefs(np.zeros((1, 24), dtype=np.float32))  # equally similar to every place
    tiles = np.arange(4**6, dtype=np.uint64)
    assert mass(belief, tiles, 6) == pytest.approx(area_shares(tiles, 6), rel=1e-3)


def test_feature_without_similarities_gives_the_density(prior: GeoclipPrior) -> None:
    (belief,) = prior.beliefs(np.zeros((1, 24), dtype=np.float32))
    place = codes_at(np.array([8.5]), np.array([47.4]), 12)
    assert belief.log_mass(place, 12) == pytest.approx(prior.density.log_mass(place, 12), abs=0.01)


def test_tables_are_made_once_and_damaged_ones_again(tmp_path: Path) -> None:
    first = of_stand_ins(folders=(tmp_path / "read", tmp_path / "kept"))
    files = sorted((tmp_path / "kept").iterdir())
    assert [f.suffix for f in files] == [".npy", ".npy"]
    assert not (tmp_path / "read").exists()
    places = SeededPlaces()

    def again(*folders: Path) -> GeoclipPrior:
        settings = GeoclipSettings(base_zoom=4)
        return GeoclipPrior(places, FeaturesOfPlaces(places), photos_around(CITIES, 40), settings, folders)

    assert again(tmp_path / "kept", tmp_path / "other").fingerprint == first.fingerprint
    assert places.asked == 0
    files[0].write_bytes(files[0].read_bytes()[:-8])
    again(tmp_path / "kept")
    assert 0 < places.asked <= 256
    asked = places.asked
    again(tmp_path / "kept")
    assert places.asked == asked


def test_unwritable_cache_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert of_stand_ins(folders=(tmp_path / "file",)).fingerprint == PRIORS_FINGERPRINT


PRIORS_FINGERPRINT = of_stand_ins().fingerprint


def test_quarters_do_not_depend_on_the_cache_or_on_threads() -> None:
    places = SeededPlaces()
    small, large = QuarterTable(places, limit=3), QuarterTable(places)
    tiles = np.arange(40, dtype=np.uint64) * np.uint64(25)
    expected = tile_embeddings(places, children_of_codes(tiles, 1), 6).reshape(40, 4, -1)
    with ThreadPoolExecutor(4) as pool:
        asked = [tiles[start : start + 10] for start in (0, 10, 20, 30, 5, 15, 0, 10) * 4]
        for table in (small, large):
            for which, found in zip(asked, pool.map(lambda codes, t=table: t.quarters(codes, 5), asked), strict=True):
                assert found == pytest.approx(expected[(which // np.uint64(25)).astype(int)], abs=1e-3)
    before = places.asked
    large.quarters(tiles, 5)
    assert places.asked == before
    small.quarters(tiles, 5)
    assert places.asked > before


def test_fingerprint_differs_between_settings(prior: GeoclipPrior) -> None:
    others = [
        GeoclipSettings(base_zoom=3),
        GeoclipSettings("area", base_zoom=4),
        GeoclipSettings(temperature=2, base_zoom=4),
    ]
    assert len({prior.fingerprint, *(of_stand_ins(other).fingerprint for other in others)}) == 4


@pytest.mark.parametrize(
    "bad", [{"weighting": "votes"}, {"temperature": 0}, {"base_zoom": 9}, {"base_zoom": 8, "finest_zoom": 7}]
)
def test_settings_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(PriorError, match="GeoCLIP"):
        GeoclipSettings(**bad)  # type: ignore[arg-type]
