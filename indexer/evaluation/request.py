"""What is to be measured: plain data, checked when it is made."""

from dataclasses import dataclass, field
from pathlib import Path

from indexer.errors import EvaluationError
from indexer.photos.reading import ReadOptions
from indexer.retrieval.query import LocateQuery, Scoring

__all__ = ["EvaluationRequest", "Measures"]


@dataclass(frozen=True)
class Measures:
    """How each index is searched and measured. Raises QueryError for a beam width or a scoring that is none.

    `widths`: beam widths; `replicates`: resamples of the bootstrap; `exhaustive`: also search without a beam.
    """

    widths: tuple[int, ...] = (64,)
    scorings: tuple[Scoring, ...] = ("posterior",)
    exhaustive: bool = False
    replicates: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.widths or not self.scorings:
            raise EvaluationError("nothing to measure: give at least one --k and one --scoring")
        if self.replicates < 0:
            raise EvaluationError(f"{self.replicates} resamples: give a number from 0 (no intervals)")
        self.queries()

    def queries(self) -> tuple[LocateQuery, ...]:
        """One for each width and scoring, scorings together."""
        return tuple(LocateQuery(k=k, scoring=s) for s in self.scorings for k in self.widths)


@dataclass(frozen=True)
class EvaluationRequest:
    """Which indexes on which photos. `split`: None takes `test` where the set has splits, else all photos.

    `elsewhere`: pictures without an answer, a folder of families or a table; `limit`: at most so many photos, drawn
    by the seed; `cache`: embeddings that are kept for the next time.
    """

    indexes: tuple[Path, ...]
    photos: Path
    reading: ReadOptions = field(default_factory=ReadOptions)
    split: str | None = None
    elsewhere: Path | None = None
    limit: int | None = None
    device: str = "auto"
    cache: Path | None = None
    measures: Measures = field(default_factory=Measures)
