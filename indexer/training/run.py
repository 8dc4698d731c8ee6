"""A whole run: pairs, then each zoom from the finest to the coarsest, then what `tilebeam index` takes.

The same request goes on from wherever an earlier process with the same folder was; another request is refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from indexer.errors import RunMismatchError, TrainingError
from indexer.learning.distributed import Group
from indexer.learning.log import TrainingLog
from indexer.learning.loop import Checkpoint, TrainingLoop
from indexer.photos.photo_set import PhotoSet
from indexer.photos.read import read_photos
from indexer.progress import OnProgress, Progress
from indexer.runs import disk_errors
from indexer.training.output import ENCODERS_NAME, write_encoders
from indexer.training.pairs import Pairs, steps_per_epoch
from indexer.training.prepare import PAIRS_NAME, Preparation
from indexer.training.request import TrainRequest
from indexer.training.tokens import ZoomTokens, limits_by_zoom
from indexer.training.workshop import Workshop
from indexer.training.zoom import LOG_FIGURES, ZoomTask, epoch_facts
from retrieval.files import read_json, write_json

__all__ = ["TrainingRun", "train_pairs"]

_RUN_NAME = "run.json"


def train_pairs(
    request: TrainRequest, group: Group | None = None, tell: OnProgress = lambda progress: None
) -> dict[str, Any]:
    """Train, or go on, or find all done; returns what was made as plain JSON values.

    Raises IndexerError, TileCacheError and RetrievalError kinds with one clear line; after any, and after a
    KeyboardInterrupt, the same request goes on from there.
    """
    with disk_errors(request.out), Workshop.open(request, group or Group(), tell) as shop:
        return TrainingRun(shop).run()


@dataclass(frozen=True)
class TrainingRun:
    """One process's part of a run."""

    shop: Workshop

    def run(self) -> dict[str, Any]:
        """All of it."""
        request, group = self.shop.request, self.shop.group
        if group.first:
            self._prepare()
        group.barrier()
        pairs, notes = Pairs.load(request.out / PAIRS_NAME)
        steps_per_epoch(len(pairs.train), request.settings.batch)
        results = self._zooms(pairs)
        if group.first:
            begun = read_json(request.out / _RUN_NAME)
            facts = {k: begun[k] for k in ("data", "source", "overlay")} | notes | {"pairs": _counts(pairs)}
            write_encoders(request, self.shop.encoder, results, facts)
        group.barrier()
        made = {"encoders": str(request.out / ENCODERS_NAME), "photos": str(request.out / "photos.csv")}
        return made | notes | _figures(results)

    def _prepare(self) -> None:
        request = self.shop.request
        photos = read_photos(request.photos, request.read)
        try:
            request.out.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise TrainingError(f"the run cannot lie in {request.out} ({exc.strerror}): give another --out") from exc
        _claim(request.out, self._identity(photos))
        Preparation(self.shop).pairs(photos)

    def _zooms(self, pairs: Pairs) -> dict[int, Checkpoint]:
        settings, shape = self.shop.request.settings, self.shop.tower.token_shape
        limits = limits_by_zoom(self.shop.request.cache_bytes, {z: len(p.codes) for z, p in pairs.zooms.items()}, shape)
        results: dict[int, Checkpoint] = {}
        start: Mapping[str, Tensor] | None = None
        for zoom in settings.zooms[::-1]:
            results[zoom] = self._zoom(zoom, pairs, limits[zoom], start)
            start = results[zoom].best
        return results

    def _zoom(self, zoom: int, pairs: Pairs, limit: int, start: Mapping[str, Tensor] | None) -> Checkpoint:
        shop, settings, out = self.shop, self.shop.request.settings, self.shop.request.out
        path = out / "states" / f"z{zoom:02d}.state"
        checkpoint = Checkpoint.read(path)
        if checkpoint.reached.done:
            shop.tell(Progress("note", f"zoom {zoom} is done already"))
            return checkpoint
        earlier = tuple(z for z in settings.zooms if z > zoom)
        log = TrainingLog(out / "log.csv", LOG_FIGURES, ("zoom", zoom), earlier, shop.group.first)
        with ZoomTokens.open(shop, zoom, pairs.zooms[zoom].codes, limit) as tokens:
            task = ZoomTask(zoom, pairs, shop.tower, tokens, settings, shop.group, start)
            loop = TrainingLoop(task, settings, path, log, shop.tell, patience=settings.patience, group=shop.group)
            return Checkpoint(loop.run(), loop.best, {})

    def _identity(self, photos: PhotoSet) -> dict[str, Any]:
        """What two runs of one folder must agree in, by the words of the command line."""
        plan = self.shop.request.split
        given = photos.split is not None
        return {
            "data": photos.digest(),
            "photo-encoder": self.shop.encoder.fingerprint,
            **self.shop.sources.identity(),
            "split-ratio": "given" if given else ":".join(map(str, plan.ratio)),
            "geographic": given or plan.geographic,
            **{name.replace("_", "-"): value for name, value in self.shop.request.settings.identity().items()},
        }


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Begin the run, or find it begun. RunMismatchError where something has been learnt from other arguments or data;
    a run that ended before it learnt anything is begun anew."""
    path = out / _RUN_NAME
    if path.exists():
        try:
            before = read_json(path)
            differing = [k for k in {**before, **identity} if before.get(k) != identity.get(k)]
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            raise TrainingError(f"{path} cannot be read ({exc}): choose another --out, or delete this one") from exc
        if not differing:
            return
        if any(out.glob("states/*.state")):
            said = "; ".join(f"{k} was {before.get(k)!r} and is now {identity.get(k)!r}" for k in differing)
            raise RunMismatchError(
                f"{out} holds a run that was begun otherwise ({said}): give the same again, or another --out"
            )
        (out / PAIRS_NAME).unlink(missing_ok=True)
    write_json(path, identity)


def _counts(pairs: Pairs) -> dict[str, Any]:
    tiles = {str(z): len(p.codes) for z, p in pairs.zooms.items()}
    return {"train": len(pairs.train), "validation": len(pairs.validation), "tiles": tiles}


def _figures(results: Mapping[int, Checkpoint]) -> dict[str, Any]:
    return {
        "zooms": {
            str(z): {
                "best_epoch": r.reached.best_epoch,
                "recall_before": epoch_facts(r.reached.history[0])["recalls"],
                "recall": {k: v for k, v in r.reached.final.items() if k.startswith("recall")},
            }
            for z, r in sorted(results.items())
        }
    }
