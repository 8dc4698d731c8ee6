"""The road of a tile, from its source to an index directory: cover, fetch, embed, shard, publish.

Each step is a module of this package and can be resumed. A build that was killed anywhere goes on where it was and
ends with the same bytes as one that was not killed.
"""

import time
from contextlib import ExitStack
from pathlib import Path

from indexer.build.embed import embed
from indexer.build.fetch import fetch
from indexer.build.inputs import open_inputs
from indexer.build.publish import publish
from indexer.build.request import BuildReport, BuildRequest, Encoders
from indexer.build.shards import shard
from indexer.build.units import cover
from indexer.build.workdir import is_finished, open_workdir, remove_leftovers
from indexer.errors import NothingFoundError
from indexer.progress import OnProgress, silent
from indexer.runs import disk_errors
from retrieval.index.manifest import Manifest

__all__ = ["build_index"]


def build_index(
    request: BuildRequest, *, encoders: Encoders | None = None, on_progress: OnProgress = silent
) -> BuildReport:
    """Build the index that `request` describes, resume its build, or find it already built.

    `encoders`: used instead of those that the request names. Raises IndexerError, TileCacheError or RetrievalError
    kinds with a message of one line; after any of them, and after a KeyboardInterrupt, the same request goes on.
    """
    started = time.monotonic()
    with ExitStack() as stack, disk_errors(request.out):
        inputs = open_inputs(stack, request, encoders, on_progress)
        if is_finished(request.out, inputs.identity):
            remove_leftovers(request.out)
            return _report(request.out, Manifest.read(request.out), already=True)
        counts = inputs.coverage.counts()
        work = stack.enter_context(open_workdir(request.out, inputs.identity, overwrite=request.overwrite))
        try:
            levels = cover(work, inputs.coverage, counts, request.unit_rows)
            fetched = fetch(work, inputs, stack, on_progress)
            embedded = embed(work, inputs, levels, fetched.layers, on_progress)
            zooms = shard(work, inputs, levels, on_progress)
            published = publish(work, inputs, levels, zooms, fetched.layers)
        except NothingFoundError:
            work.discard()  # so that the next attempt may have another source, and asks again
            raise
    report = _report(request.out, published.manifest)
    report.encoded, report.kept, report.fetches = embedded.encoded, embedded.kept, fetched.summaries
    report.problems, report.calibrated = published.problems, published.calibrated
    report.repeated = [r.to_json() for r in published.repeated]
    report.absent_images = sorted(request.fetch.absent_images)
    report.seconds = time.monotonic() - started
    return report


def _report(out: Path, manifest: Manifest, *, already: bool = False) -> BuildReport:
    return BuildReport(
        out=out,
        index_id=manifest.id,
        rows={z.zoom: z.rows for z in manifest.zooms},
        vectors={z.zoom: z.vectors for z in manifest.zooms},
        inferred={z.zoom: z.inferred for z in manifest.zooms},
        already=already,
    )
