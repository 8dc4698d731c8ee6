"""The whole way from a tile source to an index directory, resumable at every step.

Fetch what is missing, embed unit by unit, fill and cut into shards, declare it whole, rename. A build that was killed
anywhere goes on where it was and ends with the bytes of one that was not. What it is made of is in the other modules;
this one knows the order and what makes two builds the same build.
"""

import os
import shutil
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from indexer.build.area import cache_file, coverage_of, open_cache, reach_of
from indexer.build.compose import Composer
from indexer.build.coverage import Coverage
from indexer.build.embed import EmbedCounts, embed_zoom
from indexer.build.fetch import fetch_coverage, fetch_summary, tiles_to_read
from indexer.build.problems import PROBLEMS_NAME, write_problems
from indexer.build.publish import describe_photo, fitting_calibration, write_manifest
from indexer.build.request import BuildReport, BuildRequest, Encoders
from indexer.build.rows import ZoomRows, stored_codes
from indexer.build.shards import fill_from_children, stored_dtype, write_zoom
from indexer.build.workdir import IDENTITY_NAME, Workdir, is_finished, open_workdir, remove_leftovers
from indexer.errors import BuildError, CoverageError
from indexer.progress import OnProgress, Progress
from indexer.runs import disk_errors
from retrieval.files import read_json, write_json
from retrieval.index.manifest import Manifest, ZoomEntry
from tile_cache.mbtiles import TileStore
from tile_cache.open import open_source
from tile_cache.source import TileSource
from tile_cache.xyz import XyzSource

__all__ = ["BuildReport", "BuildRequest", "Encoders", "Progress", "build_index", "load_encoders"]


def build_index(
    request: BuildRequest, *, encoders: Encoders | None = None, on_progress: OnProgress = lambda progress: None
) -> BuildReport:
    """Build, go on building, or find already built, the index that `request` describes.

    Raises IndexerError, TileCacheError or RetrievalError kinds with one clear line; after any of them, and after a
    KeyboardInterrupt, the same request goes on from there.
    """
    started = time.monotonic()
    with ExitStack() as stack, disk_errors(request.out):
        source = _opened(stack, request.source)
        overlay = None if request.overlay is None else _opened(stack, request.overlay)
        coverage = coverage_of(request.area, request.zooms, source)
        for note in coverage.notes:
            on_progress(Progress("note", note))
        both = encoders or load_encoders(request)
        plan = _plan(request, coverage, source, overlay, both)
        if is_finished(request.out, plan):
            remove_leftovers(request.out)
            return _report(request.out, Manifest.read(request.out), already=True)
        counts = _counted(coverage)
        partial = stack.enter_context(open_workdir(request.out, plan, overwrite=request.overwrite))
        build = _Build(request, partial, coverage, counts, both, on_progress)
        build.fetch(stack, source, overlay)
        report = build.run(source, overlay)
    report.seconds = time.monotonic() - started
    return report


def load_encoders(request: BuildRequest) -> Encoders:
    """The encoders that a request names. Raises EncoderError kinds."""
    from retrieval.encoders.open_clip import MapEncoders, PhotoEncoder

    photo = PhotoEncoder.load(request.photo_encoder, device=request.device)
    return Encoders(photo, MapEncoders.load(request.map_encoders, photo))


class _Build:
    """One build under way in its claimed folder."""

    def __init__(
        self,
        request: BuildRequest,
        partial: Workdir,
        coverage: Coverage,
        counts: Mapping[int, int],
        encoders: Encoders,
        on_progress: OnProgress,
    ) -> None:
        self.request, self.partial, self.coverage, self.counts = request, partial, coverage, counts
        self.encoders, self.tell = encoders, on_progress
        self.dtype = stored_dtype(request.codec)
        self.fetches: list[dict[str, Any]] = []
        self.readable: dict[int, TileSource] = {}

    def fetch(self, stack: ExitStack, *sources: TileSource | XyzSource | None) -> None:
        """Fill the caches of those sources that are servers, and open them for reading.

        Once a fetch has come to its end, a resumed build does not ask again for what could not be had: its units were
        made without.
        """
        done = read_json(self.partial.fetched) if self.partial.fetched.exists() else {}
        reach = {z: reach_of(self.encoders.maps.context(z)) for z in self.coverage.zooms}
        for number, source in enumerate(sources):
            if not isinstance(source, XyzSource):
                if source is not None:
                    self.readable[number] = source
                continue
            path = cache_file(self.request.cache, source.info, overlay=number > 0)
            known = done.get(str(number)) if path.exists() else None
            store = open_cache(path, source.info)
            stack.callback(store.close)
            done[str(number)] = known or self._fetched(source, store, reach)
            write_json(self.partial.fetched, done)
            self.fetches.append(done[str(number)])
            self.readable[number] = store

    def run(self, source: TileSource | XyzSource, overlay: TileSource | XyzSource | None) -> BuildReport:
        """Embed, assemble, publish."""
        totals = EmbedCounts()
        levels = [self._rows(z) for z in self.coverage.zooms]
        for rows in levels:
            counts = self._embed(rows)
            totals.encoded, totals.kept = totals.encoded + counts.encoded, totals.kept + counts.kept
        entries = self._assemble(levels)
        problems = write_problems(self.partial.index, [r for r in levels if self._has_imagery(r.zoom, source)])
        manifest = self._manifest(entries, source, overlay)
        calibrated = fitting_calibration(self.request.calibration, manifest, self.partial.index)
        self.partial.publish(overwrite=self.request.overwrite)
        report = _report(self.request.out, manifest)
        report.encoded, report.kept, report.problems = totals.encoded, totals.kept, problems
        report.fetches, report.calibrated = self.fetches, calibrated
        return report

    def _fetched(self, source: XyzSource, store: TileStore, reach: Mapping[int, int]) -> dict[str, Any]:
        total = sum(tiles_to_read(self.coverage, reach, source.info).values())
        name = f"Fetching {source.info.name}"
        report = fetch_coverage(
            source, store, self.coverage, reach, self.request.fetch,
            lambda r: self.tell(Progress("fetch", name, r.done, total)),
        )  # fmt: skip
        return fetch_summary(source, report)

    def _rows(self, zoom: int) -> ZoomRows:
        """The codes of a zoom, on disk so that no zoom needs to fit into memory."""
        codes = stored_codes(self.partial.rows / f"z{zoom:02d}.npy", self.coverage, zoom, self.counts[zoom])
        return ZoomRows(zoom, codes, self.partial.units, self.partial.filled, self.request.unit_rows)

    def _embed(self, rows: ZoomRows) -> EmbedCounts:
        maps = self.encoders.maps
        composer = Composer(self.readable[0], self.readable.get(1), maps.input_size, maps.context(rows.zoom))
        name = f"Embedding zoom {rows.zoom}"
        return embed_zoom(
            rows.codes,
            rows.zoom,
            maps,
            composer,
            self.partial.units,
            dtype=self.dtype,
            threads=self.request.threads or _cores(),
            unit_rows=self.request.unit_rows,
            on_unit=lambda c: self.tell(Progress("embed", name, c.rows, len(rows.codes))),
        )

    def _assemble(self, levels: list[ZoomRows]) -> list[ZoomEntry]:
        """Means from the deepest zoom up, then shards; always anew, as both are quick and follow from the units."""
        for folder in (self.partial.filled, self.partial.index):
            shutil.rmtree(folder, ignore_errors=True)
        self.partial.index.mkdir()
        inferred = {levels[-1].zoom: 0}
        for rows, below in zip(levels[-2::-1], levels[:0:-1], strict=True):
            inferred[rows.zoom] = fill_from_children(rows, below, self.dtype)
        return [
            self._shards(rows, above, inferred[rows.zoom])
            for rows, above in zip(levels, [None, *levels[:-1]], strict=True)
        ]

    def _shards(self, rows: ZoomRows, above: ZoomRows | None, inferred: int) -> ZoomEntry:
        maps, shards, done = self.encoders.maps, [], 0
        written = write_zoom(self.partial.index, rows, above, codec=self.request.codec, most=self.request.shard_rows)
        for shard in written:
            shards.append(shard)
            done += shard.rows
            self.tell(Progress("write", f"Writing zoom {rows.zoom}", done, len(rows.codes)))
        return ZoomEntry(rows.zoom, tuple(shards), maps.fingerprint(rows.zoom), maps.context(rows.zoom), inferred)

    def _manifest(
        self, entries: list[ZoomEntry], source: TileSource | XyzSource, overlay: TileSource | XyzSource | None
    ) -> Manifest:
        write_json(self.partial.index / IDENTITY_NAME, read_json(self.partial.root / IDENTITY_NAME))
        return write_manifest(
            self.partial.index,
            entries,
            photo=self.encoders.photo,
            input_size=self.encoders.maps.input_size,
            codec=self.request.codec,
            source=source.info,
            overlay=None if overlay is None else overlay.info,
            coverage=self.coverage.geojson,
            others=(IDENTITY_NAME, PROBLEMS_NAME),
        )

    def _has_imagery(self, zoom: int, source: TileSource | XyzSource) -> bool:
        """A zoom above the source's first has none anywhere, which is no problem of any tile."""
        return zoom >= source.info.min_zoom


def _cores() -> int:
    """Cores that this process may use; where the system cannot tell, all there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _opened(stack: ExitStack, spec: str) -> TileSource | XyzSource:
    source = open_source(spec)
    if not isinstance(source, XyzSource):
        stack.callback(source.close)
    return source


def _plan(
    request: BuildRequest,
    coverage: Coverage,
    source: TileSource | XyzSource,
    overlay: TileSource | XyzSource | None,
    encoders: Encoders,
) -> dict[str, Any]:
    """All that decides the bytes of the index."""
    photo, maps = encoders
    if photo.dim != maps.dim:
        raise BuildError(f"the photo encoder has {photo.dim} dimensions, the map encoders {maps.dim}: they must agree")
    stored_dtype(request.codec)
    return {
        "plan": 1,
        "zooms": list(coverage.zooms),
        "coverage": coverage.identity,
        "source": source.info.identity,
        "overlay": None if overlay is None else overlay.info.identity,
        "photo encoder": describe_photo(photo)["fingerprint"],
        "map encoders": {str(z): maps.fingerprint(z) for z in coverage.zooms},
        "margins": {str(z): maps.context(z) for z in coverage.zooms},
        "input": [maps.input_size, maps.batch_size, maps.dim],
        "codec": request.codec,
        "rows a unit": request.unit_rows,
        "rows a shard": request.shard_rows,
    }


def _counted(coverage: Coverage) -> dict[int, int]:
    counts = {z: coverage.count(z) for z in coverage.zooms}
    for z, n in counts.items():
        if n == 0:
            raise CoverageError(f"the coverage holds no tile at zoom {z}: take a larger area, or --land 0")
    return counts


def _report(out: Path, manifest: Manifest, *, already: bool = False) -> BuildReport:
    return BuildReport(
        out=out,
        index_id=manifest.id,
        rows={z.zoom: z.rows for z in manifest.zooms},
        vectors={z.zoom: z.vectors for z in manifest.zooms},
        inferred={z.zoom: z.inferred for z in manifest.zooms},
        already=already,
    )
