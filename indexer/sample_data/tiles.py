"""The built-in Earth as a plain folder of tiles, `tiles/z/x/y.jpg`, as somebody else's crawler would leave it.

A folder does not know where land is. So `coverage.geojson` comes with it: with `--geojson`, an index of the folder
covers the tiles that an index of `bluemarble` covers, but for three of zoom 4 that have none beneath them (their land
is Antarctica's); the margins around the tiles are there to be looked at.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from indexer.build.area import reach_of
from indexer.build.coverage import Codes, Coverage
from indexer.builtin.recipe import Recipe
from indexer.builtin.train import builtin_coverage
from indexer.sample_data.writing import claim, jpeg, png, put
from retrieval.encoders.open_clip import builtin_directory
from tile_cache.addressing import Tile, bounds, morton_decode, tile_of_code
from tile_cache.bluemarble import TILE_SIZE, BlueMarble

FORMATS = ("jpg", "png")
_QUALITY = 95
_INSET = 1e-3  # of a tile's width: polygons keep that far from tiles that they do not cover


def write_tiles(
    folder: Path, form: str, on_progress: Callable[[int, int], None], only: Sequence[Tile] | None = None
) -> None:
    """Draw what is missing of the covered tiles and their margins, or of `only` some; told (done, all)."""
    recipe, source = Recipe.read(builtin_directory() / "recipe.json"), BlueMarble()
    coverage = builtin_coverage(recipe)
    described = {"name": "built-in Earth as a folder", "attribution": source.info.attribution, "format": form}
    claim(folder / "tiles", "metadata.json", described)
    tiles = only or [t for z in recipe.zooms for t in _tiles(coverage, z, reach_of(recipe.context.get(z, 0.0)))]
    missing = [t for t in tiles if not _path(folder, t, form).exists()]
    done = len(tiles) - len(missing)
    on_progress(done, len(tiles))
    with ThreadPoolExecutor(2) as pool:
        for i, _ in enumerate(pool.map(partial(_draw, source, folder, form), missing), 1):
            if i % 64 == 0 or i == len(missing):
                on_progress(done + i, len(tiles))
    put(folder / "coverage.geojson", (json.dumps(covered(coverage, recipe.zooms[-1])) + "\n").encode())


def covered(coverage: Coverage, z: int) -> dict[str, Any]:
    """The covered tiles of a zoom as a GeoJSON MultiPolygon: a rectangle for each run of neighbours in a row."""
    x, y = (v.astype(np.int64) for v in morton_decode(_codes(coverage, z, 0)))
    order = np.lexsort((x, y))
    x, y = x[order], y[order]
    breaks = np.flatnonzero((np.diff(x) != 1) | (np.diff(y) != 0)) + 1
    rectangles = [_rectangle(x[a], x[b - 1], y[a], z) for a, b in pairwise([0, *breaks, len(x)])]
    return {
        "type": "Feature",
        "properties": {"zooms": list(coverage.zooms)},
        "geometry": {"type": "MultiPolygon", "coordinates": [[ring] for ring in rectangles]},
    }


def _rectangle(first: int, last: int, y: int, z: int) -> list[list[float]]:
    """The ring around tiles `first` to `last` of row `y`, counter-clockwise, a little inside it."""
    one, other = bounds(Tile(int(first), int(y), z)), bounds(Tile(int(last), int(y), z))
    dx, dy = _INSET * (one.east - one.west), _INSET * (one.north - one.south)
    west, south, east, north = one.west + dx, one.south + dy, other.east - dx, one.north - dy
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def _codes(coverage: Coverage, z: int, reach: int) -> Codes:
    return np.concatenate(list(coverage.chunks(z, reach)))


def _tiles(coverage: Coverage, z: int, reach: int) -> list[Tile]:
    return [tile_of_code(int(code), z) for code in _codes(coverage, z, reach)]


def _path(folder: Path, tile: Tile, form: str) -> Path:
    return folder / "tiles" / str(tile.z) / str(tile.x) / f"{tile.y}.{form}"


def _draw(source: BlueMarble, folder: Path, form: str, tile: Tile) -> None:
    pixels = source.render(tile, TILE_SIZE)
    assert pixels is not None, f"{tile} lies deeper than the source"
    put(_path(folder, tile, form), png(pixels) if form == "png" else jpeg(pixels, _QUALITY, full_colour=True))
