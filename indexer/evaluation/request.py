"""What is to be measured: plain data, checked when it is made."""

from dataclasses import dataclass, field
from pathlib import Path

from indexer.errors import EvaluationError
from indexer.photos.read import ReadOptions
from retrieval.search.query import NO_PRIOR, LocateQuery, Scoring

__all__ = ["BEAM", "EvaluationRequest", "Measures"]


BEAM = "beam"
"""The method that searches an index; every other is a prior's name, and answers with that prior alone."""


@dataclass(frozen=True)
class Measures:
    """How each index is searched and measured. Raises QueryError for a beam width or a scoring that is none.

    `widths`: beam widths; `priors`: names to ask with, `none` for none, None for each index's own choice; `methods`:
    `beam`, or names of priors that answer alone; `replicates`: resamples of the bootstrap; `exhaustive`: also search
    without a beam.
    """

    widths: tuple[int, ...] = (64,)
    scorings: tuple[Scoring, ...] = ("posterior",)
    exhaustive: bool = False
    replicates: int = 1000
    seed: int = 0
    priors: tuple[str | None, ...] = (None,)
    methods: tuple[str, ...] = (BEAM,)

    def __post_init__(self) -> None:
        if not self.widths or not self.scorings or not self.priors or not self.methods:
            raise EvaluationError("nothing to measure: give at least one --k, --scoring, --prior and --method")
        if self.replicates < 0:
            raise EvaluationError(f"{self.replicates} resamples: give a number from 0 (no intervals)")
        if "bolted" in self.scorings and set(self.priors) == {NO_PRIOR}:
            raise EvaluationError("scoring bolted adds a prior's answer to the beam: name one with --prior")
        self.queries()

    def queries(self) -> tuple[LocateQuery, ...]:
        """One for each scoring, prior and width, scorings together; `paper` asks no prior, `bolted` needs one."""
        if BEAM not in self.methods:
            return ()
        wanted: dict[Scoring, tuple[str | None, ...]] = {
            "posterior": self.priors,
            "paper": (NO_PRIOR,),
            "bolted": tuple(p for p in self.priors if p != NO_PRIOR),
        }
        return tuple(
            LocateQuery(k=k, scoring=s, prior=p)
            for s in self.scorings
            for p in wanted.get(s, self.priors)
            for k in self.widths
        )

    def prior_names(self) -> tuple[str, ...]:
        """Of the priors that are named, to be asked or to answer alone."""
        named = [p for p in self.priors if p not in (None, NO_PRIOR)] + [m for m in self.methods if m != BEAM]
        return tuple(dict.fromkeys(str(name) for name in named))


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
