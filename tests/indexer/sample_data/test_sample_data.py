"""Sample data: photos show their places, files are readable, killed runs continue, families share nothing."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import tilebeam
from indexer.build.coverage import Coverage
from indexer.builtin.recipe import Recipe
from indexer.builtin.train import builtin_coverage
from indexer.builtin.views import Views
from indexer.sample_data import from_earth, photos, tiles
from indexer.sample_data.collected import SAMPLES
from indexer.sample_data.elsewhere import FAMILIES, Family, write_elsewhere
from indexer.sample_data.photos import views_of, write_photos
from indexer.sample_data.settings import Elsewhere, PhotoSet
from indexer.sample_data.vectors import View, land_mask
from indexer.sample_data.writing import AnotherSetError, contact_sheet
from retrieval.encoders.open_clip import builtin_directory
from retrieval.geo.region import Region
from tile_cache.addressing import Tile, bounds, children_of_codes, codes_at, tile_of_code
from tile_cache.bluemarble import TILE_SIZE, BlueMarble
from tile_cache.open import open_source
from tile_cache.source import TileSource

SMALL = PhotoSet(count=40, style="clean", size=96)


def quiet(done: int, total: int) -> None:
    """Ignore progress."""


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def pixels_of(data: bytes | Path | None) -> np.ndarray:
    assert data is not None
    with Image.open(data if isinstance(data, Path) else io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB")).astype(float)


@pytest.fixture(scope="module", autouse=True)
def _blue_marble_alone() -> Iterator[None]:
    """Draw photos of Blue Marble only, which is what the tiles show; loading one product takes a third of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photos, "PRODUCTS", {"bmng": None})
        yield


@pytest.fixture(scope="module")
def blue_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few photos of Blue Marble, and the zoom-6 tiles under their centres as a folder."""
    folder = tmp_path_factory.mktemp("blue")
    write_photos(SMALL, folder, quiet)
    rows = rows_of(folder / "photos.csv")
    lngs, lats = (np.array([float(row[name]) for row in rows]) for name in ("longitude", "latitude"))
    wanted = [tile_of_code(int(code), 6) for code in np.unique(codes_at(lngs, lats, 6))]
    tiles.write_tiles(folder, "jpg", quiet, only=wanted)
    return folder


def test_photo_shows_the_tile_at_its_coordinates(blue_set: Path) -> None:
    """The pixels of a photo and of the folder's tile agree at equal places, by the photo's row of the table."""
    source, views, likeness = open_source(str(blue_set / "tiles")), views_of(SMALL), []
    for i, row in enumerate(rows_of(blue_set / "photos.csv")):
        lng, lat = float(row["longitude"]), float(row["latitude"])
        tile = tile_of_code(int(codes_at(np.array([lng]), np.array([lat]), 6)[0]), 6)
        seen = _compared(
            View(lng, lat, views.footprint_km[i], views.turn[i]), tile, source, pixels_of(blue_set / row["path"])
        )
        likeness.append(np.abs(seen[0] - seen[1]).mean())
    assert np.median(likeness) < 5
    assert max(likeness) < 20


def _compared(view: View, tile: Tile, source: TileSource, photo: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours of the tile's and of the photo's pixels at the same places, (n, 3) each."""
    area, steps = bounds(tile), (np.arange(TILE_SIZE) + 0.5) / TILE_SIZE
    y = (tile.y + steps) / (1 << tile.z)
    lats = np.degrees(2 * np.arctan(np.exp(2 * np.pi * (0.5 - y))) - np.pi / 2)
    lng, lat = np.meshgrid(area.west + (area.east - area.west) * steps, lats)
    at = np.floor(view.pixels(lng.ravel(), lat.ravel(), len(photo))).astype(int)
    inside = ((at >= 0) & (at < len(photo))).all(axis=1)
    assert inside.any()
    return pixels_of(source.read(tile)).reshape(-1, 3)[inside], photo[at[inside, 1], at[inside, 0]]


def test_the_folder_has_the_pixels_of_the_built_in_source(blue_set: Path, tmp_path: Path) -> None:
    jpegs, exact = open_source(str(blue_set / "tiles")), BlueMarble()
    found = sorted((blue_set / "tiles" / "6").glob("*/*.jpg"))[:8]
    wanted = [Tile(int(path.parent.name), int(path.stem), 6) for path in found]
    tiles.write_tiles(tmp_path, "png", quiet, only=wanted)
    pngs = open_source(str(tmp_path / "tiles"))
    for tile in wanted:
        drawn = exact.render(tile, TILE_SIZE)
        assert drawn is not None
        assert np.array_equal(pixels_of(pngs.read(tile)), drawn)
        assert np.abs(pixels_of(jpegs.read(tile)) - drawn).mean() < 2
    assert pngs.info.tile_size == TILE_SIZE
    assert pngs.info.attribution == exact.info.attribution
    assert pngs.notes == ()  # the folder says how its rows count


def test_the_geojson_covers_the_tiles_of_the_built_in_index(blue_set: Path) -> None:
    """The file gives the coverage of the built-in index, except zoom-4 tiles without covered tiles below them."""
    recipe = Recipe.read(builtin_directory() / "recipe.json")
    built_in = builtin_coverage(recipe)
    from_file = Coverage.of(recipe.zooms, Region.from_file(blue_set / "coverage.geojson"))
    given, wanted = ({z: np.concatenate(list(c.chunks(z))) for z in recipe.zooms} for c in (from_file, built_in))
    assert np.array_equal(given[6], wanted[6])
    assert np.array_equal(given[8], wanted[8])
    left_out = np.setdiff1d(wanted[4], given[4])
    assert not np.setdiff1d(given[4], wanted[4]).size
    assert not np.isin(children_of_codes(left_out, 2), wanted[6]).any()


def test_photos_are_reproducible_and_a_killed_run_continues(tmp_path: Path) -> None:
    photo_set = PhotoSet(count=70, size=48, style="mixed")
    write_photos(photo_set, tmp_path / "one", quiet)
    first = {p.relative_to(tmp_path / "one"): p.read_bytes() for p in (tmp_path / "one").rglob("*.*")}
    (tmp_path / "one" / "photos" / "00" / "00040.jpg").unlink()
    (tmp_path / "one" / "photos.csv").unlink()
    write_photos(photo_set, tmp_path / "one", quiet)
    write_photos(photo_set, tmp_path / "other", quiet)
    for folder in ("one", "other"):
        assert {p.relative_to(tmp_path / folder): p.read_bytes() for p in (tmp_path / folder).rglob("*.*")} == first


def test_a_folder_keeps_one_set(tmp_path: Path) -> None:
    write_photos(PhotoSet(count=2, size=32), tmp_path, quiet)
    with pytest.raises(AnotherSetError, match="another seed"):
        write_photos(PhotoSet(count=2, size=32, seed=9), tmp_path, quiet)


def test_seeds_are_used_nowhere_else() -> None:
    sets = json.loads((Path(photos.__file__).with_name("accuracy_sets.json")).read_text())
    used = {77, Recipe.read(builtin_directory() / "recipe.json").seed, *(s["seed"] for s in sets.values())}
    assert not used & {PhotoSet.seed, Elsewhere.seed}
    assert PhotoSet.seed != Elsewhere.seed


def test_families_for_fitting_and_testing_share_nothing() -> None:
    assert len({f.name for f in FAMILIES}) == len(FAMILIES)
    kinds = [(f.split, f.kind) for f in FAMILIES]
    assert kinds.count(("train", "no-place")) >= 6
    assert kinds.count(("test", "no-place")) >= 5
    assert kinds.count(("train", "foreign")) >= 3
    assert kinds.count(("test", "foreign")) >= 3
    splits = {f.name: f.split for f in FAMILIES}
    files = {s: {f for name in SAMPLES if splits[name] == s for f in SAMPLES[name]} for s in ("train", "test")}
    assert files["train"]
    assert files["test"]
    assert not files["train"] & files["test"]


def test_only_foreign_maps_have_coordinates(tmp_path: Path) -> None:
    """Foreign maps have coordinates and other pictures none; files exist; a second run writes the same table."""
    small = Elsewhere(per_family=2, size=48)
    write_elsewhere(small, tmp_path, quiet)
    rows = rows_of(tmp_path / "elsewhere.csv")
    assert len(rows) == 2 * len(FAMILIES)
    for row in rows:
        assert pixels_of(tmp_path / row["path"]).shape == (48, 48, 3)
        assert (row["kind"] == "foreign") == (row["latitude"] != "") == (row["longitude"] != "")
        if row["kind"] == "foreign":
            assert -60 <= float(row["latitude"]) <= 78
            assert -180 <= float(row["longitude"]) <= 180
    before = (tmp_path / "elsewhere.csv").read_bytes()
    (tmp_path / "elsewhere.csv").unlink()
    write_elsewhere(small, tmp_path, quiet)
    assert (tmp_path / "elsewhere.csv").read_bytes() == before


@pytest.mark.parametrize("family", [f for f in FAMILIES if f.kind == "no-place"], ids=lambda f: f.name)
def test_seed_decides_a_family(family: Family) -> None:
    one, again = (family.draw(family, Elsewhere(per_family=3, size=40))[0] for _ in range(2))
    other, _ = family.draw(family, Elsewhere(per_family=3, size=40, seed=5))
    assert one.dtype == np.uint8
    assert one.shape == (3, 40, 40, 3)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert len({picture.tobytes() for picture in one}) == 3


def test_coasts_from_vectors_match_the_land_mask() -> None:
    """Land drawn from vectors agrees with the land mask: in rotated views, in the north, at the date line."""
    places = [(14.2, 37.5, 600.0, 12.0), (23.0, 70.5, 500.0, -15.0), (179.2, -17.5, 400.0, 5.0), (-74.0, 40.7, 300, 0)]
    views = Views(*(np.array(column, dtype=float) for column in zip(*places, strict=True)))
    shares = from_earth.land_of(views, 120)
    for i, share in enumerate(shares):
        land = land_mask(View.of(views, i), 120)
        assert 0.02 < land.mean() < 0.98
        assert (land == (share > 0.5)).mean() > 0.93


def test_foreign_map_shows_the_place_of_its_row() -> None:
    """In two-tone maps, land at a row's coordinates has one tone and water another."""
    family = next(f for f in FAMILIES if f.name == "two-tone")
    pictures, views = family.draw(family, Elsewhere(per_family=10, size=96))
    assert views is not None
    shares = [_share_of_right_tones(p, land) for p, land in zip(pictures, from_earth.land_of(views, 96), strict=True)]
    mixed = [share for share in shares if share is not None]
    assert len(mixed) >= 2
    assert min(mixed) > 0.85


def _share_of_right_tones(picture: np.ndarray, land: np.ndarray) -> float | None:
    """The share of pixels whose tone is that of their side; None for views of only land or only water."""
    dry, wet = picture[land > 0.9].astype(float), picture[land < 0.1].astype(float)
    if min(len(dry), len(wet)) < 200:
        return None
    ground, water = np.median(dry, axis=0), np.median(wet, axis=0)
    right = [np.abs(dry - ground).sum(1) < np.abs(dry - water).sum(1)]
    right.append(np.abs(wet - water).sum(1) < np.abs(wet - ground).sum(1))
    return float(np.concatenate(right).mean())


def test_command_refuses_a_folder_with_another_set(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.json").write_text('{"seed": 1}')
    command = ["sample-data", "elsewhere", "--out", str(tmp_path), "--per-family", "1"]
    result = CliRunner().invoke(tilebeam.app, command)
    assert result.exit_code == 1
    assert "choose another --out" in result.stderr


def test_command_draws_photos_and_a_contact_sheet(tmp_path: Path) -> None:
    command = ["sample-data", "photos", "--out", str(tmp_path), "--count", "3", "--size", "32", "--no-folder-tiles"]
    result = CliRunner().invoke(tilebeam.app, [*command, "--sheet", str(tmp_path / "sheet.png")])
    assert result.exit_code == 0, result.output
    assert len(rows_of(tmp_path / "photos.csv")) == 3
    assert (tmp_path / "sheet.png").exists()
    assert not (tmp_path / "tiles").exists()


def test_command_names_the_extra_of_a_missing_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.delitem(sys.modules, "indexer.sample_data.elsewhere", raising=False)
    monkeypatch.delitem(sys.modules, "indexer.sample_data.collected", raising=False)
    result = CliRunner().invoke(tilebeam.app, ["sample-data", "elsewhere", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert "pip install 'tilebeam[sample-data]'" in result.stderr


def test_contact_sheet_has_a_row_for_every_family(tmp_path: Path) -> None:
    some = tuple(f for f in FAMILIES if f.name in ("noise", "mosaics", "moon"))
    write_elsewhere(Elsewhere(per_family=2, size=32), tmp_path, quiet, some)
    contact_sheet(tmp_path / "elsewhere.csv", tmp_path / "sheet.png", columns=2)
    assert pixels_of(tmp_path / "sheet.png").shape[0] == 3 * 96
