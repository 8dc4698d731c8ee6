"""What is to be calibrated and on what: plain data, checked when it is made."""

from dataclasses import dataclass, field
from pathlib import Path

from indexer.calibration.elsewhere import EXPECTED_SHARE
from indexer.errors import CalibrationFitError
from indexer.photos.reading import ReadOptions
from indexer.retrieval.query import LocateQuery

__all__ = ["CalibrationRequest"]


@dataclass(frozen=True)
class CalibrationRequest:
    """An index, photos whose places are known, and pictures that have no answer.

    `split`: None takes `validation` where the set has splits, else all photos. One half of them (drawn by `seed`) is
    fitted to, the other is only measured on. `elsewhere`: a folder of families or a table; where it has splits, `test`
    is only measured on, else a third of the families; `share`: of such pictures expected in use, above 0 and below 1.
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

    def __post_init__(self) -> None:
        LocateQuery(k=self.k)
        if not 0 < self.share < 1:
            raise CalibrationFitError(f"an expected share of {self.share}: give one between 0 and 1, such as 0.1")
