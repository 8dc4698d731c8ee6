"""Builds and fetches that got nothing fail, say what came instead, and leave nothing to stumble over."""

import re
from pathlib import Path
from typing import Any

import pytest
from workbench import MemorySource, Server, tile_bytes, write_folder

import indexer.build.inputs
from indexer.build.area import Area
from indexer.build.build import build_index
from indexer.build.fetch import FetchRequest, fetch_servers
from indexer.build.request import BuildReport, BuildRequest, Encoders
from indexer.errors import NothingFoundError, RunMismatchError
from indexer.progress import silent
from retrieval.testing.fake import FakePhotoEncoder, FakeTileEncoder
from tile_cache.addressing import Tile
from tile_cache.errors import StoreError
from tile_cache.fetch.settings import FetchSettings

FAST = FetchSettings(rate_per_s=float("inf"), attempts=1, backoff_s=0.0, flush_s=0.05)
BOX = (0.0, 10.0, 60.0, 60.0)


def build(out: Path, source: str, **changes: Any) -> BuildReport:
    options: dict[str, Any] = {"zooms": (2, 4), "area": Area(bbox=BOX), "fetch": FAST, "threads": 2} | changes
    request = BuildRequest(source=source, out=out, cache=out.parent / "cache.mbtiles", **options)
    return build_index(request, encoders=Encoders(FakePhotoEncoder(), FakeTileEncoder()))


def test_server_without_one_tile_fails_the_build_and_says_what_came(server: Server, tmp_path: Path) -> None:
    server.answer = lambda tile: None if tile.z == 2 else b"<html>please log in</html>"
    with pytest.raises(NothingFoundError) as caught:
        build(tmp_path / "index", server.url)
    assert re.search(
        r"not one of \d+ tiles is an image: \d x HTTP 404, \d+ x HTML instead of an image", str(caught.value)
    )
    assert f"e.g. http://127.0.0.1:{server.port}/2/" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["cache.mbtiles"]


def test_next_attempt_asks_again_and_may_have_another_source(server: Server, tmp_path: Path) -> None:
    server.answer = lambda tile: None
    with pytest.raises(NothingFoundError):
        build(tmp_path / "index", server.url)
    server.answer = tile_bytes
    assert sum(build(tmp_path / "index", server.url).vectors.values()) > 0
    other = write_folder(tmp_path / "tiles", {Tile(9, 5, 4): tile_bytes(Tile(9, 5, 4))})
    assert build(tmp_path / "other", str(other), zooms=(4,)).vectors == {4: 1}


@pytest.mark.parametrize("data", [None, b"text", b"<html>"])
def test_local_source_without_imagery_fails_the_build(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes | None
) -> None:
    real = indexer.build.inputs.open_source
    memory = MemorySource(lambda tile: data)
    monkeypatch.setattr(indexer.build.inputs, "open_source", lambda spec: memory if spec == "memory" else real(spec))
    with pytest.raises(NothingFoundError, match=r"no tile of memory in this area has imagery.*--rows-only"):
        build(tmp_path / "index", "memory")
    assert not list(tmp_path.iterdir())
    assert build(tmp_path / "rows", "memory", rows_only=True).rows


def test_overlay_without_one_tile_fails_the_build(server: Server, tmp_path: Path) -> None:
    base = write_folder(tmp_path / "tiles", {Tile(9, 5, 4): tile_bytes(Tile(9, 5, 4))})
    server.answer = lambda tile: None
    with pytest.raises(NothingFoundError, match="x HTTP 404"):
        build(tmp_path / "index", str(base), zooms=(4,), overlay=server.url)


def test_statuses_named_as_absent_belong_to_the_builds_identity(server: Server, tmp_path: Path) -> None:
    out = tmp_path / "index"
    build(out, server.url)
    named = FetchSettings(rate_per_s=float("inf"), absent_statuses=frozenset((204, 403, 404, 410)))
    with pytest.raises(Exception, match="made with other arguments") as caught:
        build(out, server.url, fetch=named)
    assert not isinstance(caught.value, RunMismatchError)


def test_complete_cache_on_a_read_only_disk_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That SQLite reads it there is a test of the store; root, who runs some tests, may write anywhere."""
    cache = tmp_path / "cache.mbtiles"

    def request(*zooms: int) -> FetchRequest:
        return FetchRequest(source=server.url, zooms=zooms, area=Area(bbox=BOX), cache=cache, fetch=FAST)

    stored = fetch_servers(request(2), silent)[0]["kept"]
    monkeypatch.setattr("indexer.build.fetch.is_writable", lambda path: False)
    before = cache.read_bytes()
    assert fetch_servers(request(2), silent)[0]["known"] == stored
    with pytest.raises(StoreError, match=r"cannot be written, and \d+ tiles of zoom 4 are not in it"):
        fetch_servers(request(2, 4), silent)
    assert cache.read_bytes() == before
