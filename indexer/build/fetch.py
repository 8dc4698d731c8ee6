"""Fetching for a coverage: where a server's tiles are cached, which of them are needed, and the fetch itself.

It knows coverage and the fetcher's interface. Retries, rates and terms are the fetcher's.
"""

import asyncio
import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from indexer.build.area import coverage_of
from indexer.build.coverage import Coverage
from indexer.build.inputs import EncoderFacts, Inputs
from indexer.build.request import TileRequest
from indexer.build.workdir import Workdir
from indexer.errors import BuildError, NothingFoundError
from indexer.progress import OnProgress, counter
from retrieval.files import cache_folder, read_json, write_json
from tile_cache.database import is_writable
from tile_cache.errors import SourceError
from tile_cache.fetch import client
from tile_cache.fetch.settings import FetchReport, FetchSettings
from tile_cache.mbtiles import TileStore
from tile_cache.open import open_source
from tile_cache.source import SourceInfo, TileSource
from tile_cache.xyz import XyzSource

__all__ = [
    "FetchRequest",
    "Fetched",
    "cache_file",
    "fetch",
    "fetch_coverage",
    "fetch_servers",
    "fetch_tiles",
    "open_cache",
    "zooms_of",
]


class Fetched(NamedTuple):
    """Sources that answer at once: the source and, if there is one, its overlay; and a summary for each server."""

    layers: tuple[TileSource, ...]
    summaries: list[dict[str, Any]]


def fetch(work: Workdir, inputs: Inputs, stack: ExitStack, on_progress: OnProgress) -> Fetched:
    """Fill the caches of those sources that are servers; `stack` closes the caches.

    A fetch that has ended is not repeated when the build resumes, although tiles may have failed: the units embedded
    since were made without them.
    """
    ended = read_json(work.fetched) if work.fetched.exists() else {}
    layers: list[TileSource] = []
    summaries = []
    for number, source in enumerate(inputs.sources):
        if not isinstance(source, XyzSource):
            layers.append(source)
            continue
        path = cache_file(inputs.request.cache, source.info, overlay=number > 0)
        summary = ended.get(str(number)) if path.exists() else None
        store = stack.enter_context(open_cache(path, source.info))
        if summary is None:
            settings = inputs.request.fetch
            summary = fetch_coverage(source, store, inputs.coverage, inputs.reach, settings, on_progress)
        ended[str(number)] = summary
        write_json(work.fetched, ended)
        layers.append(store)
        summaries.append(summary)
    return Fetched(tuple(layers), summaries)


@dataclass(frozen=True, kw_only=True)
class FetchRequest(TileRequest):
    """A coverage to fetch into the caches of its servers."""

    source: str = field()
    fetch: FetchSettings = field(default_factory=FetchSettings)
    """How to fetch from servers."""


def fetch_servers(request: FetchRequest, on_progress: OnProgress) -> list[dict[str, Any]]:
    """Fill the cache of the source and of the overlay, if they are servers; returns a summary for each.

    Raises BuildError if neither is a server.
    """
    source = open_source(request.source)
    overlay = None if request.overlay is None else open_source(request.overlay)
    servers = [s for s in (source, overlay) if isinstance(s, XyzSource)]
    if not servers:
        raise BuildError(f"{source.info.name} is on this machine already: there is nothing to fetch")
    coverage = coverage_of(request.area, request.zooms, source)
    reach = EncoderFacts.read(request).reach(coverage.zooms)
    summaries = []
    for server in servers:
        path = cache_file(request.cache, server.info, overlay=server is overlay)
        with open_cache(path, server.info) as store:
            summary = fetch_coverage(server, store, coverage, reach, request.fetch, on_progress)
        summaries.append(summary | {"cache": str(path)})
    return summaries


def cache_file(cache: Path | None, info: SourceInfo, *, overlay: bool = False) -> Path:
    """The file that caches a source's tiles: `cache` itself if it ends in .mbtiles, else a file in that folder.

    An overlay's tiles go to NAME.overlay.mbtiles beside such a file. None: the user's cache folder
    (`retrieval.files.cache_folder`).
    """
    if cache is not None and cache.suffix == ".mbtiles":
        return cache.with_suffix(".overlay.mbtiles") if overlay else cache
    folder = cache if cache is not None else cache_folder() / "tiles"
    slug = re.sub(r"[^A-Za-z0-9.-]+", "-", info.name).strip("-.")[:40] or "tiles"
    return folder / f"{slug}-{hashlib.sha256(info.identity.encode()).hexdigest()[:10]}.mbtiles"


def open_cache(path: Path, info: SourceInfo) -> TileStore:
    """The store at `path`; creates its folder. On a read-only disk it is opened for reading, which is enough for a
    complete one. Raises StoreError or SourceError.
    """
    if path.is_file() and not is_writable(path):
        return TileStore.open(path, info, read_only=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SourceError(f"cannot create the folder {path.parent} ({exc.strerror}): give another --cache") from exc
    return TileStore.open(path, info)


def zooms_of(coverage: Coverage, info: SourceInfo) -> list[int]:
    """The coverage's zooms that the source has."""
    return [z for z in coverage.zooms if info.min_zoom <= z <= info.max_zoom]


def fetch_coverage(
    source: XyzSource,
    store: TileStore,
    coverage: Coverage,
    reach: Mapping[int, int],
    settings: FetchSettings,
    on_progress: OnProgress,
) -> dict[str, Any]:
    """Fetch the tiles of a coverage and its margins that `store` lacks; returns a summary as plain JSON values.

    `reach`: how many tiles away each zoom's margin reaches. Raises what `tile_cache.fetch.client.fetch` raises.
    """
    zooms = zooms_of(coverage, source.info)
    total = sum(coverage.count(z, reach[z]) for z in zooms)
    chunks = ((z, codes) for z in zooms for codes in coverage.chunks(z, reach[z]))
    report = fetch_tiles(source, store, chunks, total, settings, on_progress)
    return {
        "source": source.info.name,
        "known": report.known,
        "kept": report.kept,
        "absent": report.absent,
        "absent_by_status": {str(status): n for status, n in report.absent_statuses.items()},
        "failed": report.failed,
        "reasons": dict(report.reasons),
        "bytes": report.bytes,
        "repeated": [r.to_json() for r in report.repeated],
        "seconds": round(report.seconds, 1),
    }


def fetch_tiles(
    source: XyzSource,
    store: TileStore,
    chunks: Iterable[tuple[int, NDArray[np.uint64]]],
    total: int,
    settings: FetchSettings,
    on_progress: OnProgress,
) -> FetchReport:
    """Fetch the tiles that `store` lacks. `chunks`: zooms with Morton codes, (n,) uint64; `total` counts the codes.

    Raises what `tile_cache.fetch.client.fetch` raises, and NothingFoundError if there is not one image of these tiles.
    """
    step = counter(on_progress, "fetch", f"Fetching {source.info.name}")
    report = asyncio.run(client.fetch(source, store, chunks, settings, lambda report: step(report.done, total)))
    if report.planned and not report.found:
        raise NothingFoundError(_nothing(source, report))
    return report


def _nothing(source: XyzSource, report: FetchReport) -> str:
    """What came back instead of images: counts by status and reason, and an example."""
    counts = [f"{n:,} x HTTP {status}" for status, n in report.absent_statuses.items()]
    counts += [f"{n:,} x {reason}" for reason, n in report.reasons.items()]
    if report.placeholders:
        counts.append(f"{report.placeholders:,} x a picture that is named as absent")
    if remembered := report.known:
        counts.append(f"{remembered:,} known to be absent from before (--refresh asks again)")
    example = report.absent_example or (report.examples[0].tile if report.examples else None)
    where = f", e.g. {source.public_url(example)}" if example is not None else ""
    return (
        f"{source.info.name}: not one of {report.planned:,} tiles is an image: {', '.join(counts)}{where}; check the"
        " template (the order of {z}, {x} and {y}; {-y} for rows from the south), the zooms and the area"
    )
