"""Filling a tile cache for a coverage: which tiles to ask for, margins included, and the fetch itself.

It knows coverage and the fetcher's door; retries, rates and terms are the fetcher's.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.build.coverage import Coverage
from tile_cache.fetch.client import fetch
from tile_cache.fetch.settings import FetchReport, FetchSettings
from tile_cache.mbtiles import TileStore
from tile_cache.source import SourceInfo
from tile_cache.xyz import XyzSource

__all__ = ["fetch_coverage", "fetch_summary", "fetch_tiles", "tiles_to_read", "zooms_of"]


def zooms_of(coverage: Coverage, info: SourceInfo) -> list[int]:
    """The coverage's zooms that the source has."""
    return [z for z in coverage.zooms if info.min_zoom <= z <= info.max_zoom]


def tiles_to_read(coverage: Coverage, reach: Mapping[int, int], info: SourceInfo) -> dict[int, int]:
    """Per zoom of the source, how many tiles the rows and their margins need; `reach` in tiles per zoom."""
    return {z: coverage.count(z, reach.get(z, 0)) for z in zooms_of(coverage, info)}


def fetch_coverage(
    source: XyzSource,
    store: TileStore,
    coverage: Coverage,
    reach: Mapping[int, int],
    settings: FetchSettings,
    on_progress: Callable[[FetchReport], None] | None = None,
) -> FetchReport:
    """Fetch what `store` lacks of the coverage and its margins. Raises what `tile_cache.fetch.client.fetch` raises."""
    return fetch_tiles(source, store, _chunks(coverage, reach, source.info), settings, on_progress)


def fetch_tiles(
    source: XyzSource,
    store: TileStore,
    chunks: Iterable[tuple[int, NDArray[np.uint64]]],
    settings: FetchSettings,
    on_progress: Callable[[FetchReport], None] | None = None,
) -> FetchReport:
    """The same for any tiles: zooms with Morton codes, (n,) uint64."""
    return asyncio.run(fetch(source, store, chunks, settings, on_progress))


def fetch_summary(source: XyzSource, report: FetchReport) -> dict[str, Any]:
    """A report as what outlives it: plain JSON values."""
    return {
        "source": source.info.name,
        "known": report.known,
        "kept": report.kept,
        "absent": report.absent,
        "failed": report.failed,
        "reasons": dict(report.reasons),
        "bytes": report.bytes,
        "seconds": round(report.seconds, 1),
    }


def _chunks(coverage: Coverage, reach: Mapping[int, int], info: SourceInfo) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    for z in zooms_of(coverage, info):
        for codes in coverage.chunks(z, reach.get(z, 0)):
            yield z, codes
