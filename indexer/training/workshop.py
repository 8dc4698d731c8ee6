"""What every part of one run works with, opened once per process."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from indexer.errors import TrainingError
from indexer.learning.distributed import Group
from indexer.learning.trunk import SplitTower
from indexer.progress import OnProgress, Progress
from indexer.training.request import TrainRequest
from indexer.training.sources import Sources
from retrieval.encoders.open_clip import PhotoEncoder

__all__ = ["Workshop"]


@dataclass(frozen=True)
class Workshop:
    """`tower` is the encoder's, cut in two; `tell` is silent in all processes but the first."""

    request: TrainRequest
    sources: Sources
    encoder: PhotoEncoder
    tower: SplitTower
    group: Group
    tell: OnProgress

    @classmethod
    @contextmanager
    def open(cls, request: TrainRequest, group: Group, tell: OnProgress) -> Iterator["Workshop"]:
        """Raises what opening sources, loading the encoder and cutting its tower raise; TrainingError for a batch of
        fewer pairs than processes."""
        if request.settings.batch < group.size:
            raise TrainingError(
                f"--batch {request.settings.batch} is less than a pair for each of {group.size} processes"
            )
        with closing(Sources.of(request)) as sources:
            # The first process may have to fetch weights from a hub, which the others then find.
            encoder = group.first_then_all(lambda: PhotoEncoder.load(request.photo_encoder, device=request.device))
            tower = SplitTower(encoder.tower, request.settings.blocks)
            yield cls(request, sources, encoder, tower, group, tell if group.first else lambda progress: None)

    def bar(self, stage: str, text: str) -> Callable[[int, int], None]:
        """A callback for things done and things in all."""
        return lambda done, total: self.tell(Progress(stage, text, done, total))
