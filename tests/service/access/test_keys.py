"""API keys: the key file, access, and rate limits."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from retrieval.locator import Locator
from service.access.admission import Rates, check_exposure
from service.access.keys import KeyRing, add_key, remove_key
from service.errors import KeyFileError, RateLimitedError, SettingsError
from service.settings import Settings

Problem = Callable[[httpx.Response, int, str], str]
Picture = Callable[..., bytes]


def test_key_is_found_only_by_its_text(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    alice, bob = add_key(file, "alice", 60, admin=False), add_key(file, "bob@example.org", 0, admin=True)
    ring = KeyRing.read(file)
    key = ring.find(bob)
    assert key is not None
    assert (key.name, key.rate, key.admin) == ("bob@example.org", 0, True)
    assert ring.find(alice) is ring.keys[0]
    for wrong in ("", alice[:-1], alice.upper(), ring.keys[0].sha256, "\udcff", "alice"):
        assert ring.find(wrong) is None
    assert alice not in file.read_text()
    remove_key(file, "alice")
    assert KeyRing.read(file).find(alice) is None
    assert [path.name for path in tmp_path.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("name", ["", "a b", "a" * 65, "-x", "a\n", "anonymous", "ä"])
def test_invalid_key_name_is_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyFileError, match="cannot be a key's name"):
        add_key(tmp_path / "keys.json", name, 60, admin=False)


GOOD = {"name": "a", "sha256": "0" * 64, "rate": 1, "admin": False, "created": "2026-01-01"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("{", "is not JSON"),
        ("[]", "version 1"),
        ({"version": 2, "keys": []}, "version 1"),
        ({"version": 1}, "no list 'keys'"),
        ({"version": 1, "keys": [1]}, "must have exactly"),
        ({"version": 1, "keys": [GOOD | {"more": 1}]}, "must have exactly"),
        ({"version": 1, "keys": [GOOD | {"rate": True}]}, "rate=True"),
        ({"version": 1, "keys": [GOOD | {"rate": -1}]}, "invalid name, hash or rate"),
        ({"version": 1, "keys": [GOOD | {"admin": 1}]}, "admin=1"),
        ({"version": 1, "keys": [GOOD | {"sha256": "plain text"}]}, "invalid name, hash or rate"),
        ({"version": 1, "keys": [GOOD | {"name": "anonymous"}]}, "invalid name, hash or rate"),
        ({"version": 1, "keys": [GOOD, GOOD]}, "the same name twice"),
    ],
)
def test_invalid_key_file_is_rejected_with_reason(tmp_path: Path, document: Any, expected: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(KeyFileError, match=expected) as caught:
        KeyRing.read(file)
    assert str(file) in str(caught.value)
    with pytest.raises(KeyFileError, match="key new"):
        KeyRing.read(tmp_path / "none.json")


def test_bucket_holds_one_minute_and_refills_steadily() -> None:
    now = 100.0
    rates = Rates(lambda: now)
    for _ in range(6):
        rates.enter("a", 6)
    with pytest.raises(RateLimitedError) as caught:
        rates.enter("a", 6)
    assert caught.value.retry_after_s == 10
    rates.enter("b", 6)  # has its own bucket
    now += 10
    rates.enter("a", 6)
    rates.charge("a", 6, 30)  # a batch may leave a debt
    now += 300
    with pytest.raises(RateLimitedError, match="in 10 s"):
        rates.enter("a", 6)
    now += 10_000
    rates.charge("a", 6, 5)
    rates.enter("a", 6)  # a bucket never holds more than one minute
    with pytest.raises(RateLimitedError):
        rates.enter("a", 6)
    for _ in range(100):
        rates.enter("a", 0)


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "::", "fe80::1%eth0", "::ffff:192.0.2.1"])
def test_beyond_loopback_keys_or_explicit_anonymous_access_are_required(address: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="TILEBEAM_KEYS_FILE"):
        check_exposure(address, Settings())
    check_exposure(address, Settings(allow_anonymous=True))
    check_exposure(address, Settings(keys_file="keys.json"))


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_loopback_needs_no_key(address: str) -> None:
    check_exposure(address, Settings())


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def guarded(serving: Any, locator: Locator, keys: Path) -> Iterator[tuple[httpx.Client, str]]:
    """A service that needs keys, and a key with a rate of two pictures a minute."""
    key = add_key(keys, "alice", 2, admin=False)
    with serving(locator, keys_file=str(keys)) as url, httpx.Client(base_url=url, timeout=20) as http:
        yield http, key


def test_all_routes_but_probes_and_page_need_a_key(
    guarded: tuple[httpx.Client, str], check_problem: Problem, make_picture: Picture
) -> None:
    http, key = guarded
    for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json"):
        assert http.get(path).status_code == 200, path
    schema = http.get("/openapi.json").json()["paths"]
    closed = {(method, path) for path in schema for method in schema[path]} - {("get", "/healthz"), ("get", "/readyz")}
    assert {("post", "/locate"), ("post", "/locate/batch"), ("get", "/index"), ("get", "/metrics")} <= closed
    for method, path in closed:
        refused = http.request(method, path.format(z=0, x=0, y=0))
        assert "Bearer KEY" in check_problem(refused, 401, "unauthorized")
        assert refused.headers["www-authenticate"] == "Bearer"
    for headers in (
        {"Authorization": "Bearer nope"},
        {"X-API-Key": key[:-1]},
        {"X-API-Key": "\u00e9".encode("latin-1")},
    ):
        check_problem(http.get("/index", headers=headers), 401, "unauthorized")
    assert http.get(f"/index?key={key}").status_code == 401  # not accepted: addresses are logged
    for headers in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer  {key}"}, {"X-API-Key": key}):
        assert http.get("/index", headers=headers).status_code == 200


def test_key_is_checked_before_upload_is_read(guarded: tuple[httpx.Client, str]) -> None:
    http, _ = guarded
    answer = http.post("/locate", content=b"\0" * 30_000_000, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 401


def test_key_is_limited_to_its_rate(
    guarded: tuple[httpx.Client, str], check_problem: Problem, make_picture: Picture
) -> None:
    http, key = guarded
    http.headers["X-API-Key"] = key
    assert http.post("/locate", files={"image": make_picture()}).status_code == 200
    files = [("images", (str(i), make_picture(i))) for i in range(4)]
    assert len(http.post("/locate/batch", files=files).text.splitlines()) == 4
    for route, field in (("/locate", "image"), ("/locate/batch", "images")):
        refused = http.post(route, files={field: make_picture()})
        assert "'alice' has used its 2 images a minute" in check_problem(refused, 429, "rate-limited")
        assert 90 < int(refused.headers["retry-after"]) <= 121  # three images of debt, and the next one
    assert http.get("/index").status_code == 200


def test_anonymous_requests_can_be_allowed_and_limited(
    serving: Any, locator: Locator, keys: Path, check_problem: Problem, make_picture: Picture
) -> None:
    key = add_key(keys, "alice", 0, admin=False)
    given = {"keys_file": str(keys), "allow_anonymous": True, "anonymous_rate": 1}
    with serving(locator, **given) as url, httpx.Client(base_url=url, timeout=20) as http:
        post = lambda **headers: http.post("/locate", files={"image": make_picture()}, headers=headers)  # noqa: E731
        assert post(Authorization="Basic Zm9vOmJhcg==").status_code == 200  # a proxy's own
        check_problem(post(), 429, "rate-limited")
        assert [post(**{"X-API-Key": key}).status_code for _ in range(3)] == [200] * 3
        check_problem(post(**{"X-API-Key": "tilebeam_wrong"}), 401, "unauthorized")
