"""z/x/y folders as other programs write them."""

import json
import os
from pathlib import Path

import pytest
from loopback import image, tile_image

from tile_cache.addressing import Tile
from tile_cache.errors import SourceError, SourceUnavailableError, TileAddressError
from tile_cache.folder import FolderSource
from tile_cache.open import open_source


def lay(root: Path, tile: Tile, data: bytes, extension: str = "png") -> Path:
    path = root / str(tile.z) / str(tile.x) / f"{tile.y}.{extension}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for tile in [Tile(1, 2, 3), Tile(7, 0, 3), Tile(9, 9, 5)]:
        lay(tmp_path, tile, tile_image(tile))
    return tmp_path


@pytest.mark.filterwarnings("ignore:Mercantile 2.0")
def test_folder_is_a_tile_source(root):
    source = open_source(str(root))
    assert isinstance(source, FolderSource)
    assert (source.info.name, source.info.min_zoom, source.info.max_zoom, source.info.tile_size) == (
        root.name,
        3,
        5,
        32,
    )
    assert source.read(Tile(1, 2, 3)) == tile_image(Tile(1, 2, 3))
    assert source.read(Tile(1, 3, 3)) is None
    assert source.read(Tile(0, 0, 0)) is None
    with pytest.raises(TileAddressError):
        source.read(Tile(8, 0, 3))
    source.close()


@pytest.mark.parametrize("extension", ["png", "jpg", "jpeg", "webp"])
def test_every_tile_format_is_read(tmp_path, extension):
    lay(tmp_path, Tile(0, 0, 1), image(1), extension)
    assert FolderSource(tmp_path).read(Tile(0, 0, 1)) == image(1)


def test_png_is_preferred_to_other_formats(tmp_path):
    for n, extension in enumerate(["webp", "jpeg", "jpg", "png"]):
        lay(tmp_path, Tile(0, 0, 1), image(n), extension)
    assert FolderSource(tmp_path).read(Tile(0, 0, 1)) == image(3)


def test_other_files_are_ignored(root):
    before = FolderSource(root).info
    for name in (
        "README.txt",
        "04/1/1.png",
        "3/x/1.png",
        "3/8/1.png",
        "3/1/8.png",
        "3/1/-1.png",
        "3/1/2.tif",
        "99/0/0.png",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"?")
    (root / "3/1/3.png").mkdir()
    assert FolderSource(root).info == before
    assert FolderSource(root).read(Tile(1, 3, 3)) is None


def test_identity_depends_on_names_and_sizes(root, tmp_path_factory):
    copy = tmp_path_factory.mktemp("elsewhere")
    for tile in [Tile(9, 9, 5), Tile(7, 0, 3), Tile(1, 2, 3)]:
        lay(copy, tile, tile_image(tile))
    identity = FolderSource(root).info.identity
    assert FolderSource(copy).info.identity == identity, "neither the place nor the order of writing matters"
    (copy / "3/1/2.png").rename(copy / "3/1/4.png")
    assert FolderSource(copy).info.identity != identity
    lay(root, Tile(1, 2, 3), tile_image(Tile(1, 2, 3)) + b"\0")
    assert FolderSource(root).info.identity != identity


@pytest.mark.parametrize(
    ("marker", "text"), [("tilemapresource.xml", "<TileMap/>"), ("metadata.json", '{"scheme": "TMS"}')]
)
def test_tms_folder_is_flipped(tmp_path, marker, text):
    lay(tmp_path, Tile(0, 7, 3), image(1))
    (tmp_path / marker).write_text(text)
    source = FolderSource(tmp_path)
    assert source.read(Tile(0, 0, 3)) == image(1)
    assert source.read(Tile(0, 7, 3)) is None


def test_name_and_attribution_come_from_metadata_json(root):
    (root / "metadata.json").write_text(json.dumps({"name": "Mine", "attribution": "© me"}))
    info = FolderSource(root).info
    assert (info.name, info.attribution) == ("Mine", "© me")
    (root / "metadata.json").write_text("{")
    with pytest.raises(SourceError, match=r"metadata\.json"):
        FolderSource(root)


@pytest.mark.parametrize("inside", [None, "3", "3/1"])
def test_folder_without_tiles_is_refused(tmp_path, inside):
    if inside:
        (tmp_path / inside).mkdir(parents=True)
    with pytest.raises(SourceError, match=r"holds no tile: name the files ROOT/z/x/y\.png"):
        open_source(str(tmp_path))


def test_unreadable_tile_is_named(root):
    source = FolderSource(root)
    path = root / "3/1/2.png"
    path.unlink()
    path.symlink_to(path.name)  # a loop, unreadable even for root
    with pytest.raises(SourceUnavailableError, match=r"2\.png cannot be read"):
        source.read(Tile(1, 2, 3))
    with pytest.raises(SourceUnavailableError, match=r"2\.png cannot be read"):
        FolderSource(root)


@pytest.mark.parametrize("extension", ["PNG", "JPG", "Jpeg", "WEBP"])
def test_extensions_in_capitals_are_read(tmp_path, extension):
    lay(tmp_path, Tile(0, 0, 1), image(1), extension)
    source = FolderSource(tmp_path)
    assert source.read(Tile(0, 0, 1)) == image(1)
    assert source.info.tile_size == 32


def test_only_regular_files_are_tiles(root):
    before = FolderSource(root).info
    os.mkfifo(root / "3/1/0.png")
    (root / "3/1/4.png").symlink_to("/dev/zero")
    (root / "3/1/5.png").symlink_to("2.png")
    source = FolderSource(root)
    assert source.read(Tile(1, 0, 3)) is None
    assert source.read(Tile(1, 4, 3)) is None
    assert source.read(Tile(1, 5, 3)) == tile_image(Tile(1, 2, 3)), "a link to a tile is a tile"
    assert source.info.min_zoom == before.min_zoom


@pytest.mark.parametrize("name", ["metadata.json", "tilemapresource.xml", "openlayers.html"])
def test_fifo_in_place_of_a_description_is_refused_at_once(root, name):
    os.mkfifo(root / name)
    with pytest.raises(SourceError, match=f"{name} cannot be read"):
        FolderSource(root)


def test_file_larger_than_any_tile_is_not_read_whole(root, monkeypatch):
    monkeypatch.setattr("tile_cache.folder.MAX_TILE_BYTES", 1000)
    lay(root, Tile(1, 4, 3), bytes(5000))
    assert len(FolderSource(root).read(Tile(1, 4, 3))) == 1001
