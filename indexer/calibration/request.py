"""What is to be calibrated and on what: plain data, checked when it is made."""

from dataclasses import dataclass, field
from pathlib import Path

from indexer.calibration.elsewhere import EXPECTED_SHARE
from indexer.errors import CalibrationFitError
from indexer.photos.read import ReadOptions
from retrieval.installed_priors import check_name
from retrieval.search.query import LocateQuery

__all__ = ["CalibrationRequest", "PriorSource"]


@dataclass(frozen=True)
class PriorSource:
    """A prior by the name that it has, or is to have, in the index, and the directory to take it from.

    `directory`: None is the one that the index has, or of a kind that needs no files, none. `default`: the index is to
    ask it where a question names no prior. Raises PriorError for what is no name.
    """

    name: str
    directory: Path | None = None
    default: bool = True

    def __post_init__(self) -> None:
        check_name(self.name)

    @classmethod
    def of(cls, text: str, *, default: bool = True) -> "PriorSource":
        """NAME or NAME=DIR."""
        name, given, directory = text.partition("=")
        return cls(name, Path(directory) if given else None, default)


@dataclass(frozen=True)
class CalibrationRequest:
    """An index, photos whose places are known, and pictures that have no answer.

    `split`: None takes `validation` where the set has splits, else all photos. One half of them (drawn by `seed`) is
    fitted to, the other is only measured on. `elsewhere`: a folder of families or a table; where it has splits, `test`
    is only measured on, else a third of the families; `share`: of such pictures expected in use, above 0 and below 1.
    `prior`: fitted together with the rest, and put into the index; without it the plain calibration is fitted.
    Raises QueryError for a beam width that is none and CalibrationFitError for another share.
    """

    index: Path
    photos: Path
    reading: ReadOptions = field(default_factory=ReadOptions)
    split: str | None = None
    k: int = 64
    elsewhere: Path | None = None
    share: float = EXPECTED_SHARE
    seed: int = 0
    limit: int | None = None
    device: str = "auto"
    cache: Path | None = None
    prior: PriorSource | None = None

    def __post_init__(self) -> None:
        LocateQuery(k=self.k)
        if not 0 < self.share < 1:
            raise CalibrationFitError(f"an expected share of {self.share}: give one between 0 and 1, such as 0.1")
