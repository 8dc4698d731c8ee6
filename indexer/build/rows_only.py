"""An index of rows only: which tiles there are, and no vector at any zoom. Made from a coverage alone, in seconds.

Asked with a prior it answers at once; tiles with vectors, embedded later, sharpen it. It knows no pictures.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexer.build.area import coverage_of
from indexer.build.coverage import Coverage
from indexer.build.request import BuildReport, RowsRequest
from indexer.build.rows import stored_codes
from indexer.build.shards import cut_shards, parent_rows
from indexer.build.workdir import IDENTITY_NAME, Workdir, is_finished, open_workdir, remove_leftovers
from indexer.errors import CoverageError
from indexer.progress import OnProgress, Progress
from indexer.runs import disk_errors
from retrieval.encoders.no_encoder import NO_ENCODER, NoEncoder
from retrieval.files import read_json, write_json
from retrieval.index.manifest import Manifest, ShardEntry, ZoomEntry
from retrieval.index.writer import write_manifest, write_shard
from tile_cache.open import open_source
from tile_cache.source import TileSource
from tile_cache.xyz import XyzSource

__all__ = ["build_rows"]

Codes = NDArray[np.uint64]


def build_rows(request: RowsRequest, *, on_progress: OnProgress = lambda progress: None) -> BuildReport:
    """Build, or find already built, the index of rows that `request` describes; resumes. Raises as `build_index`."""
    started = time.monotonic()
    with ExitStack() as stack, disk_errors(request.out):
        coverage = coverage_of(request.area, request.zooms, _opened(stack, request.source))
        for note in coverage.notes:
            on_progress(Progress("note", note))
        plan = {"plan": 1, "rows only": True, "coverage": coverage.identity, "rows a shard": request.shard_rows}
        if is_finished(request.out, plan):
            remove_leftovers(request.out)
            return _report(request.out, Manifest.read(request.out), already=True)
        with open_workdir(request.out, plan, overwrite=request.overwrite) as partial:
            manifest = _built(request, coverage, partial, on_progress)
            partial.publish(overwrite=request.overwrite)
    report = _report(request.out, manifest)
    report.seconds = time.monotonic() - started
    return report


def _opened(stack: ExitStack, spec: str | None) -> TileSource | XyzSource | None:
    """The source; it stays open as long as the coverage may ask it for land."""
    if spec is None:
        return None
    source = open_source(spec)
    if not isinstance(source, XyzSource):
        stack.callback(source.close)
    return source


def _built(request: RowsRequest, coverage: Coverage, partial: Workdir, tell: OnProgress) -> Manifest:
    partial.index.mkdir(exist_ok=True)
    entries: list[ZoomEntry] = []
    above: Codes | None = None
    for zoom in coverage.zooms:
        count = coverage.count(zoom)
        if count == 0:
            raise CoverageError(f"the coverage holds no tile at zoom {zoom}: take a larger area, or --land 0")
        codes = stored_codes(partial.rows / f"z{zoom:02d}.npy", coverage, zoom, count)
        step = zoom - entries[-1].zoom if entries else 0
        shards = []
        for shard in _shards(partial.index, zoom, codes, above, step, request.shard_rows):
            shards.append(shard)
            tell(Progress("write", f"Writing zoom {zoom}", shard.first_row + shard.rows, count))
        entries.append(ZoomEntry(zoom, tuple(shards), NO_ENCODER))
        above = codes
    write_json(partial.index / IDENTITY_NAME, read_json(partial.root / IDENTITY_NAME))
    return _declared(partial.index, entries, coverage)


def _shards(
    directory: Path, zoom: int, codes: Codes, above: Codes | None, step: int, most: int
) -> Iterator[ShardEntry]:
    for number, cut in enumerate(cut_shards(codes, above, step, most)):
        own = np.asarray(codes[cut.first_row : cut.first_row + cut.rows])
        yield write_shard(
            directory,
            zoom,
            number,
            own,
            parents=parent_rows(own, above, step, cut),
            first_row=cut.first_row,
            first_parent=cut.first_parent,
            parent_count=cut.parents,
        )


def _declared(directory: Path, entries: list[ZoomEntry], coverage: Coverage) -> Manifest:
    return write_manifest(
        directory,
        entries,
        dim=0,
        codec="fp16",
        photo_encoder=NoEncoder().describe(),
        map_encoders={},
        source={"identity": "rows only", "name": "rows only"},
        attribution="",
        coverage=coverage.geojson,
        other_files=[IDENTITY_NAME],
    )


def _report(out: Path, manifest: Manifest, *, already: bool = False) -> BuildReport:
    rows: dict[int, Any] = {z.zoom: z.rows for z in manifest.zooms}
    none = dict.fromkeys(rows, 0)
    return BuildReport(out, manifest.id, rows, none, dict(none), already=already)
