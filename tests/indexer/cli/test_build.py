"""The commands plan, fetch, index and inspect: output, streams and exit codes."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result
from workbench import Server, encoded, picture, tile_bytes, write_folder

from indexer.cli.build import register
from retrieval.testing.fake import fake_pyramid, write_fake_index
from tile_cache.addressing import Tile, bounds
from tile_cache.mbtiles import TileStore

app = typer.Typer()
register(app)


def run(*arguments: object) -> Result:
    """Run a command on a terminal that wraps no message."""
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "1000", "TERMINAL_WIDTH": "1000"})


def test_plan_sends_no_request_to_the_server(server: Server, tmp_path: Path) -> None:
    arguments = ["plan", "--source", server.url, "--zooms", "4,6,16", "--world", "--cache", tmp_path, "--json"]
    result = run(*arguments, "--rate", "100", "--tile-bytes", "1000", "--embed-rate", "200")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert [z["rows"] for z in plan["zooms"]] == [256, 4096, 4**16]
    assert plan["to_fetch"] == plan["rows"] == 256 + 4096 + 4**16
    assert plan["fetch_bytes"] == 1000 * plan["rows"]
    assert plan["fetch_hours"] == pytest.approx(plan["rows"] / 100 / 3600)
    assert plan["embed_hours"] == pytest.approx(plan["rows"] / 200 / 3600)
    assert plan["index_bytes"] > plan["rows"] * 192 * 2  # the built-in encoder's fp16
    assert not server.log
    assert not list(tmp_path.iterdir())


def test_plan_reads_tile_counts_and_sizes_from_the_cache(server: Server, tmp_path: Path) -> None:
    area = ["--source", server.url, "--bbox", "-20", "-20", "20", "20", "--cache", tmp_path / "c.mbtiles"]
    fetched = run("fetch", *area, "--zooms", "2,4", "--rate", "100000", "--json")
    assert fetched.exit_code == 0, fetched.stderr
    assert json.loads(fetched.stdout)["kept"] == len(server.log) == 8
    plan = json.loads(run("plan", *area, "--zooms", "2,4,5", "--json").stdout)
    assert [z["to_fetch"] for z in plan["zooms"]] == [0, 0, plan["zooms"][2]["rows"]]
    assert plan["tile_bytes"]["origin"] == "measured on 8 tiles of the cache"
    assert plan["tile_bytes"]["value"] == pytest.approx(len(tile_bytes(server.log[0])), rel=0.2)
    again = run("fetch", *area, "--zooms", "2,4", "--json")
    assert json.loads(again.stdout)["known"] == 8
    with TileStore.open(tmp_path / "c.mbtiles", read_only=True) as store:
        assert store.counts() == {2: 4, 4: 4}


def test_margins_are_planned_and_fetched(server: Server, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    (maps / "maps.json").write_text(json.dumps({"zooms": {"4": {"file": "z04.safetensors", "context": 1.0}}}))
    tile = bounds(Tile(7, 7, 4))
    area = ["--source", server.url, "--zooms", "2,4", "--bbox", *tile, "--cache", tmp_path, "--map-encoders", maps]
    plan = json.loads(run("plan", *area, "--json").stdout)
    assert [(z["rows"], z["margin"]) for z in plan["zooms"]] == [(1, 0), (1, 8)]
    assert run("fetch", *area, "--rate", "100000").exit_code == 0
    assert len(server.log) == 10


def test_overlay_is_planned_and_fetched_too(server: Server, tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base", {Tile(0, 0, 0): tile_bytes(Tile(0, 0, 0))})
    area = ["--source", base, "--overlay", server.url, "--zooms", "0", "--world", "--cache", tmp_path / "c.mbtiles"]
    assert json.loads(run("plan", *area, "--json").stdout)["overlay_to_fetch"] == 1
    fetched = run("fetch", *area, "--json")
    assert json.loads(fetched.stdout)["cache"] == str(tmp_path / "c.overlay.mbtiles")
    assert json.loads(run("plan", *area, "--json").stdout)["overlay_to_fetch"] == 0


def test_plan_in_words_names_its_assumptions(server: Server) -> None:
    result = run("plan", "--source", server.url, "--zooms", "4,6", "--bbox", "0", "80", "10", "90")
    assert "15,000 bytes a tile (assumed)" in result.stdout
    assert "20 a second (default)" in result.stdout
    assert "clipped" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--zooms", "4,6"], 2, "exactly one of"),
        (["--zooms", "4,6", "--world", "--bbox", "0", "0", "1", "1"], 2, "exactly one of"),
        (["--zooms", "four", "--world"], 2, "not whole numbers"),
        (["--zooms", "6,4", "--world"], 2, "must ascend"),
        (["--zooms", "4", "--bbox", "0", "10", "1", "5"], 2, "south 10 is greater than north 5"),
        (["--zooms", "4", "--geojson", "nowhere.json"], 2, "nowhere.json"),
        (["--zooms", "4,12", "--world"], 2, "ends at zoom 10"),
        (["--zooms", "4", "--world", "--land", "7"], 2, "land fraction"),
        (["--zooms", "4", "--world", "--map-encoders", "nowhere"], 1, "maps.json"),
    ],
)
def test_wrong_usage_ends_with_a_message_and_exit_code(arguments: list[str], code: int, words: str) -> None:
    result = run("plan", "--source", "bluemarble", *arguments)
    assert result.exit_code == code
    assert words in result.stderr
    assert not result.stdout


@pytest.mark.parametrize(
    "source",
    ["http://127.0.0.1/{x}.png", "blumarble", "/nowhere/tiles", "https://tile.openstreetmap.org/{z}/{x}/{y}.png"],
)
def test_invalid_source_ends_with_one_line(source: str) -> None:
    result = run("plan", "--source", source, "--zooms", "4", "--world")
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1


def test_fetch_of_a_local_source_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {Tile(0, 0, 0): tile_bytes(Tile(0, 0, 0))})
    result = run("fetch", "--source", folder, "--zooms", "0", "--world")
    assert result.exit_code == 1
    assert "nothing to fetch" in result.stderr


def test_inspect_shows_the_index_and_verify_reports_damage(tmp_path: Path) -> None:
    manifest = write_fake_index(tmp_path / "index", fake_pyramid(1, [2, 4], 8))
    facts = json.loads(run("inspect", tmp_path / "index", "--json").stdout)
    assert facts["id"] == manifest.id
    assert [z["rows"] for z in facts["zooms"]] == [z.rows for z in manifest.zooms]
    assert manifest.id in run("inspect", tmp_path / "index").stdout
    assert "as the manifest says" in run("inspect", tmp_path / "index", "--verify").stderr
    shard = tmp_path / "index" / manifest.zooms[1].shards[0].file
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    broken = run("inspect", tmp_path / "index", "--verify")
    assert broken.exit_code == 1
    assert shard.name in broken.stderr


def test_inspect_of_a_folder_without_index_fails(tmp_path: Path) -> None:
    result = run("inspect", tmp_path)
    assert result.exit_code == 1
    assert "tilebeam index" in result.stderr


@pytest.mark.slow
def test_index_with_a_local_encoder_can_be_moved_and_searched(tmp_path: Path) -> None:
    import shutil

    import torch
    from PIL import Image

    from retrieval.encoders.open_clip import PhotoEncoder, build_tower
    from retrieval.encoders.preprocess import Preprocess
    from retrieval.locator import LocateQuery, Locator

    torch.manual_seed(5)
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    architecture = {"embed_dim": 16, "vision_cfg": vision, "quick_gelu": False}
    plain = Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    PhotoEncoder("tiny", build_tower(architecture), plain, architecture, "cpu").save(tmp_path / "encoder")
    every = [Tile(x, y, z) for z in (1, 3) for x in range(2**z) for y in range(2**z)]
    tiles = write_folder(tmp_path / "tiles", {t: encoded(picture(7 * t.x + t.y + t.z, size=32)) for t in every})
    arguments = ["--source", tiles, "--out", tmp_path / "index", "--world", "--zooms", "1,3"]
    result = run("index", *arguments, "--photo-encoder", tmp_path / "encoder", "--device", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["vectors"] == {"1": 4, "3": 64}
    assert "already" in run("index", *arguments, "--photo-encoder", tmp_path / "encoder", "--device", "cpu").stderr
    assert str(tmp_path) not in (tmp_path / "index" / "manifest.json").read_text()
    shutil.rmtree(tmp_path / "encoder")
    shutil.move(tmp_path / "index", tmp_path / "moved")
    locator = Locator.open(tmp_path / "moved", device="cpu")
    photo = picture(7 * 3 + 2 + 3, size=32)
    assert isinstance(photo, Image.Image)
    embedding = locator.encoder.encode(locator.encoder.prepare(photo)[None])
    answer = locator.locate(embedding, LocateQuery(k=64, scoring="paper"))[0].to_json()
    assert answer["levels"][-1]["tile"] == {"z": 3, "x": 3, "y": 2}


@pytest.mark.parametrize(
    ("photo", "maps"),
    [
        ('{"architecture": []}', '{"zooms": {"4": {"context": 0.5}}}'),
        ('{"architecture": {"embed_dim": [1]}}', '{"zooms": {"4": {"context": 0.5}}}'),
        ("{}", '{"zooms": []}'),
        ("{}", '{"zooms": {"four": {"context": 0.5}}}'),
        ("{}", '{"zooms": {"4": {"context": 1e300}}}'),
        ("{}", '{"zooms": {"4": null}}'),
    ],
)
def test_damaged_descriptions_of_encoders_end_a_plan_in_one_line(tmp_path: Path, photo: str, maps: str) -> None:
    (tmp_path / "photo.json").write_text(photo)
    (tmp_path / "maps.json").write_text(maps)
    encoders = ("--photo-encoder", tmp_path, "--map-encoders", tmp_path)
    result = run("plan", "--source", "bluemarble", "--world", "--zooms", "4", *encoders)
    assert result.exit_code == 1
    assert result.stderr.startswith("tilebeam: ")
    assert "maps.json" in result.stderr
