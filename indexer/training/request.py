"""One training run as asked for: plain data."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from indexer.photos.read import ReadOptions
from indexer.photos.splits import SplitPlan
from indexer.training.settings import TrainSettings
from tile_cache.fetch.settings import FetchSettings

__all__ = ["TrainRequest"]


@dataclass(frozen=True)
class TrainRequest:
    """`photos`: a table or a folder; `source`, `overlay`: what `open_source` takes; `out`: the run's own folder.

    `cache`: a folder for photo embeddings and activations, `out`/cache if none is given, of at most `cache_bytes` for
    the activations of all zooms; `tile_cache`: a file or folder for fetched tiles, as `tilebeam fetch` fills it.
    """

    photos: Path
    source: str
    out: Path
    settings: TrainSettings
    overlay: str | None = None
    photo_encoder: str = "builtin"
    read: ReadOptions = field(default_factory=ReadOptions)
    split: SplitPlan = field(default_factory=SplitPlan)
    cache: Path | None = None
    cache_bytes: int = 20 * 2**30
    tile_cache: Path | None = None
    fetch: FetchSettings = field(default_factory=FetchSettings)
    device: str = "auto"

    @property
    def cache_folder(self) -> Path:
        """Where what is frozen is kept."""
        return self.cache or self.out / "cache"

    def arguments(self) -> dict[str, Any]:
        """What a reader of training.json needs to ask for the same again: no folder of this machine in it."""
        return {
            "photos": self.photos.name,
            "split": {**vars(self.split), "ratio": list(self.split.ratio)},
            **self.settings.identity(),
        }
