"""What an evaluation measures: plain data, checked on creation."""

from dataclasses import dataclass, field
from pathlib import Path

from indexer.errors import EvaluationError
from indexer.photos.read import ReadOptions
from retrieval.search.query import NO_PRIOR, LocateQuery, Scoring

__all__ = ["BEAM", "EvaluationRequest", "Measures"]


BEAM = "beam"
"""The method that searches an index. Any other method is the name of a prior, which then answers alone."""


@dataclass(frozen=True)
class Measures:
    """How each index is searched and measured. Raises QueryError for an invalid beam width or scoring.

    `widths`: beam widths; `exhaustive`: also search without a beam; `replicates`: resamples of the bootstrap; `priors`:
    names of priors to search with, `none` for no prior, None for each index's default; `methods`: `beam`, or names of
    priors that answer alone.
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
            raise EvaluationError(f"--bootstrap {self.replicates}: give a number of resamples from 0 (no intervals)")
        if "bolted" in self.scorings and set(self.priors) == {NO_PRIOR}:
            raise EvaluationError("scoring bolted adds a prior's answer to the beam: name a prior with --prior")
        self.queries()

    def queries(self) -> tuple[LocateQuery, ...]:
        """One query per scoring, prior and width, ordered by scoring; `paper` uses no prior, `bolted` needs one."""
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
        """The named priors, both those to search with and those that answer alone."""
        named = [p for p in self.priors if p not in (None, NO_PRIOR)] + [m for m in self.methods if m != BEAM]
        return tuple(dict.fromkeys(str(name) for name in named))


@dataclass(frozen=True)
class EvaluationRequest:
    """Which indexes are measured on which photos. `split`: None takes `test` if the set has splits, else all photos.

    `elsewhere`: pictures without an answer, as a folder of families or a table; `limit`: at most so many photos, drawn
    by the seed; `cache`: a folder that keeps embeddings for later runs.
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
