"""The built-in Earth as a plain folder of tiles, `tiles/z/x/y.jpg`, and the area to index as `coverage.geojson`.

A folder does not know where land is. With `--geojson coverage.geojson` an index of the folder covers the tiles that an
index of `bluemarble` covers, except three of zoom 4 without covered tiles below them (their land is in Antarctica).
Tiles around the covered ones are written too, because embedding a tile may need its neighbours as a margin.
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
from indexer.sample_data.settings import TileFormat
from indexer.sample_data.writing import claim, jpeg, png, put
from retrieval.encoders.open_clip import builtin_directory
from tile_cache.addressing import Tile, bounds, morton_decode, tile_of_code
from tile_cache.bluemarble import TILE_SIZE, BlueMarble

_QUALITY = 95
_INSET = 1e-3  # of a tile's width: the distance of polygons from tiles that they do not cover


def write_tiles(
    folder: Path, tile_format: TileFormat, on_progress: Callable[[int, int], None], only: Sequence[Tile] | None = None
) -> None:
    """Draw the missing tiles of the coverage and its margins, or of `only`. `on_progress` gets (done, total)."""
    recipe, source = Recipe.read(builtin_directory() / "recipe.json"), BlueMarble()
    coverage = builtin_coverage(recipe)
    name, attribution = "built-in Earth as a folder", source.info.attribution
    metadata = {"name": name, "attribution": attribution, "format": tile_format, "scheme": "xyz"}
    claim(folder / "tiles", "metadata.json", metadata)
    tiles = only or [t for z in recipe.zooms for t in _tiles(coverage, z, reach_of(recipe.context.get(z, 0.0)))]
    missing = [t for t in tiles if not _path(folder, t, tile_format).exists()]
    done = len(tiles) - len(missing)
    on_progress(done, len(tiles))
    with ThreadPoolExecutor(2) as pool:
        for i, _ in enumerate(pool.map(partial(_draw, source, folder, tile_format), missing), 1):
            if i % 64 == 0 or i == len(missing):
                on_progress(done + i, len(tiles))
    put(folder / "coverage.geojson", (json.dumps(coverage_geojson(coverage, recipe.zooms[-1])) + "\n").encode())


def coverage_geojson(coverage: Coverage, z: int) -> dict[str, Any]:
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
    """The ring around tiles `first` to `last` of row `y`, counter-clockwise and slightly inside them."""
    left, right = bounds(Tile(int(first), int(y), z)), bounds(Tile(int(last), int(y), z))
    dx, dy = _INSET * (left.east - left.west), _INSET * (left.north - left.south)
    west, south, east, north = left.west + dx, left.south + dy, right.east - dx, left.north - dy
    return [[west, south], [east, south], [east, north], [west, north], [west, south]]


def _codes(coverage: Coverage, z: int, reach: int) -> Codes:
    return np.concatenate(list(coverage.chunks(z, reach)))


def _tiles(coverage: Coverage, z: int, reach: int) -> list[Tile]:
    return [tile_of_code(int(code), z) for code in _codes(coverage, z, reach)]


def _path(folder: Path, tile: Tile, tile_format: TileFormat) -> Path:
    return folder / "tiles" / str(tile.z) / str(tile.x) / f"{tile.y}.{tile_format}"


def _draw(source: BlueMarble, folder: Path, tile_format: TileFormat, tile: Tile) -> None:
    pixels = source.render(tile, TILE_SIZE)
    assert pixels is not None, f"{tile} is deeper than the source"
    put(
        _path(folder, tile, tile_format),
        png(pixels) if tile_format == "png" else jpeg(pixels, _QUALITY, full_colour=True),
    )
