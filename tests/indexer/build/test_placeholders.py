"""Pictures that say "no data here": reported with count and hash, left out when named, and part of the identity."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from workbench import MemorySource, encoded, picture, tile_bytes

import indexer.build.inputs
from indexer.build.area import Area
from indexer.build.build import build_index
from indexer.build.compose import Composer
from indexer.build.report import report_in_words
from indexer.build.request import BuildReport, BuildRequest, Encoders
from indexer.errors import BuildError, NothingFoundError
from retrieval.testing.fake import FakePhotoEncoder, FakeTileEncoder
from tile_cache.addressing import Tile
from tile_cache.fetch.settings import FetchSettings
from tile_cache.repeats import picture_hash

PLACEHOLDER = encoded(picture(12345))
HASH = picture_hash(PLACEHOLDER)
SEA = encoded(Image.new("RGB", (16, 16), (10, 20, 60)))


def answer(tile: Tile) -> bytes:
    if tile.y % 4 == 3:
        return SEA
    return PLACEHOLDER if (tile.x + tile.y) % 2 else tile_bytes(tile)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> MemorySource:
    memory = MemorySource(answer)
    monkeypatch.setattr(indexer.build.inputs, "open_source", lambda spec: memory)
    return memory


def build(out: Path, absent: frozenset[str] = frozenset(), **changes: Any) -> BuildReport:
    options: dict[str, Any] = {"zooms": (3, 4), "area": Area(), "threads": 2, "unit_rows": 32} | changes
    request = BuildRequest(source="memory", out=out, fetch=FetchSettings(absent_images=absent), **options)
    return build_index(request, encoders=Encoders(FakePhotoEncoder(), FakeTileEncoder(contexts={4: 1.0})))


def placeholders(zoom: int) -> int:
    size = 1 << zoom
    return sum(answer(Tile(x, y, zoom)) == PLACEHOLDER for x in range(size) for y in range(size))


def test_repeated_picture_is_reported_and_open_sea_is_not(tmp_path: Path, source: MemorySource) -> None:
    report = build(tmp_path / "index")
    (found,) = report.repeated
    assert (found["sha256"], found["tiles"]) == (HASH, 64 + 256)
    assert found["count"] == placeholders(3) + placeholders(4)
    z, x, y = map(int, found["example"].split("/"))
    assert answer(Tile(x, y, z)) == PLACEHOLDER
    assert any(f"--absent-image {HASH}" in line for line in report_in_words(report))


def test_named_picture_is_no_imagery_and_still_reported(tmp_path: Path, source: MemorySource) -> None:
    report = build(tmp_path / "index", frozenset([HASH]))
    assert report.problems.missing == placeholders(3) + placeholders(4)
    assert report.vectors[4] == 256 - placeholders(4)
    assert report.inferred[3] > 0
    assert any("they count as tiles without imagery" in line and HASH in line for line in report_in_words(report))
    assert report.to_json()["repeated"][0]["sha256"] == HASH


def test_named_picture_does_not_fill_margins(source: MemorySource) -> None:
    tile = Tile(2, 2, 4)
    plain = Composer(source, None, 48, 1.0).compose(tile).pixels
    named = Composer(source, None, 48, 1.0, frozenset([HASH])).compose(tile).pixels
    own = np.asarray(picture((4 << 40) + (2 << 20) + 2))
    assert plain is not None
    assert named is not None
    np.testing.assert_array_equal(named[16:32, :16], np.repeat(own[:, :1], 16, axis=1))
    assert not np.array_equal(plain, named)


def test_name_belongs_to_the_identity_and_other_builds_keep_theirs(tmp_path: Path, source: MemorySource) -> None:
    out = tmp_path / "index"
    build(out)
    assert "absent images" not in json.loads((out / "plan.json").read_text())
    assert build(out).already
    with pytest.raises(BuildError, match="made with other arguments"):
        build(out, frozenset([HASH]))
    build(out, frozenset([HASH]), overwrite=True)
    assert json.loads((out / "plan.json").read_text())["absent images"] == [HASH]


def test_resumed_build_reports_the_same(tmp_path: Path, source: MemorySource) -> None:
    whole = build(tmp_path / "whole")
    source.answer = lambda tile: _stop(tile) if tile.z == 4 and tile.y > 11 else answer(tile)
    with pytest.raises(ConnectionError):
        build(tmp_path / "index")
    source.answer = answer
    report = build(tmp_path / "index")
    assert report.kept > 0
    assert report.repeated == whole.repeated


def test_nothing_but_the_named_picture_fails(tmp_path: Path, source: MemorySource) -> None:
    source.answer = lambda tile: PLACEHOLDER
    with pytest.raises(NothingFoundError, match="320 show a picture that is named as absent"):
        build(tmp_path / "index", frozenset([HASH]))
    assert not list(tmp_path.iterdir())


def _stop(tile: Tile) -> bytes:
    raise ConnectionError("gone")
