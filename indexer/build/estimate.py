"""What a coverage costs, before anything is fetched: tiles, bytes, hours and disk. Nothing here opens a socket.

Each assumption is named beside its figure. It knows the sizes of the index format, not how to write it.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from indexer.build.area import reach_of
from indexer.build.coverage import Coverage
from indexer.build.fetch import zooms_of
from indexer.build.request import Encoders
from indexer.errors import BuildError
from tile_cache.addressing import tile_of_code
from tile_cache.mbtiles import TileStore
from tile_cache.source import TileSource
from tile_cache.xyz import XyzSource

__all__ = ["EncoderFacts", "Estimate", "Plan", "ZoomPlan", "make_plan", "measured_rate", "tile_bytes"]

ASSUMED_TILE_BYTES = 15_000
"""Bytes of a 256-pixel JPEG satellite tile, roughly, where none has been seen yet."""

ASSUMED_DIM = 512
"""Components of a ViT-B-32 embedding."""

_ROW_BYTES = 16  # id in the FAISS list and Morton code
_LIST_BYTES = 8  # a list's length, one list a parent
_COUNTED_IN_CACHE = 20_000_000  # tiles; beyond, asking the cache for each would take longer than it is worth


@dataclass(frozen=True)
class Estimate:
    """A number and where it comes from: given, measured or assumed."""

    value: float
    origin: str


@dataclass(frozen=True)
class EncoderFacts:
    """What planning needs of encoders without loading them: components, and margins in tile widths per zoom."""

    dim: int
    contexts: Mapping[int, float]

    @classmethod
    def read(cls, photo_encoder: str, map_encoders: Path | None, dim: int | None = None) -> "EncoderFacts":
        """From the JSON that lies beside saved encoders; `dim` overrides, and 512 stands in where nothing is known."""
        builtin = Path(str(resources.files("indexer.builtin").joinpath("maps.json"))).parent
        photos = builtin if photo_encoder == "builtin" else Path(photo_encoder)
        maps = map_encoders or (builtin if photo_encoder == "builtin" else None)
        found = dim or _read(photos / "photo.json").get("architecture", {}).get("embed_dim")
        zooms = _read(maps / "maps.json").get("zooms", {}) if maps else {}
        if map_encoders is not None and not zooms:
            raise BuildError(f"{map_encoders} holds no maps.json: give a directory that `tilebeam train` made")
        return cls(int(found or ASSUMED_DIM), {int(z): float(entry["context"]) for z, entry in zooms.items()})


@dataclass(frozen=True)
class ZoomPlan:
    """One zoom: rows of the index, neighbours that only margins need, and how many of both are still to be fetched."""

    zoom: int
    rows: int
    margin: int
    to_fetch: int


@dataclass(frozen=True)
class Plan:
    """All zooms. Bytes are plain bytes; hours are None where nothing is to be done or no rate is known."""

    zooms: tuple[ZoomPlan, ...]
    tile_bytes: Estimate
    fetch_rate: Estimate | None
    embed_rate: Estimate | None
    index_bytes: int
    work_bytes: int
    overlay_to_fetch: int = 0
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of the whole index."""
        return sum(z.rows for z in self.zooms)

    @property
    def to_fetch(self) -> int:
        """Tiles that servers will be asked for, the overlay's too."""
        return sum(z.to_fetch for z in self.zooms) + self.overlay_to_fetch

    @property
    def fetch_bytes(self) -> int:
        """Bytes over the network, which the cache then holds."""
        return round(self.to_fetch * self.tile_bytes.value)

    @property
    def fetch_hours(self) -> float | None:
        """At the rate of fetching."""
        return self.to_fetch / self.fetch_rate.value / 3600 if self.fetch_rate else None

    @property
    def embed_hours(self) -> float | None:
        """At the rate of embedding, as if no two pictures were equal."""
        return self.rows / self.embed_rate.value / 3600 if self.embed_rate else None

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        derived = ("rows", "to_fetch", "fetch_bytes", "fetch_hours", "embed_hours")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def make_plan(
    coverage: Coverage,
    source: TileSource | XyzSource,
    encoders: EncoderFacts,
    *,
    store: TileStore | None,
    tile_bytes: Estimate,
    fetch_rate: Estimate,
    embed_rate: Estimate | None = None,
    component_bytes: int = 2,
    overlay: TileSource | XyzSource | None = None,
    overlay_store: TileStore | None = None,
) -> Plan:
    """Count a coverage. `store` is the source's cache if it has one already; rates are in tiles a second."""
    zooms = _zoom_plans(coverage, source, encoders, store)
    overlaid = [] if overlay is None else _zoom_plans(coverage, overlay, encoders, overlay_store)
    vectors = sum(z.rows for z in zooms) * encoders.dim * component_bytes
    index = vectors + sum(z.rows for z in zooms) * (_ROW_BYTES + _LIST_BYTES)
    return Plan(
        zooms=zooms,
        tile_bytes=tile_bytes,
        fetch_rate=fetch_rate if isinstance(source, XyzSource) or isinstance(overlay, XyzSource) else None,
        embed_rate=embed_rate,
        index_bytes=index,
        work_bytes=index + vectors + 8 * sum(z.rows for z in zooms),
        overlay_to_fetch=sum(z.to_fetch for z in overlaid),
        notes=coverage.notes,
    )


def tile_bytes(given: int | None, store: TileStore | None, coverage: Coverage) -> Estimate:
    """Bytes of a tile: as given, else the mean of up to 100 a zoom that the cache holds, else an assumption."""
    if given is not None:
        return Estimate(given, "given")
    sizes = [] if store is None else [n for z in coverage.zooms for n in _sizes(store, coverage, z)]
    if sizes:
        return Estimate(float(np.mean(sizes)), f"measured on {len(sizes)} tiles of the cache")
    return Estimate(ASSUMED_TILE_BYTES, "assumed")


def measured_rate(encoders: Encoders, zoom: int, seconds: float = 3.0) -> Estimate:
    """Tiles a second of the map encoder of a zoom, on random pictures for about so long, after one batch to warm up."""
    maps = encoders.maps
    shape = (maps.batch_size, maps.input_size, maps.input_size, 3)
    batch = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    maps.encode(zoom, batch)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or not done:
        maps.encode(zoom, batch)
        done += len(batch)
    return Estimate(done / (time.perf_counter() - started), "measured here")


def _zoom_plans(
    coverage: Coverage, source: TileSource | XyzSource, encoders: EncoderFacts, store: TileStore | None
) -> tuple[ZoomPlan, ...]:
    present = zooms_of(coverage, source.info) if isinstance(source, XyzSource) else []
    return tuple(
        _zoom_plan(coverage, z, reach_of(encoders.contexts.get(z, 0.0)), store, z in present) for z in coverage.zooms
    )


def _zoom_plan(coverage: Coverage, z: int, reach: int, store: TileStore | None, remote: bool) -> ZoomPlan:
    rows = coverage.count(z)
    near = coverage.count(z, reach) if reach else rows
    to_fetch = near if remote else 0
    if remote and store is not None and near <= _COUNTED_IN_CACHE:
        to_fetch = sum(len(store.unknown(codes, z)) for codes in coverage.chunks(z, reach))
    return ZoomPlan(z, rows, near - rows, to_fetch)


def _sizes(store: TileStore, coverage: Coverage, z: int, most: int = 100) -> list[int]:
    codes = next(iter(coverage.chunks(z)), np.zeros(0, dtype=np.uint64))
    known = np.setdiff1d(codes, store.unknown(codes, z))
    found = (store.read(tile_of_code(int(code), z)) for code in islice(known, 2 * most))
    return [len(data) for data in islice((d for d in found if d), most)]


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
