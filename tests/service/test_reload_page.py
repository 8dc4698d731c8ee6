"""The page's map and samples after a reload; SIGHUP during start-up."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from maps import one_tile_map
from typer.testing import CliRunner

import tilebeam
from retrieval.locator import Locator
from retrieval.testing.fake import FakePhotoEncoder, fake_pyramid, write_fake_index
from service import serving as serving_module
from service.access.keys import add_key
from service.errors import SettingsError

Problem = Callable[[httpx.Response, int, str], str]


class Swaps:
    """Opens, at each reload, an index whose tile source has the name `source`."""

    def __init__(self, directory: Path, source: str) -> None:
        write_fake_index(directory, fake_pyramid(1, (4, 6), 32, tiles=60))
        self._directory, self.source = directory, source
        self.key = add_key(directory / "keys.json", "admin", 0, admin=True)
        self.settings = {"keys_file": str(directory / "keys.json"), "reopen": self.reopen}

    def reopen(self, old: Locator | None = None) -> Locator:
        locator = Locator.open(self._directory, encoder=FakePhotoEncoder())
        locator.index.manifest = replace(locator.index.manifest, source={"name": self.source, "identity": self.source})
        return locator

    @contextmanager
    def client(self, url: str) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=url, headers={"X-API-Key": self.key}, timeout=60) as http:
            yield http


def test_map_and_samples_follow_loaded_index(serving: Any, tmp_path: Path) -> None:
    swaps = Swaps(tmp_path, "somewhere")
    with serving(swaps.reopen(), **swaps.settings) as url, swaps.client(url) as http:
        paths = ("/tiles", "/tiles/4/8/5", "/static/samples/samples.json", "/static/samples/sample-1.jpg")
        for source, status in (("somewhere", 404), ("bluemarble", 200), ("bluemarble", 200), ("elsewhere", 404)):
            swaps.source = source
            assert http.post("/index/reload").status_code == 200
            assert [http.get(path).status_code for path in paths] == [status] * 4


def test_replaced_tiles_get_a_new_address(serving: Any, tmp_path: Path) -> None:
    swaps, folder = Swaps(tmp_path, "somewhere"), one_tile_map(tmp_path / "map", "red")
    with serving(swaps.reopen(), tiles=str(folder), **swaps.settings) as url, swaps.client(url) as http:
        before, red = http.get("/tiles").json(), http.get("/tiles/0/0/0").content
        assert http.get("/tiles/0/0/0", params={"of": "x"}).content == red
        folder.rename(tmp_path / "old")
        one_tile_map(tmp_path / "map", "blue")
        assert http.get("/tiles/0/0/0").content == red  # cached: without a reload, the change is not noticed
        assert http.post("/index/reload").status_code == 200
        assert http.get("/tiles/0/0/0").content != red
        assert http.get("/tiles").json()["tiles"] != before["tiles"]


def test_reload_is_refused_if_map_is_missing(serving: Any, tmp_path: Path, check_problem: Problem) -> None:
    swaps, folder = Swaps(tmp_path, "somewhere"), one_tile_map(tmp_path / "map", "red")
    with serving(swaps.reopen(), tiles=str(folder), **swaps.settings) as url, swaps.client(url) as http:
        red = http.get("/tiles/0/0/0").content
        folder.rename(tmp_path / "old")
        detail = check_problem(http.post("/index/reload"), 409, "reload-refused")
        assert "TILEBEAM_TILES=" in detail
        assert http.get("/tiles/0/0/0").content == red
        assert http.get("/readyz").status_code == 200


def test_no_tile_request_fails_while_source_is_replaced(serving: Any, tmp_path: Path) -> None:
    swaps, folder = Swaps(tmp_path, "somewhere"), one_tile_map(tmp_path / "map", "red")
    seen: list[int] = []
    ending = threading.Event()

    def look(url: str) -> None:
        with swaps.client(url) as http:
            while not ending.is_set():
                seen.append(http.get(f"/tiles/0/0/{len(seen) % 2}").status_code)  # the second tile does not exist

    with serving(swaps.reopen(), tiles=str(folder), **swaps.settings) as url, swaps.client(url) as http:
        lookers = [threading.Thread(target=look, args=(url,)) for _ in range(3)]
        for looker in lookers:
            looker.start()
        try:
            assert {http.post("/index/reload").status_code for _ in range(20)} == {200}
        finally:
            ending.set()
            for looker in lookers:
                looker.join()
    assert set(seen) == {200, 404}
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("tilebeam-tiles")] == []


EARLY_HANGUP = """
import sys
from service import serving
serving.remember_hangup()
print("noting", flush=True)
sys.stdin.readline()
from pathlib import Path
from retrieval.testing.fake import FakePhotoEncoder
from retrieval.locator import Locator
from service.app import create_app
from service.reload import reopening
from service.serving import listen, run
from service.settings import Settings

live = Path(sys.argv[1])
settings, listener = Settings(), listen("127.0.0.1", 0)
app = create_app(settings, Locator.open(live, encoder=FakePhotoEncoder()), reopening(live, "cpu"))
print("opened", flush=True)
sys.stdin.readline()
print(listener.getsockname()[1], flush=True)
run(app, listener, settings)
"""


def test_sighup_during_start_up_reloads_later(tmp_path: Path) -> None:
    first, second, live = tmp_path / "a", tmp_path / "b", tmp_path / "live"
    for seed, directory in enumerate((first, second)):
        write_fake_index(directory, fake_pyramid(seed, (4, 6), 32, tiles=60))
    live.symlink_to(first)
    command = [sys.executable, "-c", EARLY_HANGUP, str(live)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], **pipes) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "noting\n"
            process.send_signal(signal.SIGHUP)
            print(file=process.stdin, flush=True)
            assert process.stdout.readline() == "opened\n"
            live.unlink()
            live.symlink_to(second)
            print(file=process.stdin, flush=True)
            url, wanted = (
                f"http://127.0.0.1:{int(process.stdout.readline())}",
                json.loads((second / "manifest.json").read_text()),
            )
            deadline = time.monotonic() + 20
            while httpx.get(f"{url}/index", timeout=20).json()["id"] != wanted["id"]:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()


def test_serve_handles_sighup_before_it_loads_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def reading(**given: Any) -> None:
        signal.raise_signal(signal.SIGHUP)
        raise SettingsError("far enough")

    monkeypatch.setattr("service.settings.Settings.from_env", reading)
    before = signal.getsignal(signal.SIGHUP)
    try:
        assert not serving_module.hangup_was_remembered()
        assert CliRunner().invoke(tilebeam.app, ["serve", "--index", str(tmp_path / "none")]).exit_code == 1
        assert serving_module.hangup_was_remembered()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not serving_module.hangup_was_remembered()
