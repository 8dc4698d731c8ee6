"""The cost of a coverage before anything is fetched: tiles, bytes, hours and disk. Opens no socket.

Each figure names its origin: given, measured, default or assumed. The module knows the sizes of the index format, not
how to write it.
"""

import math
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from indexer.build.area import coverage_of
from indexer.build.coverage import Coverage
from indexer.build.fetch import cache_file, zooms_of
from indexer.build.inputs import EncoderFacts, load_encoders
from indexer.build.request import Encoders, TileRequest
from indexer.errors import BuildError
from tile_cache.addressing import tile_of_code
from tile_cache.fetch.settings import FetchSettings
from tile_cache.mbtiles import TileStore
from tile_cache.open import open_source
from tile_cache.source import TileSource, notes_of
from tile_cache.xyz import XyzSource

__all__ = ["Estimate", "Plan", "PlanRequest", "ZoomPlan", "estimate_cost"]

ASSUMED_TILE_BYTES = 15_000
"""Rough size of a 256-pixel JPEG satellite tile, used if the cache holds no tile."""

_ROW_BYTES = 16  # id in the FAISS list and Morton code
_LIST_BYTES = 8  # a list's length, one list a parent
_COUNTED_IN_CACHE = 20_000_000  # tiles; for more, looking each up in the cache takes too long


@dataclass(frozen=True, kw_only=True)
class PlanRequest(TileRequest):
    """A coverage whose cost is estimated, and the rates that are known."""

    source: str = field()
    dim: int | None = None
    """Components of a vector, if the encoder is not available here."""
    tile_bytes: int | None = None
    """Bytes of a tile; by default measured in the cache."""
    rate: float | None = None
    """Requests a second; by default 20."""
    embed_rate: float | None = None
    """Tiles embedded a second; without it or --measure, the plan has no embedding hours."""
    measure: bool = False
    """Load the encoders and measure the embedding rate here."""

    def __post_init__(self) -> None:
        for name in ("dim", "tile_bytes", "rate", "embed_rate"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise BuildError(f"--{name.replace('_', '-')} {value}: give a number above 0")


@dataclass(frozen=True)
class Estimate:
    """A number and its origin: given, measured, default or assumed."""

    value: float
    origin: str


@dataclass(frozen=True)
class ZoomPlan:
    """One zoom: rows of the index, neighbours that only margins need, and how many of both must be fetched."""

    zoom: int
    rows: int
    margin: int
    to_fetch: int


@dataclass(frozen=True)
class Plan:
    """The estimated cost of all zooms. Bytes are plain bytes; hours are None if there is no work or no known rate."""

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
        """Tiles to request from servers, the overlay's included."""
        return sum(z.to_fetch for z in self.zooms) + self.overlay_to_fetch

    @property
    def fetch_bytes(self) -> int:
        """Bytes to fetch, which the cache will hold."""
        return round(self.to_fetch * self.tile_bytes.value)

    @property
    def fetch_hours(self) -> float | None:
        """Hours of fetching at the fetch rate."""
        return self.to_fetch / self.fetch_rate.value / 3600 if self.fetch_rate else None

    @property
    def embed_hours(self) -> float | None:
        """Hours of embedding at the embedding rate, as if no two pictures were equal."""
        return self.rows / self.embed_rate.value / 3600 if self.embed_rate else None

    def to_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        derived = ("rows", "to_fetch", "fetch_bytes", "fetch_hours", "embed_hours")
        return asdict(self) | {name: getattr(self, name) for name in derived}


def estimate_cost(request: PlanRequest) -> Plan:
    """Count a coverage and estimate its cost; reads the caches of servers, fetches nothing.

    Raises CoverageError, BuildError, SourceError and, with `measure`, EncoderError kinds.
    """
    with ExitStack() as stack:
        source = open_source(request.source)
        overlay = None if request.overlay is None else open_source(request.overlay)
        coverage = coverage_of(request.area, request.zooms, source)
        encoders = EncoderFacts.read(request, request.dim)
        reach = encoders.reach(coverage.zooms)
        store = _existing_cache(stack, request.cache, source)
        zooms = _zoom_plans(coverage, source, reach, store)
        overlay_zooms: tuple[ZoomPlan, ...] = ()
        if overlay is not None:
            overlay_store = _existing_cache(stack, request.cache, overlay, overlay=True)
            overlay_zooms = _zoom_plans(coverage, overlay, reach, overlay_store)
        rows = sum(z.rows for z in zooms)
        vectors = rows * encoders.dim * (4 if request.codec == "fp32" else 2)
        index = vectors + rows * (_ROW_BYTES + _LIST_BYTES)
        remote = isinstance(source, XyzSource) or isinstance(overlay, XyzSource)
        return Plan(
            zooms=zooms,
            tile_bytes=_tile_bytes(request.tile_bytes, store, coverage),
            fetch_rate=_fetch_rate(request) if remote else None,
            embed_rate=_embed_rate(request),
            index_bytes=index,
            work_bytes=index + vectors + 8 * rows,
            overlay_to_fetch=sum(z.to_fetch for z in overlay_zooms),
            notes=(*coverage.notes, *notes_of(source), *(notes_of(overlay) if overlay is not None else ())),
        )


def _existing_cache(
    stack: ExitStack, cache: Path | None, source: TileSource | XyzSource, *, overlay: bool = False
) -> TileStore | None:
    """The cache of a server's tiles if it exists."""
    if not isinstance(source, XyzSource):
        return None
    path = cache_file(cache, source.info, overlay=overlay)
    return stack.enter_context(TileStore.open(path, source.info, read_only=True)) if path.exists() else None


def _tile_bytes(bytes_per_tile: int | None, store: TileStore | None, coverage: Coverage) -> Estimate:
    """Bytes of a tile: as given, else the mean of up to 100 cached tiles a zoom, else an assumption."""
    if bytes_per_tile is not None:
        return Estimate(bytes_per_tile, "given")
    sizes = [] if store is None else [n for z in coverage.zooms for n in _sizes(store, coverage, z)]
    if sizes:
        return Estimate(float(np.mean(sizes)), f"measured on {len(sizes)} tiles of the cache")
    return Estimate(ASSUMED_TILE_BYTES, "assumed")


def _fetch_rate(request: PlanRequest) -> Estimate:
    return Estimate(request.rate, "given") if request.rate else Estimate(FetchSettings().rate_per_s, "default")


def _embed_rate(request: PlanRequest) -> Estimate | None:
    if request.measure:
        return _measured_rate(load_encoders(request), request.zooms[-1])
    return Estimate(request.embed_rate, "given") if request.embed_rate else None


def _measured_rate(encoders: Encoders, zoom: int, seconds: float = 3.0) -> Estimate:
    """Tiles a second of a zoom's map encoder on random pictures, for about `seconds`, after one warm-up batch."""
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
    coverage: Coverage, source: TileSource | XyzSource, reach: Mapping[int, int], store: TileStore | None
) -> tuple[ZoomPlan, ...]:
    remote = zooms_of(coverage, source.info) if isinstance(source, XyzSource) else []
    return tuple(_zoom_plan(coverage, z, reach[z], store, z in remote) for z in coverage.zooms)


def _zoom_plan(coverage: Coverage, z: int, reach: int, store: TileStore | None, remote: bool) -> ZoomPlan:
    rows = coverage.count(z)
    near = coverage.count(z, reach) if reach else rows
    to_fetch = near if remote else 0
    if remote and store is not None and near <= _COUNTED_IN_CACHE:
        to_fetch = sum(len(store.unknown(codes, z)) for codes in coverage.chunks(z, reach))
    return ZoomPlan(z, rows, near - rows, to_fetch)


def _sizes(store: TileStore, coverage: Coverage, z: int, limit: int = 100) -> list[int]:
    """Sizes in bytes of at most `limit` cached tiles of a zoom."""
    codes = next(iter(coverage.chunks(z)), np.zeros(0, dtype=np.uint64))
    known = np.setdiff1d(codes, store.unknown(codes, z))
    tiles = (store.read(tile_of_code(int(code), z)) for code in islice(known, 2 * limit))
    return [len(data) for data in islice((data for data in tiles if data), limit)]
