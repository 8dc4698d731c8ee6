"""Queries with a prior or a region, over HTTP and on the command line; the answers equal the locator's."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from terminal import unwrapped
from typer.testing import CliRunner

from benchmarks.support.noise_prior import NoisePrior
from retrieval.geo.region import Region
from retrieval.index.calibration import Calibration
from retrieval.index.reader import TileIndex
from retrieval.installed_priors import OpenPriors
from retrieval.locator import LocateQuery, Locator
from retrieval.pictures.photo import decode_photo
from retrieval.pipeline import DecodedPicture, decode, locate
from retrieval.search.plan import InstalledPrior
from retrieval.testing.fake import FakePhotoEncoder
from service.client.client import Client
from tilebeam import app

Picture = Callable[..., bytes]
TRIANGLE = {"type": "Polygon", "coordinates": [[[-60, -50], [120, -40], [20, 70], [-60, -50]]]}


class SeeingNoise(NoisePrior):
    """A prior with its own encoder, whose features differ from the index's embeddings."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.encoder = FakePhotoEncoder(dim=5, seed=seed)


@pytest.fixture(scope="module")
def believing(index_dir: Path) -> Locator:
    """An index with two priors that have different encoders, and a default prior without one."""
    index, plain = TileIndex.open(index_dir), Calibration()
    priors = {"one": SeeingNoise(1), "two": SeeingNoise(2), "blind": NoisePrior()}
    asked = {name: InstalledPrior.of(name, prior, plain, index.zooms, plain) for name, prior in priors.items()}
    return Locator(index, plain, FakePhotoEncoder(), priors=OpenPriors(asked, "blind"))


@pytest.fixture(scope="module")
def site(believing: Locator, serving: Any) -> Iterator[str]:
    with serving(believing) as url:
        yield url


def direct(locator: Locator, data: bytes, query: LocateQuery) -> dict[str, Any]:
    """The answer of the locator, without the service."""
    image, plan = decode_photo(data), locator.plan(query)
    features = None
    if plan.prior_encoder is not None:
        features = plan.prior_encoder.encode(plan.prior_encoder.prepare(image)[None])
    rows = locator.encoder.encode(locator.encoder.prepare(image)[None])
    found: dict[str, Any] = json.loads(json.dumps(locator.answers(rows, plan, features)[0].to_json()))
    return found


def without_timing(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer without what the engine does not know: its times, and why the picture was not registered."""
    assert set(answer.pop("timing_ms")) == {"decode", "encode", "search"}
    assert answer.pop("registration") is None
    assert answer.pop("registration_reason")
    return answer


@pytest.mark.parametrize("prior", [None, "none", "one", "two", "blind"])
def test_named_prior_is_used(site: str, believing: Locator, make_picture: Picture, prior: str) -> None:
    data, params = make_picture(3), {} if prior is None else {"prior": prior}
    answer = without_timing(httpx.post(f"{site}/locate", params=params, files={"image": data}, timeout=20).json())
    assert answer == direct(believing, data, LocateQuery(prior=prior))
    assert answer.get("prior") == {None: "blind", "none": None}.get(prior, prior)


def test_batch_uses_named_prior(site: str, believing: Locator, make_picture: Picture) -> None:
    pictures = [make_picture(seed) for seed in range(5)]
    with Client(site) as client:
        lines = list(client.locate_batch(pictures, prior="two"))
    for data, line in zip(pictures, lines, strict=True):
        assert without_timing(dict(line["result"])) == direct(believing, data, LocateQuery(prior="two"))


def test_queries_with_different_priors_share_a_group(believing: Locator, make_picture: Picture) -> None:
    names = ["one", "none", "two", "one", None]
    pictures = [make_picture(seed) for seed in range(len(names))]
    queries = [LocateQuery(prior=name) for name in names]
    ready = [decode(believing, d, q) for d, q in zip(pictures, queries, strict=True)]
    assert [p.prior_pixels is None for p in ready] == [False, True, False, False, True]
    found = locate(ready)
    for data, query, outcome in zip(pictures, queries, found, strict=True):
        assert isinstance(outcome, dict)
        assert without_timing(outcome) == direct(believing, data, query)


def test_failure_of_prior_encoder_affects_only_one_picture(believing: Locator, make_picture: Picture) -> None:
    query = LocateQuery(prior="one")
    good = decode(believing, make_picture(1), query)
    bad = DecodedPicture(believing, good.plan, good.pixels, np.zeros((3, 1, 1), np.float32), 0.0)
    found = locate([good, bad, good])
    assert isinstance(found[1], Exception)
    assert all(isinstance(outcome, dict) for outcome in (found[0], found[2]))


def test_unknown_prior_is_rejected_before_upload_is_read(site: str, check_problem: Any) -> None:
    response = httpx.post(f"{site}/locate?prior=oracle", content=b"no picture", headers={"Content-Type": "image/png"})
    assert "use one, two, blind, none" in check_problem(response, 422, "invalid-query")


def test_index_route_lists_priors(site: str) -> None:
    about = httpx.get(f"{site}/index").json()
    assert about["prior"] == "blind"
    assert [p["name"] for p in about["priors"]] == ["one", "two", "blind"]
    assert about["priors"][2]["fingerprint"] == NoisePrior().fingerprint


def test_answers_lie_inside_region(site: str, believing: Locator, make_picture: Picture) -> None:
    region = Region.of_geojson(TRIANGLE)
    for seed in range(4):
        data = make_picture(seed)
        with Client(site) as client:
            answer = without_timing(dict(client.locate(data, within=json.dumps(TRIANGLE), prior="none")))
        assert answer == direct(believing, data, LocateQuery(within=region, prior="none"))
        assert region.contains(np.array([answer["lon"]]), np.array([answer["lat"]]))[0]


@pytest.mark.parametrize(
    "within", ["", "nonsense", "[]", '{"type":"Point","coordinates":[1,2]}', '{"type":"Polygon","coordinates":[[]]}']
)
def test_invalid_region_is_rejected(site: str, make_picture: Picture, check_problem: Any, within: str) -> None:
    response = httpx.post(f"{site}/locate", params={"within": within}, files={"image": make_picture()})
    assert "within" in check_problem(response, 422, "invalid-query")


def test_too_long_region_is_rejected(site: str, make_picture: Picture, check_problem: Any) -> None:
    response = httpx.post(f"{site}/locate", params={"within": " " * 16_001}, files={"image": make_picture()})
    assert "within" in check_problem(response, 422, "invalid-request")


def test_locate_with_url_rejects_method_and_unreadable_region_file(tmp_path: Path, make_picture: Picture) -> None:
    (tmp_path / "photo.jpg").write_bytes(make_picture(1))
    refused = CliRunner().invoke(app, ["locate", str(tmp_path / "photo.jpg"), "--url", "http://x", "--method", "noise"])
    assert refused.exit_code == 2
    missing = CliRunner().invoke(
        app, ["locate", str(tmp_path / "photo.jpg"), "--url", "http://x", "--within", str(tmp_path / "no.json")]
    )
    assert missing.exit_code == 2
    assert "cannot be read" in unwrapped(missing.output)


def test_locate_with_url_sends_prior_and_region(
    site: str, believing: Locator, tmp_path: Path, make_picture: Picture
) -> None:
    (tmp_path / "photo.jpg").write_bytes(make_picture(1))
    (tmp_path / "area.json").write_text(json.dumps(TRIANGLE))
    asked = ["locate", str(tmp_path / "photo.jpg"), "--url", site, "--json", "--prior", "two"]
    done = CliRunner().invoke(app, [*asked, "--within", str(tmp_path / "area.json")])
    assert done.exit_code == 0, done.output
    query = LocateQuery(prior="two", within=Region.of_geojson(TRIANGLE))
    assert without_timing(json.loads(done.stdout)) == direct(believing, make_picture(1), query)
