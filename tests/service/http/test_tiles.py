"""Map tiles over HTTP: the built-in Earth, a folder, no map, and invalid sources."""

import asyncio
import io
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
from PIL import Image

from service.errors import SettingsError
from service.http.tiles import TileImage, open_tiles
from tile_cache.addressing import Tile


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A z/x/y folder with all tiles of zooms 1 and 2 except one."""
    root = tmp_path_factory.mktemp("tiles")
    places = [(1, x, y) for x in range(2) for y in range(2)] + [(2, x, y) for x in range(4) for y in range(4)]
    for z, x, y in places[:-1]:
        path = root / str(z) / str(x) / f"{y}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (256, 256), (40 * x, 40 * y, 90)).save(path)
    return root


@pytest.fixture(scope="module")
def mapped(serving: Any, locator: Any, folder: Path) -> Any:
    with serving(locator, tiles=str(folder)) as url, httpx.Client(base_url=url) as http:
        yield http


def test_tilejson_describes_source(mapped: httpx.Client, folder: Path) -> None:
    about = mapped.get("/tiles").json()
    assert about["tilejson"] == "3.0.0"
    assert (about["minzoom"], about["maxzoom"], about["name"]) == (1, 2, folder.name)
    assert [address.split("?of=")[0] for address in about["tiles"]] == ["tiles/{z}/{x}/{y}"]
    address = urljoin(str(mapped.base_url.join("/beam/tiles")), about["tiles"][0])
    assert address.startswith(f"{mapped.base_url}/beam/tiles/{{z}}/")


def test_tile_equals_file_of_source(mapped: httpx.Client, folder: Path) -> None:
    answer = mapped.get("/tiles/2/1/2")
    assert answer.status_code == 200
    assert answer.content == (folder / "2/1/2.png").read_bytes()
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["cache-control"] == "private, max-age=86400"


@pytest.mark.parametrize("if_none_match", ['"x", {tag}', "W/{tag}", "*", "{tag}"])
def test_known_tile_is_304(mapped: httpx.Client, if_none_match: str) -> None:
    tag = mapped.get("/tiles/1/0/0").headers["etag"]
    again = mapped.get("/tiles/1/0/0", headers={"If-None-Match": if_none_match.format(tag=tag)})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert mapped.get("/tiles/1/0/1", headers={"If-None-Match": tag}).status_code == 200


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("2/3/3", "zooms 1 to 2"),
        ("3/0/0", "zooms 1 to 2"),
        ("1/2/0", "from 0 to 1"),
        ("1/0/-1", "y must"),
        ("99/0/0", "99"),
        ("-1/0/0", "-1"),
        (f"1/{10**30}/0", "from 0 to 1"),
    ],
)
def test_missing_tile_is_404(mapped: httpx.Client, path: str, word: str, check_problem: Any) -> None:
    assert word in check_problem(mapped.get(f"/tiles/{path}"), 404, "no-tile")


def test_huge_zoom_is_rejected_before_powers_are_computed(
    mapped: httpx.Client, check_problem: Any, monkeypatch: Any
) -> None:
    """Checking a Tile computes 2 ** z. Such a request once took all memory and never ended."""

    def checked_tile(x: int, y: int, z: int) -> Tile:
        assert z <= 30
        return Tile(x, y, z)

    monkeypatch.setattr("service.http.tiles.Tile", checked_tile)
    for zoom in (31, 10**9, 10**4000):
        assert "zoom" in check_problem(mapped.get(f"/tiles/{zoom}/0/0"), 404, "no-tile")


def test_tile_address_must_be_numbers(mapped: httpx.Client, check_problem: Any) -> None:
    assert "path parameter y='zero'" in check_problem(mapped.get("/tiles/1/0/zero"), 422, "invalid-request")


def test_service_without_map_answers_404(http: httpx.Client, check_problem: Any) -> None:
    """The test's index names a source that does not exist here."""
    for path in ("/tiles", "/tiles/1/0/0"):
        assert "TILEBEAM_TILES" in check_problem(http.get(path), 404, "no-tile")


def test_index_of_built_in_earth_gets_its_map() -> None:
    tiles = open_tiles("", "bluemarble")
    assert tiles is not None
    assert tiles.describe()["maxzoom"] == 6  # deeper tiles are there, but are enlargements
    assert tiles._read(_tile(8, 0, 0)) is not None
    picture = tiles._read(_tile(6, 33, 22))
    assert picture is not None
    assert Image.open(io.BytesIO(picture.data)).size == (256, 256)
    assert picture.media_type == "image/jpeg"
    assert tiles._read(_tile(12, 0, 0)) is None
    tiles.close()
    assert open_tiles("", "some folder") is None


def test_cache_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """512 tiles of any size were held before: of 1 MB each, half a gigabyte."""
    monkeypatch.setattr("service.http.tiles._CACHED_BYTES", 100_000)
    noise = Image.effect_noise((128, 128), 90)
    for x in range(16):
        (tmp_path / "4" / str(x)).mkdir(parents=True)
        noise.save(tmp_path / "4" / str(x) / "0.png")
    Image.effect_noise((400, 400), 90).save(tmp_path / "4" / "0" / "1.png")
    tiles = open_tiles(str(tmp_path), "")
    assert tiles is not None

    async def read_all() -> list[TileImage | None]:
        addresses = [*(Tile(x, 0, 4) for x in range(16)), Tile(0, 1, 4), *(Tile(x, 5, 4) for x in range(16))]
        return [await tiles.image(tile) for _ in range(3) for tile in addresses]

    images = asyncio.run(read_all())
    assert sum(len(image.data) for image in images[:16] if image) > 200_000
    assert images[16] is not None
    assert len(images[16].data) > 100_000  # larger than the whole cache, and answered all the same
    held = [image for image in tiles._cache.values() if image]
    assert 0 < sum(len(image.data) for image in held) <= tiles._cache.currsize <= 100_000
    tiles.close()


def _tile(z: int, x: int, y: int) -> Any:
    return Tile(x, y, z)


@pytest.mark.parametrize(
    "spec", ["https://tiles.example/{z}/{x}/{y}.jpg", "NASAGIBS.BlueMarble", "gone.mbtiles", "bluemarble:moon"]
)
def test_remote_and_missing_sources_are_rejected(spec: str) -> None:
    with pytest.raises(SettingsError, match="TILEBEAM_TILES="):
        open_tiles(spec, "")


def test_file_that_is_not_mbtiles_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "notes.mbtiles"
    path.write_text("none")
    with pytest.raises(SettingsError, match=r"notes\.mbtiles"):
        open_tiles(str(path), "")
