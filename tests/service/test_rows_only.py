"""Street photos without trained encoders: an index of rows only, with GeoCLIP as its prior, over HTTP.

Real are the commands, the service, GeoCLIP's image head and the code that loads CLIP; CLIP itself is a tiny random
checkpoint in transformers' format, and places are encoded by a quick stand-in (the real ones: tests/retrieval/priors).
"""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import numpy as np
import pytest
from geoclip_stand_ins import SeededPlaces, photos_around, tiny_clip
from typer.testing import CliRunner

from retrieval.errors import EncoderError
from retrieval.installed_priors import install, staged
from retrieval.locator import Locator
from retrieval.pictures.photo import decode_photo
from retrieval.priors.geoclip import GeoclipPrior, GeoclipSettings
from service.reload import reopening
from tile_cache.addressing import LngLat, Tile, code_of_tile
from tilebeam import app

Serving = Callable[..., AbstractContextManager[str]]
Picture = Callable[..., bytes]
CITIES = [LngLat(8.5, 47.4), LngLat(2.3, 48.9), LngLat(151.2, -33.9), LngLat(-122.4, 37.8)]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rows") / "world"
    made = CliRunner().invoke(app, ["index", "--rows-only", "--world", "--zooms", "2,4,6", "--out", str(out)])
    assert made.exit_code == 0, made.output
    return out


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    """Replaces the parts that need the hub or minutes; tables are shared between tests."""
    places = SeededPlaces(dim=512)
    monkeypatch.setenv("TILEBEAM_CLIP", str(clip))
    monkeypatch.setenv("XDG_CACHE_HOME", str(clip / "cache"))
    monkeypatch.setattr("retrieval.priors.geoclip.gallery", lambda: photos_around(CITIES, 50))
    monkeypatch.setattr("retrieval.priors.geoclip_models.LocationEncoder.load", lambda device="auto": places)


def test_street_photo_is_answered_by_geoclip(index: Path, serving: Serving, make_picture: Picture) -> None:
    """Every confidence is the belief's mass of the tile, and the place lies in the tile with the largest mass."""
    locator = Locator.open(index, device="cpu", prior="geoclip")
    prior = locator.priors.by_name["geoclip"].prior
    assert isinstance(prior, GeoclipPrior)
    with serving(locator) as url:
        response = httpx.post(f"{url}/locate", files={"image": make_picture(3)}, timeout=30)
        assert response.status_code == 200, response.text
        about = httpx.get(f"{url}/index").json()
    answer = response.json()
    pixels = prior.encoder.prepare(decode_photo(make_picture(3), min_edge=prior.encoder.min_edge))
    (belief,) = prior.beliefs(prior.encoder.encode(pixels[None]))
    assert [level["zoom"] for level in answer["levels"]] == [2, 4, 6]
    for level in answer["levels"]:
        code = np.array([code_of_tile(Tile(**level["tile"]))], dtype=np.uint64)
        mass = float(np.exp(belief.log_mass(code, level["zoom"]))[0])
        assert level["confidence"] == pytest.approx(mass, rel=0.02, abs=1e-4)
        assert level["similarity"] is None
    assert answer["calibrated"] is False
    assert about["prior"] == "geoclip"
    assert [zoom["vectors"] for zoom in about["zooms"]] == [0, 0, 0]


def test_batch_answers_equal_single_answers(index: Path, serving: Serving, make_picture: Picture) -> None:
    photos = [make_picture(seed) for seed in range(5)]
    with serving(Locator.open(index, device="cpu", prior="geoclip")) as url, httpx.Client(base_url=url) as http:
        alone = [http.post("/locate", files={"image": photo}, timeout=30).json() for photo in photos]
        files = [("images", (f"{i}.jpg", photo)) for i, photo in enumerate(photos)]
        together = http.post("/locate/batch", files=files, timeout=30).text.splitlines()
    for one, line in zip(alone, together, strict=True):
        found = json.loads(line)["result"]
        assert (found["lat"], found["lon"]) == pytest.approx((one["lat"], one["lon"]), abs=1e-4)
    assert len({one["lat"] for one in alone}) > 1


def test_query_without_prior_names_what_is_missing(index: Path, serving: Serving, make_picture: Picture) -> None:
    with serving(Locator.open(index, device="cpu", prior="geoclip")) as url:
        response = httpx.post(f"{url}/locate?prior=none", files={"image": make_picture(3)}, timeout=30)
    assert response.status_code == 422
    assert "prior" in response.json()["detail"]


def test_reload_reuses_equal_prior(index: Path, tmp_path: Path) -> None:
    """CLIP takes seconds to load. But a prior of the index differs from one without files."""
    place = tmp_path / "index"
    shutil.copytree(index, place)
    old = Locator.open(place, device="cpu", prior="geoclip")
    new = reopening(place, "cpu", "geoclip")(old)
    assert new.priors.default == "geoclip"
    assert new.priors.by_name["geoclip"].prior is old.priors.by_name["geoclip"].prior
    with staged(place, "geoclip", None) as own:
        GeoclipPrior.write(own, GeoclipSettings(weighting="area"))
        install(place, "geoclip", own, GeoclipPrior.open(own, device="cpu").fingerprint, default=True)
    changed = reopening(place, "cpu")(new)
    assert changed.priors.by_name["geoclip"].prior.fingerprint != new.priors.by_name["geoclip"].prior.fingerprint
    assert reopening(place, "cpu")(changed).priors.by_name == changed.priors.by_name


def test_locate_command_uses_prior(index: Path, make_picture: Picture, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(make_picture(3))
    run = CliRunner().invoke
    arguments = ["locate", str(tmp_path / "photo.jpg"), "--index", str(index), "--device", "cpu"]
    found = run(app, [*arguments, "--prior", "geoclip"])
    assert found.exit_code == 0, found.output
    assert "not calibrated" in found.stdout
    refused = run(app, arguments)
    assert refused.exit_code == 1
    assert "prior" in refused.stderr


def test_locator_without_clip_weights_raises(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TILEBEAM_CLIP")

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)
    with pytest.raises(EncoderError, match=r"--allow-download.*TILEBEAM_CLIP"):
        Locator.open(index, device="cpu", prior="geoclip")
