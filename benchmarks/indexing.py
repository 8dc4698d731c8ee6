"""Times `tilebeam index` against the encoder alone, in tiles a second; ViT-B/32's shape, no margin, the same threa

The encoder has seeded random weights, on which speed does not depend. Tiles are 256-pixel JPEGs of the built-in Earth
in a tile cache, as after a fetch. Rounds of the two alternate, so that a slower machine slows both.

    python -m benchmarks.indexing [--quick] [--tiles 1024] [--rounds 3] [--device auto] [--shape ViT-B-32|tiny]
        [--json FILE]

Prints a Markdown table and writes JSON.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.support import machine
from benchmarks.support.validity import Watch, figure, report
from indexer.build.area import Area
from indexer.build.build import build_index
from indexer.build.compose import Composer
from indexer.build.embed import embed_zoom
from indexer.build.request import UNIT_ROWS, BuildRequest, Encoders
from indexer.build.units import ZoomRows
from retrieval.encoders.open_clip import MapEncoders, PhotoEncoder, build_tower
from retrieval.encoders.preprocess import Preprocess
from tile_cache.addressing import bounds_of_codes, children_of_codes, codes_at, tile_of_code
from tile_cache.bluemarble import BlueMarble
from tile_cache.mbtiles import TileRecord, TileStore

ZOOM = 8
SHAPES = {
    "ViT-B-32": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
    "tiny": {"image_size": 72, "layers": 6, "width": 192, "patch_size": 12, "head_width": 64},
}
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def main() -> None:
    """Measure, print a table, write JSON."""
    asked = _arguments()
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), asked.tiles, asked.rounds, asked.device, asked.shape)
    print("| | tiles a second | of the encoder |\n|---|---:|---:|")
    for row in ("encoder alone", "embedding", "whole index"):
        ratio = figure(f"{result['ratios'][row]:.1%}", result["faults"].get(row, ()))
        print(f"| {row} | {result['rates'][row]:.1f} | {ratio} |")
    report(result["faults"])
    print(f"\n{result['shape']}, {result['device']}, {result['torch_threads']} threads, {result['tiles']} tiles")
    print(machine.sentence(result["machine"]))
    asked.json.write_text(json.dumps(result, indent=1) + "\n")


def measure(folder: Path, tiles: int, rounds: int, device: str, shape: str) -> dict[str, Any]:
    """Return rates in tiles a second, medians over rounds, and their ratios to the encoder alone in the same round."""
    encoders = _encoders(shape, device)
    store, codes = _cache(folder / "tiles.mbtiles", tiles)
    composer = Composer(store, None, encoders.maps.input_size, 0.0)
    pictures = np.stack([_pixels(composer, int(code)) for code in codes])
    _raw_s(encoders, pictures[: 2 * encoders.maps.batch_size])  # warm up
    seconds: dict[str, list[float]] = {"encoder alone": [], "embedding": [], "whole index": []}
    with Watch() as watch:
        for n in range(rounds):
            seconds["encoder alone"].append(_raw_s(encoders, pictures))
            seconds["embedding"].append(_embedding_s(folder / f"units{n}", encoders, store, codes))
            seconds["whole index"].append(_index_s(folder / f"index{n}", encoders, store.path, codes))
    store.close()
    ratios = {
        name: [raw / own for raw, own in zip(seconds["encoder alone"], own_s, strict=True)]
        for name, own_s in seconds.items()
    }
    return {
        "shape": shape,
        "device": str(encoders.photo.device),  # type: ignore[attr-defined]
        "torch_threads": torch.get_num_threads(),
        "machine": machine.describe(),
        "tiles": len(codes),
        "rounds": rounds,
        "rates": {name: len(codes) / statistics.median(s) for name, s in seconds.items()},
        "ratios": {name: statistics.median(series) for name, series in ratios.items()},
        "faults": {name: watch.faults(series) for name, series in ratios.items() if name != "encoder alone"},
    }


def _raw_s(encoders: Encoders, pictures: np.ndarray) -> float:
    started, size = time.perf_counter(), encoders.maps.batch_size
    for start in range(0, len(pictures), size):
        encoders.maps.encode(ZOOM, pictures[start : start + size])
    return time.perf_counter() - started


def _embedding_s(units: Path, encoders: Encoders, store: TileStore, codes: np.ndarray) -> float:
    started = time.perf_counter()
    composer = Composer(store, None, encoders.maps.input_size, 0.0)
    rows = ZoomRows(ZOOM, codes, units, units, UNIT_ROWS)
    embed_zoom(rows, encoders.maps, composer, dtype="<f2", threads=os.cpu_count() or 1)
    return time.perf_counter() - started


def _index_s(out: Path, encoders: Encoders, cache: Path, codes: np.ndarray) -> float:
    """Time the whole command without loading the encoder; one zoom, the bbox of exactly these tiles."""
    west, south, east, north = bounds_of_codes(codes, ZOOM)
    box = (float(west.min()), float(south.min()), float(east.max()), float(north.max()))
    started = time.perf_counter()
    report = build_index(
        BuildRequest(source=str(cache), out=out, zooms=(ZOOM,), area=Area(bbox=box)), encoders=encoders
    )
    seconds = time.perf_counter() - started
    assert report.encoded == len(codes), "the tiles should all differ, and the box should hold them all"
    return seconds


def _encoders(shape: str, device: str) -> Encoders:
    torch.manual_seed(0)
    architecture = {"embed_dim": 512, "vision_cfg": SHAPES[shape], "quick_gelu": shape == "ViT-B-32"}
    preprocess = Preprocess(int(SHAPES[shape]["image_size"]), MEAN, STD)
    photo = PhotoEncoder(shape, build_tower(architecture), preprocess, architecture, device)
    return Encoders(photo, MapEncoders.load(None, photo))


def _cache(path: Path, tiles: int) -> tuple[TileStore, np.ndarray]:
    """Make a cache of a square of 4^n different tiles of the Alps, at least `tiles` of them."""
    step = next(n for n in range(9) if 4**n >= tiles)
    parent = np.array([_code_at(8.5, 46.5, ZOOM - step)], dtype=np.uint64)
    codes = children_of_codes(parent, step)
    earth = BlueMarble()
    store = TileStore.open(path, earth.info)
    store.put([TileRecord(tile_of_code(int(code), ZOOM), _jpeg(earth, int(code))) for code in codes])
    return store, codes


def _code_at(lng: float, lat: float, z: int) -> int:
    """Return the Morton code of the tile of zoom `z` at a point in degrees."""
    return int(codes_at(np.array([lng]), np.array([lat]), z)[0])


def _jpeg(earth: BlueMarble, code: int) -> bytes:
    pixels = earth.render(tile_of_code(code, ZOOM), 256)
    assert pixels is not None
    # Satellite tiles have detail in every pixel, which this imagery lacks at zoom 8: grain makes decoding as costly.
    grain = np.random.default_rng(code).integers(-12, 13, pixels.shape)
    out = io.BytesIO()
    Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def _pixels(composer: Composer, code: int) -> np.ndarray:
    pixels = composer.compose(tile_of_code(code, ZOOM)).pixels
    assert pixels is not None
    return pixels


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiles", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--shape", choices=SHAPES, default="ViT-B-32")
    parser.add_argument("--json", type=Path, default=Path("indexing.json"))
    parser.add_argument("--quick", action="store_true", help="64 tiles and one round, to see that it runs")
    asked = parser.parse_args()
    if asked.quick:
        asked.tiles, asked.rounds = 64, 1
    return asked


if __name__ == "__main__":
    main()
