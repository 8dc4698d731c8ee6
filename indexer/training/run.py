"""A whole training of map encoders: pairs, then each zoom from the finest to the coarsest, then RUN/encoders.

The same request resumes wherever an earlier process with the same folder stopped; another request is refused.
Start reading at `train_pairs`.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from torch import Tensor

from indexer.errors import TrainingError
from indexer.learning.activations import ActivationCache, CacheLimits
from indexer.learning.distributed import Group
from indexer.learning.log import TrainingLog
from indexer.learning.loop import Checkpoint, TrainingLoop
from indexer.learning.trunk import SplitTower
from indexer.photos.photo_set import PhotoSet
from indexer.photos.read import read_photos
from indexer.progress import OnProgress, Progress, counter, silent
from indexer.runs import begin_run, disk_errors
from indexer.training.output import ENCODERS_NAME, write_encoders
from indexer.training.pairs import PAIRS_NAME, Pairs, ZoomPairs, make_pairs, steps_per_epoch
from indexer.training.settings import TrainRequest
from indexer.training.tiles import TilePixels, TileSources, ZoomTokens, divide_limit
from indexer.training.zoom import LOG_FIGURES, ZoomTask, epoch_facts
from retrieval.encoders.open_clip import PhotoEncoder
from retrieval.files import read_json

__all__ = ["RunContext", "train_pairs"]

_RUN_NAME = "run.json"


@dataclass(frozen=True)
class RunContext:
    """What one process of a run works with, opened once.

    `tower`: the photo encoder's, cut in two. `on_progress` does nothing in all processes but the first.
    """

    request: TrainRequest
    sources: TileSources
    encoder: PhotoEncoder
    tower: SplitTower
    group: Group
    on_progress: OnProgress

    @classmethod
    @contextmanager
    def open(cls, request: TrainRequest, group: Group, on_progress: OnProgress) -> Iterator["RunContext"]:
        """Open sources, encoder and tower. Raises TrainingError for a batch with fewer pairs than processes."""
        if request.settings.batch < group.size:
            raise TrainingError(
                f"--batch {request.settings.batch} is less than one pair for each of {group.size} processes"
            )
        with closing(TileSources.open(request)) as sources:
            # The first process may have to download weights, which the others then find on disk.
            encoder = group.first_then_all(lambda: PhotoEncoder.load(request.photo_encoder, device=request.device))
            tower = SplitTower(encoder.tower, request.settings.blocks)
            yield cls(request, sources, encoder, tower, group, on_progress if group.first else silent)


def train_pairs(request: TrainRequest, group: Group | None = None, on_progress: OnProgress = silent) -> dict[str, Any]:
    """Train map encoders, resume, or find that all is done; returns a summary as plain JSON values.

    Raises IndexerError, TileCacheError and RetrievalError kinds with one clear line; after any, and after a
    KeyboardInterrupt, the same request resumes.
    """
    with disk_errors(request.out), RunContext.open(request, group or Group(), on_progress) as run:
        if run.group.first:
            _prepare(run)
        run.group.barrier()
        pairs, notes = Pairs.load(request.out / PAIRS_NAME)
        steps_per_epoch(len(pairs.train), request.settings.batch)
        results = _train_zooms(run, pairs)
        if run.group.first:
            identity = read_json(request.out / _RUN_NAME)
            facts = {k: identity[k] for k in ("data", "source", "overlay")} | notes | {"pairs": pairs.counts()}
            write_encoders(request, run.encoder, results, facts)
        run.group.barrier()
    files = {"encoders": str(request.out / ENCODERS_NAME), "photos": str(request.out / "photos.csv")}
    return files | notes | {"zooms": {str(z): _figures(result) for z, result in sorted(results.items())}}


def _prepare(run: RunContext) -> None:
    """Begin or resume the run, and make its pairs."""
    request = run.request
    photos = read_photos(request.photos, request.read)
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise TrainingError(f"--out {request.out} cannot be made ({exc.strerror}): give another folder") from exc
    # A run that ended before it trained anything may begin again with other arguments.
    has_states = any(request.out.glob("states/*.state"))
    way_out = "give the same arguments, or another --out"
    if not begin_run(request.out / _RUN_NAME, _identity(run, photos), resumable=has_states, way_out=way_out):
        (request.out / PAIRS_NAME).unlink(missing_ok=True)
    make_pairs(photos, request, run.encoder, run.sources, run.on_progress)


def _identity(run: RunContext, photos: PhotoSet) -> dict[str, Any]:
    """What a resumed run must have in common with the one that began, by the names of the command's options."""
    plan, has_splits = run.request.split, photos.split is not None
    return {
        "data": photos.digest(),
        "photo-encoder": run.encoder.fingerprint,
        **run.sources.identity(),
        "split-ratio": "given" if has_splits else ":".join(map(str, plan.ratio)),
        "geographic": has_splits or plan.geographic,
        **{name.replace("_", "-"): value for name, value in run.request.settings.identity().items()},
    }


def _train_zooms(run: RunContext, pairs: Pairs) -> dict[int, Checkpoint]:
    """Train all zooms, each from the layers of the finer one."""
    tiles = {z: len(p.codes) for z, p in pairs.zooms.items()}
    limits = divide_limit(run.request.cache_bytes, tiles, run.tower.token_shape)
    results: dict[int, Checkpoint] = {}
    start: Mapping[str, Tensor] | None = None
    for zoom in run.request.settings.zooms[::-1]:
        results[zoom] = _train_zoom(run, zoom, pairs, limits[zoom], start)
        start = results[zoom].best
    return results


def _train_zoom(run: RunContext, zoom: int, pairs: Pairs, limit: int, start: Mapping[str, Tensor] | None) -> Checkpoint:
    settings, out = run.request.settings, run.request.out
    path = out / "states" / f"z{zoom:02d}.state"
    checkpoint = Checkpoint.read(path)
    if checkpoint.reached.done:
        run.on_progress(Progress("note", f"zoom {zoom} is done already"))
        return checkpoint
    earlier = tuple(z for z in settings.zooms if z > zoom)
    log = TrainingLog(out / "log.csv", LOG_FIGURES, ("zoom", zoom), earlier, run.group.first)
    with _tokens(run, zoom, pairs.zooms[zoom], limit) as tokens:
        task = ZoomTask(zoom, pairs, run.tower, tokens, settings, run.group, start)
        loop = TrainingLoop(task, settings, path, log, run.on_progress, patience=settings.patience, group=run.group)
        return Checkpoint(loop.run(), loop.best, {})


@contextmanager
def _tokens(run: RunContext, zoom: int, pairs: ZoomPairs, limit: int) -> Iterator[ZoomTokens]:
    """A zoom's tokens with a cache of `limit` bytes, which the first process fills before the others open it."""
    settings, shape = run.request.settings, run.tower.token_shape
    folder, limits = run.request.cache_folder / f"z{zoom:02d}", CacheLimits(limit, settings.cache_dtype)
    with run.sources.local() as local, ExitStack() as stack:
        pixels = TilePixels(local, run.encoder.preprocess, settings.margin(zoom), zoom)

        def open_cache() -> ZoomTokens:
            key = _cache_key(run, zoom, pairs)
            cache = stack.enter_context(ActivationCache.open(folder, key, len(pairs.codes), shape, limits))
            tokens = ZoomTokens(run.tower, pairs.codes, pixels, cache)
            if run.group.first:
                if cache.note:
                    run.on_progress(Progress("note", f"zoom {zoom}: {cache.note}"))
                tokens.fill(counter(run.on_progress, "activations", f"Frozen layers, zoom {zoom}"))
            return tokens

        yield run.group.first_then_all(open_cache)


def _cache_key(run: RunContext, zoom: int, pairs: ZoomPairs) -> str:
    """Everything that tokens depend on. CPUs and GPUs differ in last bits, and a resumed run must not."""
    settings, encoder = run.request.settings, run.encoder
    facts = [zoom, settings.margin(zoom), settings.blocks, encoder.fingerprint, encoder.device.type]
    return f"{facts} {run.sources.identity()} {sha256(pairs.codes.tobytes()).hexdigest()}"


def _figures(result: Checkpoint) -> dict[str, Any]:
    reached = result.reached
    return {
        "best_epoch": reached.best_epoch,
        "recall_before": epoch_facts(reached.history[0])["recalls"],
        "recall": {k: v for k, v in reached.final.items() if k.startswith("recall")},
    }
