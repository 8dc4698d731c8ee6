"""The request of a calibration, as plain data that is checked when it is made."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from indexer.errors import CalibrationFitError
from indexer.fields import Range
from indexer.photos.read import ReadOptions
from retrieval.encoders.base import check_device_name
from retrieval.search.query import LocateQuery

__all__ = ["EXPECTED_SHARE", "CalibrationRequest", "PriorSource"]

EXPECTED_SHARE = 0.1
"""Default share of out-of-scope pictures among those that a service receives."""


@dataclass(frozen=True)
class PriorSource:
    """A prior to calibrate with and to install in the index. Raises PriorError for an invalid name."""

    name: str
    """The prior's name in the index."""
    directory: Path | None = None
    """The directory to install it from. None: it is in the index already, or its kind needs no files."""
    default: bool = True
    """Use it for queries that name no prior."""

    def __post_init__(self) -> None:
        # Imported here because it loads FAISS, and the command line imports this module for every command.
        from retrieval.installed_priors import check_name

        check_name(self.name)

    @classmethod
    def of(cls, text: str, *, default: bool = True) -> "PriorSource":
        """Read NAME or NAME=DIR."""
        name, equals, directory = text.partition("=")
        return cls(name, Path(directory) if equals else None, default)


@dataclass(frozen=True)
class CalibrationRequest:
    """An index, photos whose places are known, and out-of-scope pictures.

    One half of the photos, chosen by a hash of their names and `seed`, is fitted to; the other is only measured on.
    Raises QueryError for an invalid beam width and CalibrationFitError for an invalid share.
    """

    index: Path
    """The index whose calibration.json is written."""
    photos: Path
    """A CSV or Parquet table, or a folder of photos with GPS in their EXIF."""
    prior: PriorSource | None = None
    """The prior to fit with and to install; None fits the index's own calibration."""
    split: str | None = None
    """The split to use. Default: validation, if the photos have splits, else all photos."""
    reading: ReadOptions = field(default_factory=ReadOptions)
    limit: Annotated[int | None, Range(1)] = None
    """Use at most this many photos, drawn by the seed."""
    elsewhere: Path | None = None
    """Out-of-scope pictures: a folder of families, or a table with a column `family`. Those of split `test` are only
    measured on; without splits, a third of the families."""
    share: float = EXPECTED_SHARE
    """Expected share of out-of-scope pictures in use, between 0 and 1."""
    k: int = 64
    """The beam width to calibrate; answers at other widths are not calibrated."""
    seed: Annotated[int, Range(0)] = 0
    """Seed of the draws: photos under --limit, halves, resamples."""
    device: str = "auto"
    """auto, cpu or cuda."""
    cache: Path | None = None
    """A folder that keeps embeddings for the next run."""
    allow_download: bool = False
    """Fetch weights that the index or a prior names from a model hub."""

    def __post_init__(self) -> None:
        LocateQuery(k=self.k)
        check_device_name(self.device)
        if not 0 < self.share < 1:
            raise CalibrationFitError(f"an expected share of {self.share}: give one between 0 and 1, such as 0.1")
