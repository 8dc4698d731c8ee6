"""Folders as other programs write them: which are read, from which side, and which are refused."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from loopback import image
from PIL import Image

from tile_cache.addressing import Tile, bounds
from tile_cache.errors import SourceError
from tile_cache.folder import FolderSource

PLACE = Tile(9, 5, 4)
"""A tile of the northern half; every folder here holds it and nothing else."""


def folder(root: Path, *, south_first: bool, tile: Tile = PLACE) -> Path:
    y = (1 << tile.z) - 1 - tile.y if south_first else tile.y
    path = root / str(tile.z) / str(tile.x) / f"{y}.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(image(1))
    return root


def resource(srs: str = "EPSG:3857", profile: str = "mercator", box: str | None = None) -> str:
    west, south, east, north = (f"{v:.9f}" for v in bounds(PLACE))
    box = box or f'minx="{west}" miny="{south}" maxx="{east}" maxy="{north}"'
    return f"""<?xml version="1.0" encoding="utf-8"?>
<TileMap version="1.0.0" tilemapservice="http://tms.osgeo.org/1.0.0"><Title>t</Title><SRS>{srs}</SRS>
<BoundingBox {box}/><Origin x="-180.0" y="-85.05"/><TileFormat width="256" height="256" mime-type="image/png"/>
<TileSets profile="{profile}"><TileSet href="4" units-per-pixel="9783.9" order="4"/></TileSets></TileMap>"""


def test_tilemapresource_is_read_from_the_south(tmp_path):
    (folder(tmp_path, south_first=True) / "tilemapresource.xml").write_text(resource())
    source = FolderSource(tmp_path)
    assert source.read(PLACE) == image(1)
    assert source.notes == ()


def test_boxes_in_metres_and_with_swapped_axes_are_understood(tmp_path):
    root = folder(tmp_path, south_first=True)
    west, south, east, north = bounds(PLACE)
    swapped = f'minx="{south}" miny="{west}" maxx="{north}" maxy="{east}"'
    metres = 'minx="2504688.5" miny="5009377.1" maxx="5009377.1" maxy="7514065.6"'
    for box in (swapped, metres):
        (root / "tilemapresource.xml").write_text(resource(box=box))
        assert FolderSource(root).read(PLACE) == image(1)


@pytest.mark.parametrize(
    ("srs", "profile", "words"),
    [
        ("EPSG:4326", "geodetic", "SRS says 'EPSG:4326'"),
        ("", "geodetic", "profile says 'geodetic'"),
        ("", "raster", "profile says 'raster'"),
        ("EPSG:25832", "raster", "SRS says 'EPSG:25832'"),
    ],
)
def test_other_projections_are_refused(tmp_path, srs, profile, words):
    (folder(tmp_path, south_first=True) / "tilemapresource.xml").write_text(resource(srs, profile))
    with pytest.raises(SourceError, match=words):
        FolderSource(tmp_path)


def test_rows_from_the_north_beside_a_tilemapresource_are_refused(tmp_path):
    """As early gdal2tiles wrote them with --xyz."""
    (folder(tmp_path, south_first=False) / "tilemapresource.xml").write_text(resource())
    with pytest.raises(SourceError, match=r"tilemapresource\.xml says.*BoundingBox"):
        FolderSource(tmp_path)


def test_contradiction_between_the_two_files_is_refused(tmp_path):
    root = folder(tmp_path, south_first=True)
    (root / "tilemapresource.xml").write_text(resource())
    (root / "metadata.json").write_text('{"scheme": "xyz"}')
    with pytest.raises(SourceError, match=r"tilemapresource\.xml.*metadata\.json: scheme"):
        FolderSource(root)


@pytest.mark.parametrize("text", ["<TileMap>", "", '<!DOCTYPE x [<!ENTITY a "b">]><TileMap/>', "\0"])
def test_unreadable_tilemapresource_is_named(tmp_path, text):
    (folder(tmp_path, south_first=True) / "tilemapresource.xml").write_text(text)
    with pytest.raises(SourceError, match=r"tilemapresource\.xml is not readable XML"):
        FolderSource(tmp_path)


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize("south_first", [False, True])
def test_metadata_json_is_compared_with_the_rows(tmp_path, south_first, as_text):
    root = folder(tmp_path, south_first=south_first)
    box: object = list(bounds(PLACE))
    box = ",".join(map(str, bounds(PLACE))) if as_text else box
    (root / "metadata.json").write_text(json.dumps({"scheme": "tms" if south_first else "xyz", "bounds": box}))
    assert FolderSource(root).read(PLACE) == image(1)
    (root / "metadata.json").write_text(json.dumps({"scheme": "xyz" if south_first else "tms", "bounds": box}))
    with pytest.raises(SourceError, match=r"metadata\.json: scheme says.*metadata\.json: bounds"):
        FolderSource(root)


@pytest.mark.parametrize("name", ["crs", "srs", "profile", "projection"])
def test_projection_in_metadata_json_is_read(tmp_path, name):
    root = folder(tmp_path, south_first=False)
    (root / "metadata.json").write_text(json.dumps({name: "EPSG:4326" if "rs" in name else "geodetic"}))
    with pytest.raises(SourceError, match=f"metadata\\.json: {name} says"):
        FolderSource(root)


def test_folder_that_says_nothing_is_read_from_the_north_and_says_so(tmp_path):
    source = FolderSource(folder(tmp_path, south_first=False))
    assert source.read(PLACE) == image(1)
    assert len(source.notes) == 1
    assert "rows are read from the north (XYZ), in Web Mercator" in source.notes[0]


@pytest.mark.parametrize("tile", [Tile(17, 3, 4), Tile(3, 17, 4)])
def test_images_beyond_the_grid_are_refused(tmp_path, tile):
    """A geodetic grid has twice as many columns as rows."""
    folder(tmp_path, south_first=False)
    folder(tmp_path, south_first=False, tile=tile)
    with pytest.raises(SourceError, match=r"(column|row) 17 of zoom 4, where Web Mercator has 16"):
        FolderSource(tmp_path)


def test_metadata_of_any_shape_is_survived(tmp_path):
    root = folder(tmp_path, south_first=False)
    for text in (
        "[]",
        "7",
        '{"bounds": {"a": 1}, "scheme": null, "crs": []}',
        '{"bounds": [1, "x", null, 4]}',
        "\ufeff{}",
    ):
        (root / "metadata.json").write_text(text, encoding="utf-8")
        assert FolderSource(root).read(PLACE) == image(1)
    (root / "metadata.json").write_text("[" * 100_000)
    with pytest.raises(SourceError, match=r"metadata\.json is not readable JSON"):
        FolderSource(root)


@pytest.mark.parametrize("namespace", ["xmlns", "xmlns:t"])
def test_tilemapresource_in_a_namespace_is_read(tmp_path, namespace):
    root = folder(tmp_path, south_first=True)
    text = resource("EPSG:4326", "geodetic").replace("<TileMap ", f'<TileMap {namespace}="http://tms.osgeo.org/1.0.0" ')
    if namespace == "xmlns:t":
        text = text.replace("<", "<t:").replace("<t:/", "</t:").replace("<t:?", "<?")
    (root / "tilemapresource.xml").write_text(text)
    with pytest.raises(SourceError, match=r"not in Web Mercator: tilemapresource\.xml: SRS says 'EPSG:4326'"):
        FolderSource(root)


def test_document_type_in_utf16_is_refused(tmp_path):
    text = resource().replace('encoding="utf-8"?>', 'encoding="utf-16"?><!DOCTYPE t [<!ENTITY a "b">]>')
    (folder(tmp_path, south_first=True) / "tilemapresource.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(SourceError, match="document type"):
        FolderSource(tmp_path)


@pytest.mark.parametrize("name", ["metadata.JSON", "tilejson.json", "tile.json", "tiles.json", "TileMapResource.xml"])
def test_files_that_describe_tiles_are_read_whatever_their_case(tmp_path, name):
    text = resource() if name.endswith(".xml") else json.dumps({"scheme": "tms", "name": "Mine"})
    (folder(tmp_path, south_first=True) / name).write_text(text)
    source = FolderSource(tmp_path)
    assert source.read(PLACE) == image(1)
    assert source.info.name == ("Mine" if name.lower().endswith(".json") else tmp_path.name)


def test_two_descriptions_that_contradict_each_other_are_refused(tmp_path):
    root = folder(tmp_path, south_first=True)
    (root / "metadata.json").write_text('{"scheme": "xyz"}')
    (root / "tile.json").write_text('{"scheme": "tms"}')
    with pytest.raises(SourceError, match=r"metadata\.json: scheme says .*north.*tile\.json: scheme says .*south"):
        FolderSource(root)


@pytest.mark.parametrize("grid", ["OSMTILE", "APSTILE", "WGS84"])
def test_mapml_names_the_grid(tmp_path, grid):
    (folder(tmp_path, south_first=False) / "mapml.mapml").write_text(
        f'<mapml><head><meta content="text/mapml;projection={grid}"/><!-- <link projection="OSMTILE"/> --></head>'
        f'<body><extent units="{grid}"><input name="z"/></extent></body></mapml>'
    )
    if grid == "OSMTILE":
        assert FolderSource(tmp_path).read(PLACE) == image(1)
        assert FolderSource(tmp_path).notes == ()
        return
    with pytest.raises(SourceError, match=rf"not in Web Mercator: mapml\.mapml says '{grid}'"):
        FolderSource(tmp_path)


@pytest.fixture(scope="module")
def earth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of the whole Earth with its place, for gdal2tiles."""
    if not shutil.which("gdal2tiles.py") or not shutil.which("gdal_translate"):
        pytest.skip("gdal-bin and gdal2tiles.py are not installed")
    root = tmp_path_factory.mktemp("earth")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((256, 128)).save(root / "earth.png")
    place = ["-a_srs", "EPSG:4326", "-a_ullr", "-180", "90", "180", "-90"]
    subprocess.run(["gdal_translate", "-q", *place, root / "earth.png", root / "earth.tif"], check=True)
    return root / "earth.tif"


@pytest.mark.parametrize("xyz", [False, True])
@pytest.mark.parametrize("profile", ["mercator", "geodetic", "raster"])
def test_gdal2tiles_is_read_rightly_or_refused(tmp_path, earth, profile, xyz):
    out = tmp_path / "tiles"
    options = ["--xyz"] if xyz else []
    subprocess.run(
        ["gdal2tiles.py", "-q", "-p", profile, *options, "-z", "1-2", earth, out], check=True, capture_output=True
    )
    if profile != "mercator":
        with pytest.raises(SourceError, match=r"not in Web Mercator.*-p mercator"):
            FolderSource(out)
        return
    source = FolderSource(out)
    y = 0 if xyz else 3  # the northernmost row, as it is numbered there
    assert source.read(Tile(1, 0, 2)) == (out / "2" / "1" / f"{y}.png").read_bytes()


def test_gdal2tiles_without_any_page_is_known_by_its_kml(tmp_path, earth):
    out = tmp_path / "tiles"
    options = ["-q", "-p", "geodetic", "--xyz", "-w", "none", "-z", "1-2"]
    subprocess.run(["gdal2tiles.py", *options, earth, out], check=True, capture_output=True)
    with pytest.raises(SourceError, match=r"not in Web Mercator: .*\.kml says"):
        FolderSource(out)
