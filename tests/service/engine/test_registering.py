"""Registration has places and turns of its own: a caller who floods it keeps nobody from being answered.

The reference here waits until a test lets it pass, so that what is in line is known.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval.locator import Locator
from retrieval.registrar import Registrar
from retrieval.registration.fields import Layer
from service.access.keys import add_key
from tests.support.decoding_processes import until

Picture = Callable[..., bytes]
Keys = tuple[str, str, str]


class GatedGround:
    """Noise as the ground; `layers` waits for the gate."""

    identity = "gated"

    def __init__(self) -> None:
        self.gate, self.entered = threading.Event(), threading.Semaphore(0)

    def layers(self, lng: NDArray[np.float64], lat: NDArray[np.float64], pixel_km: float) -> list[Layer]:
        self.entered.release()
        assert self.gate.wait(60)
        return [(np.random.default_rng(0).uniform(0, 255, (3, *lng.shape)).astype(np.float32), 1.0)]


@pytest.fixture
def ground(monkeypatch: pytest.MonkeyPatch) -> Iterator[GatedGround]:
    """What every index's pictures are compared with."""
    ground = GatedGround()
    monkeypatch.setattr(Registrar, "of", lambda *_, **__: Registrar(ground))
    yield ground
    ground.gate.set()


@pytest.fixture
def here(index_dir: Path, locator: Locator, ground: GatedGround) -> Locator:
    return Locator.open(index_dir, encoder=locator.encoder)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str, str, str]:
    """A key file, and the keys of alice and bob."""
    file = tmp_path / "keys.json"
    return str(file), add_key(file, "alice", 0, admin=False), add_key(file, "bob", 0, admin=False)


def ask(url: str, data: bytes, key: str, register: str) -> httpx.Response:
    headers = {"X-API-Key": key}
    return httpx.post(f"{url}/locate?register={register}", files={"image": data}, headers=headers, timeout=60)


def scraped(url: str, key: str) -> str:
    return httpx.get(f"{url}/metrics", headers={"X-API-Key": key}).text


LIMITS = {"registration": "on", "max_registering": 4, "registration_timeout_s": 0.2}


def test_a_flood_of_one_caller_leaves_the_others_answered(
    serving: Any,
    here: Locator,
    ground: GatedGround,
    make_picture: Picture,
    keys: Keys,
    check_problem: Any,
) -> None:
    file, alice, bob = keys
    data = make_picture()
    with serving(here, keys_file=file, **LIMITS) as url, ThreadPoolExecutor(8) as pool:
        until(lambda: ask(url, data, bob, "off").status_code == 200)
        flood = [pool.submit(ask, url, data, alice, "on") for _ in range(2)]
        assert ground.entered.acquire(timeout=60)  # one is in the thread, the other in line
        until(lambda: "\ntilebeam_registering_images 2.0\n" in scraped(url, bob))
        refused = ask(url, data, alice, "on")
        assert "2 pictures to register of yours" in check_problem(refused, 503, "overloaded")
        assert int(refused.headers["Retry-After"]) >= 1
        assert ask(url, data, alice, "off").status_code == ask(url, data, bob, "off").status_code == 200
        skipped = ask(url, data, alice, "auto").json()
        assert skipped["registration"] is None
        assert "2 pictures to register of yours" in skipped["registration_reason"]
        assert "register" not in skipped["timing_ms"]
        others = pool.submit(ask, url, data, bob, "on")
        ground.gate.set()
        for waiting in (*flood, others):
            answer = waiting.result().json()
            assert answer["registration"]["accepted"] is False
            assert answer["timing_ms"]["register"] > 0
        metrics = scraped(url, bob)
    assert 'tilebeam_registrations_total{result="rejected"} 3.0' in metrics
    assert 'tilebeam_registrations_total{result="skipped"} 1.0' in metrics
    assert 'tilebeam_overloads_total{bound="registrations"}' in metrics


def test_a_batch_waits_for_its_turns(
    serving: Any, here: Locator, ground: GatedGround, make_picture: Picture, keys: Keys
) -> None:
    file, alice, bob = keys
    pictures = [("images", (f"{n}.jpg", make_picture(n))) for n in range(6)]
    with serving(here, keys_file=file, **LIMITS) as url, ThreadPoolExecutor(2) as pool:
        until(lambda: ask(url, make_picture(), bob, "off").status_code == 200)
        batch = pool.submit(
            httpx.post, f"{url}/locate/batch?register=on", files=pictures, headers={"X-API-Key": alice}, timeout=60
        )
        assert ground.entered.acquire(timeout=60)
        assert ask(url, make_picture(), bob, "off").status_code == 200
        ground.gate.set()
        lines = [json.loads(line) for line in batch.result().text.splitlines()]
    assert [line["index"] for line in lines] == list(range(6))
    assert all(line["result"]["registration"]["accepted"] is False for line in lines)


def test_a_client_that_leaves_frees_its_place(
    serving: Any, here: Locator, ground: GatedGround, make_picture: Picture, keys: Keys
) -> None:
    file, alice, bob = keys
    data = make_picture()
    with serving(here, keys_file=file, **LIMITS | {"max_registering": 1}) as url:
        until(lambda: ask(url, data, bob, "off").status_code == 200)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{url}/locate?register=on",
                files={"image": data},
                headers={"X-API-Key": alice},
                timeout=httpx.Timeout(60, read=2),
            )
        ground.gate.set()
        until(lambda: ask(url, data, bob, "on").status_code == 200)
