"""Reloading the index: under load, with an invalid index, with keys, by SIGHUP; and old indexes are freed."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from retrieval.locator import Locator
from retrieval.testing.fake import FakePhotoEncoder, fake_pyramid, write_fake_index
from service.access.keys import add_key, remove_key
from service.reload import reopening

Problem = Callable[[httpx.Response, int, str], str]
Picture = Callable[..., bytes]


class Site:
    """A symbolic link to one of two indexes, as in a deployment, and a key file with an admin and a user."""

    def __init__(self, folder: Path) -> None:
        self.live, self.keys, self.audit = folder / "live", folder / "keys.json", folder / "audit.jsonl"
        self.indexes = [folder / "a", folder / "b"]
        for seed, directory in enumerate(self.indexes):
            directory.mkdir()
            write_fake_index(directory, fake_pyramid(seed, (4, 6, 8), 32, tiles=300))
        self.admin = {"X-API-Key": add_key(self.keys, "admin", 0, admin=True)}
        self.user = {"X-API-Key": add_key(self.keys, "user", 0, admin=False)}
        self.point_at(self.indexes[0])
        self.opened: list[weakref.ref[Locator]] = []

    def point_at(self, directory: Path) -> None:
        new = self.live.with_name("live.new")
        new.symlink_to(directory)
        os.replace(new, self.live)

    def open(self, encoder: FakePhotoEncoder | None = None) -> Locator:
        return Locator.open(self.live, encoder=encoder or FakePhotoEncoder())

    def settings(self) -> dict[str, Any]:
        again = reopening(self.live, "cpu")

        def reopen(old: Locator) -> Locator:
            new = again(old)
            self.opened.append(weakref.ref(new))
            return new

        return {"reopen": reopen, "keys_file": str(self.keys), "audit_file": str(self.audit)}

    def alive(self) -> list[bool]:
        """The locators opened by reloads that are still in memory."""
        gc.collect()
        return [locator() is not None for locator in self.opened]

    def ids(self) -> list[str]:
        return [json.loads((directory / "manifest.json").read_text())["id"] for directory in self.indexes]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@contextmanager
def load(url: str, site: Site, picture: bytes, threads: int = 4) -> Iterator[list[tuple[int, str]]]:
    """Clients that send requests continuously; yields their answers: status, and the index that answered."""
    seen: list[tuple[int, str]] = []
    ending = threading.Event()

    def single(http: httpx.Client) -> None:
        answer = http.post("/locate", files={"image": picture})
        seen.append((answer.status_code, answer.json().get("index", {}).get("id", answer.text)))

    def batch(http: httpx.Client) -> None:
        answer = http.post("/locate/batch", files=[("images", (str(i), picture)) for i in range(8)])
        for line in map(json.loads, answer.text.splitlines()):
            result = line.get("result")
            seen.append((answer.status_code if result else 0, result["index"]["id"] if result else str(line)))

    def ask(one: Callable[[httpx.Client], None]) -> None:
        with httpx.Client(base_url=url, headers=site.user, timeout=30) as http:
            while not ending.is_set():
                one(http)

    clients = [threading.Thread(target=ask, args=(batch if n == 0 else single,)) for n in range(threads)]
    for client in clients:
        client.start()
    try:
        yield seen
    finally:
        ending.set()
        for client in clients:
            client.join()


def maps_of(folder: Path) -> int:
    """Files below a folder that this process has mapped or open, once for each time."""
    me = psutil.Process()
    mapped = [entry.path for entry in me.memory_maps(grouped=False)] + [file.path for file in me.open_files()]
    return sum(str(path).startswith(f"{folder}/") for path in mapped)


@pytest.mark.parametrize("reloads", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_reloads_under_load_fail_no_request_and_free_old_indexes(
    serving: Any, site: Site, make_picture: Picture, reloads: int
) -> None:
    me, settled = psutil.Process(), reloads // 4
    with serving(site.open(), **site.settings()) as url, httpx.Client(base_url=url, timeout=60) as admin:
        admin.headers.update(site.admin)
        with load(url, site, make_picture()) as seen:
            for number in range(reloads):
                site.point_at(site.indexes[(number + 1) % 2])
                done = admin.post("/index/reload")
                assert done.status_code == 200, done.text
                assert done.json()["id"] == site.ids()[(number + 1) % 2]
                if number == settled:  # pools and caches are warm
                    handles, memory = me.num_fds(), me.memory_info().rss
            answered = len(seen)
        assert site.alive() == [False] * (reloads - 1) + [True]
        grown, opened = me.memory_info().rss - memory, me.num_fds() - handles
        print(f"{reloads} reloads, {len(seen)} pictures answered, {grown / 1e6:+.1f} MB, {opened:+d} file handles")
        assert {status for status, _ in seen} == {200}, [each for each in seen if each[0] != 200][:3]
        assert {index for _, index in seen} == set(site.ids())
        assert answered > reloads / 4
        assert opened <= 3
        assert grown < 30e6
        assert [maps_of(directory) for directory in site.indexes] == [0, 0]  # small indexes are read into memory


class Held(FakePhotoEncoder):
    """The fake encoder. After `hold`, it stops in the next group until the test lets it continue."""

    def __init__(self) -> None:
        super().__init__()
        self.hold, self.inside, self.go_on = threading.Event(), threading.Event(), threading.Event()

    def encode(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        if self.hold.is_set() and threading.current_thread().name.startswith("tilebeam-engine"):
            self.inside.set()
            assert self.go_on.wait(20)
        return super().encode(batch)


def test_running_pictures_finish_on_old_index_which_is_then_freed(
    serving: Any, site: Site, make_picture: Picture
) -> None:
    encoder = Held()
    with serving(site.open(encoder), **site.settings()) as url, httpx.Client(base_url=url, timeout=20) as http:
        assert http.post("/index/reload", headers=site.admin).status_code == 200  # this test holds the first index
        assert http.get("/readyz").status_code == 200
        encoder.hold.set()
        answers: list[httpx.Response] = []
        ask = lambda: answers.append(httpx.post(f"{url}/locate", files={"image": make_picture()}, headers=site.user))  # noqa: E731
        asking = threading.Thread(target=ask)
        asking.start()
        assert encoder.inside.wait(20)
        site.point_at(site.indexes[1])
        assert http.post("/index/reload", headers=site.admin).json()["previous"]["id"] == site.ids()[0]
        assert http.get("/index", headers=site.user).json()["id"] == site.ids()[1]
        encoder.go_on.set()
        asking.join()
        assert answers[0].json()["index"]["id"] == site.ids()[0]
        assert site.alive() == [False, True]
        later = http.post("/locate", files={"image": make_picture()}, headers=site.user)
        assert later.json()["index"]["id"] == site.ids()[1]
        metrics = http.get("/metrics", headers=site.user).text
        assert (site.ids()[1] in metrics, site.ids()[0] in metrics) == (True, False)


def test_invalid_index_is_refused_and_old_index_stays_in_use(
    serving: Any, site: Site, make_picture: Picture, check_problem: Problem, tmp_path: Path
) -> None:
    damaged, other, nan = tmp_path / "damaged", tmp_path / "other", tmp_path / "nan"
    shutil.copytree(site.indexes[1], damaged)
    os.truncate(next(damaged.glob("z08-*.faiss")), 1000)
    other.mkdir()
    write_fake_index(other, fake_pyramid(3, (4, 6), 16), photo=FakePhotoEncoder(16))
    shutil.copytree(site.indexes[1], nan)
    (nan / "manifest.json").write_text('{"format_version": 99}')
    with serving(site.open(), **site.settings()) as url, httpx.Client(base_url=url, timeout=60) as http:
        with load(url, site, make_picture(), threads=2) as seen:
            # Loading another encoder imports PyTorch, which takes a while.
            for bad in (damaged, other, nan, tmp_path / "missing"):
                site.point_at(bad)
                detail = check_problem(http.post("/index/reload", headers=site.admin), 409, "reload-refused")
                assert "the old index stays in use" in detail
        assert {each for each in seen if each != (200, site.ids()[0])} == set()
        assert http.get("/index", headers=site.user).json()["id"] == site.ids()[0]
        assert http.get("/readyz").status_code == 200


def nested(directory: Path) -> None:
    (directory / "manifest.json").write_text("[" * 100_000 + "]" * 100_000)


def infinite(directory: Path) -> None:
    text = (directory / "manifest.json").read_text()
    (directory / "manifest.json").write_text(text.replace('"dim": 32', '"dim": 1e999', 1))


def waiting(directory: Path) -> None:
    os.mkfifo(directory / "calibration.json")


def endless(directory: Path) -> None:
    (directory / "calibration.json").symlink_to("/dev/zero")


def without_priors(directory: Path) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    (directory / "manifest.json").write_text(json.dumps(manifest | {"priors": []}))


@pytest.mark.timeout(60)
def test_hostile_index_is_refused_with_409_and_the_next_one_is_loaded(
    serving: Any, site: Site, check_problem: Problem, tmp_path: Path
) -> None:
    with serving(site.open(), **site.settings()) as url, httpx.Client(base_url=url, timeout=20) as http:
        for harm in (nested, infinite, waiting, endless, without_priors):
            bad = tmp_path / harm.__name__
            shutil.copytree(site.indexes[1], bad)
            harm(bad)
            site.point_at(bad)
            detail = check_problem(http.post("/index/reload", headers=site.admin), 409, "reload-refused")
            assert "the old index stays in use" in detail
        site.point_at(site.indexes[1])
        assert http.post("/index/reload", headers=site.admin).json()["id"] == site.ids()[1]
        site.keys.write_text("[" * 100_000 + "]" * 100_000)
        check_problem(http.post("/index/reload", headers=site.admin), 409, "reload-refused")


def test_any_failure_to_open_is_a_409_and_one_line_after_sighup(
    serving: Any, site: Site, check_problem: Problem, caplog: pytest.LogCaptureFixture
) -> None:
    def exhausted(old: Locator) -> Locator:
        raise MemoryError

    with serving(site.open(), **site.settings() | {"reopen": exhausted}) as url:
        answer = httpx.post(f"{url}/index/reload", headers=site.admin)
        assert "the log has the reason" in check_problem(answer, 409, "reload-refused")
        assert httpx.get(f"{url}/index", headers=site.admin).json()["id"] == site.ids()[0]
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["reload refused"]


def test_reload_needs_admin_key_and_reads_keys_again(
    serving: Any, locator: Locator, site: Site, check_problem: Problem
) -> None:
    with serving(site.open(), **site.settings()) as url, httpx.Client(base_url=url, timeout=20) as http:
        check_problem(http.post("/index/reload"), 401, "unauthorized")
        assert "--admin" in check_problem(http.post("/index/reload", headers=site.user), 403, "forbidden")
        remove_key(site.keys, "user")
        assert http.get("/index", headers=site.user).status_code == 200
        site.audit.rename(site.audit.with_name("old.jsonl"))
        assert http.post("/index/reload", headers=site.admin).status_code == 200
        assert http.get("/index", headers=site.user).status_code == 401
        assert site.audit.exists()
        site.keys.write_text("{}")
        detail = check_problem(http.post("/index/reload", headers=site.admin), 409, "reload-refused")
        assert str(site.keys) in detail
        assert http.get("/index", headers=site.admin).status_code == 200
    with serving(locator) as url:  # on loopback, without keys
        check_problem(httpx.post(f"{url}/index/reload"), 403, "forbidden")


HANGUP = """
import sys
from pathlib import Path
from retrieval.testing.fake import FakePhotoEncoder
from retrieval.locator import Locator
from service.app import create_app
from service.ops.logs import capture_everything, configure
from service.reload import reopening
from service.serving import listen, run
from service.settings import Settings

live = Path(sys.argv[1])
configure("info")
settings, listener = Settings(keys_file=sys.argv[2] if sys.argv[2:] else ""), listen("127.0.0.1", 0)
app = create_app(settings, Locator.open(live, encoder=FakePhotoEncoder()), reopening(live, "cpu"))
capture_everything()
print(listener.getsockname()[1], flush=True)
run(app, listener, settings)
"""


def without_a_file(directory: Path) -> None:
    next(directory.glob("z08-*.tiles.npy")).unlink()


def cut_off(directory: Path) -> None:
    os.truncate(next(directory.glob("z08-*.faiss")), 1000)


def with_a_damaged_calibration(directory: Path) -> None:
    (directory / "calibration.json").write_text('{"format": "tilebeam-calibration", "version": 2, "zooms": [[]]}')


def with_a_damaged_prior(directory: Path) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    priors = {"priors": {"density": {"kind": "density", "fingerprint": "x"}}, "prior": "density"}
    (directory / "manifest.json").write_text(json.dumps(manifest | priors))
    (directory / "priors/density").mkdir(parents=True)
    (directory / "priors/density/prior.json").write_text("[" * 100_000)


def with_another_encoder(directory: Path) -> None:
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["photo_encoder"] |= {"fingerprint": "f" * 64, "spec": "hf-hub:attacker/model"}
    manifest["id"] = "unknown"
    (directory / "manifest.json").write_text(json.dumps(manifest))


HARMS = (nested, infinite, waiting, endless, without_priors, without_a_file, cut_off)
HARMS += (with_a_damaged_calibration, with_a_damaged_prior, with_another_encoder)


@pytest.mark.timeout(120)
def test_damaged_artefacts_are_one_line_after_sighup_and_a_409_over_http(
    site: Site, make_picture: Picture, check_problem: Problem, tmp_path: Path
) -> None:
    """A service in its own process: the old index serves on after each of them, and the next good one is loaded."""
    command = [sys.executable, "-c", HANGUP, str(site.live), str(site.keys)]
    log = tmp_path / "log"
    with (
        open(log, "wb") as stderr,
        subprocess.Popen(
            command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            with httpx.Client(base_url=url, headers=site.admin, timeout=30) as http:
                assert http.get("/index").json()["id"] == site.ids()[0]
                for number, harm in enumerate(HARMS, start=1):
                    bad = tmp_path / harm.__name__
                    shutil.copytree(site.indexes[1], bad)
                    harm(bad)
                    site.point_at(bad)
                    process.send_signal(signal.SIGHUP)
                    wait_until(lambda number=number: len(lines_of(log, "ERROR")) >= 2 * number - 1)
                    detail = check_problem(http.post("/index/reload"), 409, "reload-refused")
                    assert "the old index stays in use" in detail
                    wait_until(lambda number=number: len(lines_of(log, "ERROR")) >= 2 * number)
                    answer = http.post("/locate", files={"image": make_picture()})
                    assert answer.json()["index"]["id"] == site.ids()[0]
                site.point_at(site.indexes[1])
                process.send_signal(signal.SIGHUP)
                wait_until(lambda: http.get("/index").json()["id"] == site.ids()[1])
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
    errors = lines_of(log, "ERROR")
    assert len(errors) == 2 * len(HARMS)
    assert all(line["message"].startswith("reload refused: ") for line in errors), errors
    assert "never retrieved" not in log.read_text()


def lines_of(log: Path, level: str) -> list[dict[str, Any]]:
    """The whole lines of a level; all lines are JSON."""
    lines = [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line["level"].upper() == level]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_sighup_reloads_and_invalid_index_is_survived(site: Site) -> None:
    command = [sys.executable, "-c", HANGUP, str(site.live)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = f"http://127.0.0.1:{int(process.stdout.readline())}"
            shown = lambda: httpx.get(f"{url}/index", timeout=20).json()["id"]  # noqa: E731
            assert shown() == site.ids()[0]
            site.point_at(site.keys.parent / "missing")
            process.send_signal(signal.SIGHUP)
            time.sleep(0.3)
            assert shown() == site.ids()[0]
            site.point_at(site.indexes[1])
            process.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 20
            while shown() != site.ids()[1]:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
