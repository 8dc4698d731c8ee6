"""Whole builds: every vector against a direct encoding, missing imagery, resuming, and folders that are taken."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from workbench import MemorySource, Server, contents, encoded, tile_bytes, write_folder

import indexer.build.inputs
from indexer.build.area import Area
from indexer.build.build import build_index
from indexer.build.compose import Composer
from indexer.build.coverage import Coverage
from indexer.build.request import BuildReport, BuildRequest, Encoders
from indexer.build.workdir import open_workdir
from indexer.errors import BuildError, CoverageError, ExistingIndexError, RunLockedError, RunMismatchError
from indexer.progress import Progress
from retrieval.errors import CalibrationError, IndexMissingError, RegionError
from retrieval.geo.region import Region
from retrieval.index.calibration import Calibration, ZoomNumbers
from retrieval.index.manifest import Manifest
from retrieval.index.reader import TileIndex
from retrieval.testing.fake import FakePhotoEncoder, FakeTileEncoder
from retrieval.verify import verify
from tile_cache.addressing import Tile, centres_of_codes, tile_of_code
from tile_cache.errors import SourceError, SourceUnavailableError
from tile_cache.fetch.settings import FetchSettings

BOX = (160.0, -40.0, -150.0, 20.0)  # across the date line
ZOOMS = (3, 5, 6)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> MemorySource:
    """The source that `--source memory` opens; other sources open as usual."""
    memory = MemorySource()
    opened = {"memory": memory}
    real = indexer.build.inputs.open_source
    monkeypatch.setattr(indexer.build.inputs, "open_source", lambda spec: opened.get(spec) or real(spec))
    return memory


def build(out: Path, maps: FakeTileEncoder | None = None, **changes: Any) -> BuildReport:
    options: dict[str, Any] = {"source": "memory", "zooms": ZOOMS, "area": Area(bbox=BOX), "unit_rows": 32}
    options |= {"shard_rows": 40, "threads": 2} | changes
    encoders = Encoders(FakePhotoEncoder(), maps or FakeTileEncoder())
    return build_index(BuildRequest(out=out, **options), encoders=encoders)


def vectors_of(directory: Path) -> dict[Tile, np.ndarray]:
    """Every tile that has a vector, read back through FAISS."""
    index = TileIndex.open(directory)
    dtype = {"fp16": "<f2", "fp32": "<f4"}[index.manifest.codec]
    vectors = {}
    for level in index.levels:
        for number, shard in enumerate(level.shards):
            for parent in range(shard.lists):
                stored = shard.stored(parent).view(dtype).astype(np.float32)
                for row, vector in zip(shard.rows_of(parent) + level.first_rows[number], stored, strict=True):
                    vectors[tile_of_code(int(level.codes[row]), level.zoom)] = vector
    return vectors


def covered(zoom: int) -> list[Tile]:
    coverage = Coverage.of(ZOOMS, Region.from_bbox(*BOX))
    return [tile_of_code(int(c), zoom) for codes in coverage.chunks(zoom) for c in codes]


@pytest.mark.parametrize(("codec", "atol"), [("fp32", 1e-6), ("fp16", 5e-4)])
def test_every_row_is_the_direct_encoding_of_its_composed_picture(
    tmp_path: Path, source: MemorySource, codec: str, atol: float
) -> None:
    maps = FakeTileEncoder(contexts={5: 0.5, 6: 1.0})
    report = build(tmp_path / "index", maps, codec=codec)
    assert verify(tmp_path / "index") == []
    vectors = vectors_of(tmp_path / "index")
    assert report.rows == {z: len(covered(z)) for z in ZOOMS}
    assert set(vectors) == {t for z in ZOOMS for t in covered(z)}
    for z in ZOOMS:
        composer = Composer(source, None, maps.input_size, maps.context(z))
        tiles = covered(z)
        pictures = np.stack([composer.compose(t).pixels for t in tiles])
        np.testing.assert_allclose([vectors[t] for t in tiles], maps.encode(z, pictures), atol=atol)
    assert len(TileIndex.open(tmp_path / "index").levels[2].shards) == 3


def test_unit_size_threads_and_shards_do_not_change_what_is_indexed(tmp_path: Path, source: MemorySource) -> None:
    build(tmp_path / "a")
    build(tmp_path / "b", threads=5)
    build(tmp_path / "c", unit_rows=7)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    a, c = vectors_of(tmp_path / "a"), vectors_of(tmp_path / "c")
    np.testing.assert_allclose([a[t] for t in a], [c[t] for t in a], atol=1e-3)


def test_missing_and_broken_tiles_are_reported_and_parents_take_means(tmp_path: Path, source: MemorySource) -> None:
    def answer(tile: Tile) -> bytes | None:
        if tile.z == 5 and tile.x % 2:
            return None
        return b"<html>" if tile == covered(6)[5] else tile_bytes(tile)

    source.answer = answer
    report = build(tmp_path / "index", codec="fp32")
    gone = [t for t in covered(5) if t.x % 2]
    assert report.problems.missing == len(gone)
    assert report.problems.broken == 1
    assert report.inferred == {3: 0, 5: len(gone), 6: 0}
    assert verify(tmp_path / "index") == []
    vectors = vectors_of(tmp_path / "index")
    assert covered(6)[5] not in vectors
    children = [t for t in vectors if t.z == 6 and (t.x // 2, t.y // 2) == (gone[0].x, gone[0].y)]
    mean = np.sum([vectors[t] for t in children], axis=0)
    np.testing.assert_allclose(vectors[gone[0]], mean / np.linalg.norm(mean), atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "index" / "problems.jsonl").read_text().splitlines()]
    assert len(lines) == len(gone) + 1
    assert [p["reason"] for p in lines if p["z"] == 6] == ["HTML instead of an image"]


def test_broken_tile_outside_the_coverage_is_reported_once(tmp_path: Path, source: MemorySource) -> None:
    inside = set(covered(6))
    source.answer = lambda t: tile_bytes(t) if t.z < 6 or t in inside else b"rubbish"
    report = build(tmp_path / "index", FakeTileEncoder(contexts={6: 1.0}))
    ring = {Tile((t.x + dx) % 64, t.y + dy, 6) for t in inside for dx in (-1, 0, 1) for dy in (-1, 0, 1)} - inside
    assert report.problems.broken == len(ring)
    assert report.problems.missing == 0


def test_zoom_above_the_sources_first_takes_means_without_problems(tmp_path: Path, source: MemorySource) -> None:
    source.min_zoom = 5
    source.answer = lambda t: tile_bytes(t) if t.z >= 5 else None
    report = build(tmp_path / "index")
    assert report.inferred[3] == report.rows[3] == report.vectors[3]
    assert report.problems.missing == 0
    assert not (tmp_path / "index" / "problems.jsonl").exists()


def test_two_sources_are_composited_and_both_are_named(tmp_path: Path, source: MemorySource) -> None:
    red = encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 255)))
    overlay = write_folder(tmp_path / "labels", dict.fromkeys(covered(6)[:4], red))
    build(tmp_path / "index", overlay=str(overlay), codec="fp32")
    vectors = vectors_of(tmp_path / "index")
    expected = FakeTileEncoder().encode(6, np.full((1, 16, 16, 3), (255, 0, 0), dtype=np.uint8))[0]
    for tile in covered(6)[:4]:
        np.testing.assert_allclose(vectors[tile], expected, atol=1e-6)
    build(tmp_path / "plain", codec="fp32")
    assert Manifest.read(tmp_path / "index").id != Manifest.read(tmp_path / "plain").id
    assert Manifest.read(tmp_path / "index").source["overlay"] == "labels"


def test_equal_tiles_are_encoded_once_per_unit(tmp_path: Path, source: MemorySource) -> None:
    source.answer = lambda t: tile_bytes(Tile(0, 0, 0))
    report = build(tmp_path / "index")
    assert report.encoded == sum(-(-n // 32) for n in report.rows.values())


def test_same_request_is_already_built_and_another_is_refused(tmp_path: Path, source: MemorySource) -> None:
    first = build(tmp_path / "index")
    source.reads.clear()
    again = build(tmp_path / "index")
    assert again.already
    assert again.index_id == first.index_id
    assert not source.reads
    with pytest.raises(ExistingIndexError, match="--overwrite"):
        build(tmp_path / "index", codec="fp32")
    assert Manifest.read(tmp_path / "index").codec == "fp16"
    build(tmp_path / "index", codec="fp32", overwrite=True)
    assert Manifest.read(tmp_path / "index").codec == "fp32"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index"]


def test_folder_that_is_not_an_index_is_never_overwritten(tmp_path: Path, source: MemorySource) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ExistingIndexError, match="not an index"):
            build(tmp_path / "thesis", overwrite=overwrite)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExistingIndexError, match="is a file"):
        build(tmp_path / "file")
    with pytest.raises(BuildError, match="does not exist"):
        build(tmp_path / "nowhere" / "index")


def interrupted(out: Path, source: MemorySource, after: int) -> None:
    """A build that loses its source after some reads."""
    plain = source.answer
    source.reads.clear()

    def answer(tile: Tile) -> bytes | None:
        if len(source.reads) > after:
            raise SourceUnavailableError("the disk with the tiles is gone")
        return plain(tile)

    source.answer = answer
    with pytest.raises(SourceUnavailableError):
        build(out)
    source.answer = plain
    source.reads.clear()


def test_build_resumes_after_its_source_was_lost(tmp_path: Path, source: MemorySource) -> None:
    build(tmp_path / "whole")
    interrupted(tmp_path / "index", source, 100)
    with pytest.raises(IndexMissingError):
        TileIndex.open(tmp_path / "index")
    with pytest.raises(IndexMissingError):
        TileIndex.open(tmp_path / "index.partial")
    report = build(tmp_path / "index")
    assert report.kept > 0
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")


def test_resuming_with_other_arguments_is_refused_with_the_difference(tmp_path: Path, source: MemorySource) -> None:
    interrupted(tmp_path / "index", source, 100)
    with pytest.raises(RunMismatchError, match=r"codec was 'fp16' and is now 'fp32'.*--overwrite"):
        build(tmp_path / "index", codec="fp32")
    build(tmp_path / "index", codec="fp32", overwrite=True)
    assert verify(tmp_path / "index") == []


def test_root_as_out_is_refused() -> None:
    with pytest.raises(BuildError, match="give a folder in it as --out"), open_workdir(Path("/"), {}, overwrite=True):
        pass


def test_second_build_of_the_same_index_is_refused(tmp_path: Path, source: MemorySource) -> None:
    with open_workdir(tmp_path / "index", {"a": 1}), pytest.raises(RunLockedError, match="another build"):
        build(tmp_path / "index")


def test_leftovers_of_a_kill_after_publishing_are_removed(tmp_path: Path, source: MemorySource) -> None:
    build(tmp_path / "index")
    left = tmp_path / "index.partial"
    left.mkdir()
    (left / "plan.json").write_bytes((tmp_path / "index" / "plan.json").read_bytes())
    assert build(tmp_path / "index").already
    assert not left.exists()


def test_damaged_units_and_codes_are_made_again(tmp_path: Path, source: MemorySource) -> None:
    build(tmp_path / "whole")
    interrupted(tmp_path / "index", source, 100)
    work = tmp_path / "index.partial"
    for path in [*work.glob("units/*/*/*.unit"), *work.glob("rows/*.npy")]:
        path.write_bytes(path.read_bytes()[:-3])
    build(tmp_path / "index")
    assert contents(tmp_path / "index") == contents(tmp_path / "whole")


SMALL: dict[str, Any] = {"zooms": (3, 6), "area": Area(bbox=(170.0, -20.0, -170.0, 10.0))}


def fast(**changes: Any) -> FetchSettings:
    return FetchSettings(**({"rate_per_s": 1e6, "attempts": 1, "flush_s": 0.02, "give_up_after": 3} | changes))


def test_server_tiles_and_margins_are_fetched_into_the_cache(tmp_path: Path, server: Server) -> None:
    inside = Coverage.of((3, 6), SMALL["area"].region())
    tiles = [tile_of_code(int(c), 6) for codes in inside.chunks(6) for c in codes]
    absent = tiles[3]
    server.answer = lambda t: None if t == absent else tile_bytes(t)
    maps = FakeTileEncoder(contexts={6: 1.0})
    options: dict[str, Any] = {"source": server.url, "cache": tmp_path / "cache", "fetch": fast()} | SMALL
    report = build(tmp_path / "index", maps, **options)
    assert report.problems.missing == 1
    assert len(server.log) == len(set(server.log)) == report.fetches[0]["kept"] + 1
    around = {Tile((t.x + dx) % 64, t.y + dy, 6) for t in tiles for dx in (-1, 0, 1) for dy in (-1, 0, 1)}
    assert {t for t in server.log if t.z == 6} == around
    server.log.clear()
    build(tmp_path / "again", maps, **options)
    assert not server.log
    assert contents(tmp_path / "index") == contents(tmp_path / "again")


def test_build_resumes_after_the_server_died(tmp_path: Path, server: Server) -> None:
    def dying(tile: Tile) -> bytes:
        if len(server.log) > 60:
            raise ConnectionAbortedError
        return tile_bytes(tile)

    server.answer = dying
    options: dict[str, Any] = {"source": server.url, "cache": tmp_path / "cache", "fetch": fast()}
    with pytest.raises(SourceUnavailableError, match="run the same command again"):
        build(tmp_path / "index", **options)
    cached = set(server.log[:50])
    server.answer = tile_bytes
    server.log.clear()
    build(tmp_path / "index", **options)
    assert not cached & set(server.log)
    assert verify(tmp_path / "index") == []


def test_overlay_and_source_have_separate_caches(tmp_path: Path, server: Server) -> None:
    base = write_folder(tmp_path / "base", {t: tile_bytes(t) for z in ZOOMS for t in covered(z)})
    build(tmp_path / "a", source=str(base), overlay=server.url, cache=tmp_path / "t.mbtiles", fetch=fast(), **SMALL)
    assert (tmp_path / "t.overlay.mbtiles").exists()
    with pytest.raises(SourceError):
        build(tmp_path / "b", source="http://127.0.0.1:9/{x}.png", cache=tmp_path / "c")


def test_zooms_beyond_the_source_and_areas_without_tiles_are_refused(tmp_path: Path, source: MemorySource) -> None:
    source.max_zoom = 5
    with pytest.raises(CoverageError, match="ends at zoom 5; zoom 6"):
        build(tmp_path / "index")
    with pytest.raises(CoverageError, match="does not know where land is"):
        build(tmp_path / "index", zooms=(3, 5), area=Area(bbox=BOX, land=0.5))
    assert not list(tmp_path.iterdir())


def test_source_that_knows_land_is_indexed_for_land_only(tmp_path: Path, source: MemorySource) -> None:
    def east(codes: np.ndarray, z: int) -> np.ndarray:
        return (centres_of_codes(codes, z)[0] > 0).astype(np.float32)

    source.land_fraction = east  # type: ignore[attr-defined]
    report = build(tmp_path / "index", zooms=(3, 5))
    assert report.rows[5] == sum(t.x > 15 for t in covered(5))
    assert build(tmp_path / "all", zooms=(3, 5), area=Area(bbox=BOX, land=0)).rows[5] == len(covered(5))
    with pytest.raises(RegionError, match="--land 0"):
        build(tmp_path / "north", area=Area(bbox=(0, 80, 10, 84)))
    with pytest.raises(CoverageError, match="no tile at zoom"):
        build(tmp_path / "west", area=Area(bbox=(-140, 10, -135, 12)))


def test_encoders_of_different_dimensions_are_refused(tmp_path: Path, source: MemorySource) -> None:
    with pytest.raises(BuildError, match="dimensions"):
        build(tmp_path / "index", FakeTileEncoder(dim=8))
    with pytest.raises(BuildError, match="codec"):
        build(tmp_path / "index", codec="int3")


def test_calibration_is_added_only_if_it_fits_the_index(tmp_path: Path, source: MemorySource) -> None:
    build(tmp_path / "plain")
    manifest = Manifest.read(tmp_path / "plain")
    numbers = {z: ZoomNumbers(0.05) for z in ZOOMS}
    fitted = Calibration(numbers, 64, manifest.coverage_hash, manifest.photo_encoder["fingerprint"])
    folder = tmp_path / "fitted"
    folder.mkdir()
    fitted.write(folder)
    assert build(tmp_path / "same", calibration=folder / "calibration.json").calibrated
    assert Calibration.read(tmp_path / "same").id == fitted.id
    assert Manifest.read(tmp_path / "same").id == manifest.id
    assert not build(tmp_path / "less", calibration=folder / "calibration.json", zooms=(3, 5)).calibrated
    assert not build(tmp_path / "none", calibration=folder / "missing" / "calibration.json").calibrated
    (folder / "calibration.json").write_text("{}")
    with pytest.raises(CalibrationError):
        build(tmp_path / "bad", calibration=folder / "calibration.json")


def test_progress_reaches_its_total_at_every_stage(tmp_path: Path, source: MemorySource) -> None:
    seen: list[Progress] = []
    request = BuildRequest(
        source="memory", out=tmp_path / "i", zooms=ZOOMS, area=Area(bbox=(0, 60, 90, 90)), unit_rows=8, threads=2
    )
    report = build_index(request, encoders=Encoders(FakePhotoEncoder(), FakeTileEncoder()), on_progress=seen.append)
    assert "clipped" in next(p.text for p in seen if p.stage == "note")
    last = {p.text: p for p in seen if p.stage != "note"}
    assert {p.done for p in last.values() if p.stage == "embed"} == set(report.rows.values())
    assert all(p.done == p.total for p in last.values())
