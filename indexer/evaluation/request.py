"""What an evaluation measures: plain data, checked on creation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from indexer.errors import EvaluationError
from indexer.fields import Range
from indexer.photos.read import ReadOptions
from retrieval.encoders.base import check_device_name
from retrieval.errors import QueryError
from retrieval.search.query import NO_PRIOR, LocateQuery

__all__ = ["BEAM", "EvaluatedScoring", "EvaluationRequest", "Measures"]


BEAM = "beam"
"""The method that searches an index. Any other method is the name of a prior, which then answers alone."""


EvaluatedScoring = Literal["posterior", "paper", "bolted"]
"""Scorings to compare. `bolted`: like `paper`, but the tile of the prior's own answer is added to every beam."""


@dataclass(frozen=True)
class Measures:
    """How each index is searched and measured. Raises QueryError for an invalid beam width or scoring."""

    widths: tuple[int, ...] = (64,)
    """Beam widths; repeat the option or use commas: 16,64."""
    scorings: tuple[EvaluatedScoring, ...] = ("posterior",)
    """posterior, paper, or bolted: as paper, with the prior's answer as one more candidate; may be repeated."""
    exhaustive: bool = False
    """Also search without a beam, and compare."""
    replicates: Annotated[int, Range(0)] = 1000
    """Resamples for the 95% intervals; 0: no intervals."""
    seed: Annotated[int, Range(0)] = 0
    """Seed of random draws: photos under --limit, and resamples."""
    priors: tuple[str | None, ...] = (None,)
    """Priors to search with, by their names in the index; none: no prior; repeat the option or use commas."""
    methods: tuple[str, ...] = (BEAM,)
    """beam, or the name of a prior that answers without a search; may be repeated."""

    def __post_init__(self) -> None:
        if not self.widths or not self.scorings or not self.priors or not self.methods:
            raise EvaluationError("nothing to measure: give at least one --k, --scoring, --prior and --method")
        if self.replicates < 0:
            raise EvaluationError(f"--bootstrap {self.replicates}: give a number of resamples from 0 (no intervals)")
        if "bolted" in self.scorings and set(self.priors) == {NO_PRIOR}:
            raise EvaluationError("scoring bolted adds a prior's answer to the beam: name a prior with --prior")
        if unknown := [s for s in self.scorings if s not in get_args(EvaluatedScoring)]:
            raise QueryError(f"unknown scoring {unknown[0]!r}: use {', '.join(get_args(EvaluatedScoring))}")
        self.queries()

    def queries(self) -> tuple[tuple[EvaluatedScoring, LocateQuery], ...]:
        """A query per scoring, prior and width, scorings together; `paper` uses no prior, `bolted` needs one.

        The query of `bolted` only names width and prior.
        """
        if BEAM not in self.methods:
            return ()
        priors: dict[EvaluatedScoring, tuple[str | None, ...]] = {
            "posterior": self.priors,
            "paper": (NO_PRIOR,),
            "bolted": tuple(p for p in self.priors if p != NO_PRIOR),
        }
        return tuple(
            (scoring, LocateQuery(k=k, scoring="paper" if scoring == "paper" else "posterior", prior=prior))
            for scoring in self.scorings
            for prior in priors[scoring]
            for k in self.widths
        )

    def prior_names(self) -> tuple[str, ...]:
        """The named priors, both those to search with and those that answer alone."""
        named = [p for p in self.priors if p not in (None, NO_PRIOR)] + [m for m in self.methods if m != BEAM]
        return tuple(dict.fromkeys(str(name) for name in named))


@dataclass(frozen=True)
class EvaluationRequest:
    """Which indexes are measured on which photos."""

    indexes: tuple[Path, ...]
    """An index; repeat the option to compare several."""
    photos: Path
    """A CSV or Parquet table, or a folder of photos with GPS in their EXIF."""
    split: str | None = None
    """The split of the photos to use; by default test if the set has splits, else all photos."""
    reading: ReadOptions = field(default_factory=ReadOptions)
    """How the photos are read."""
    limit: Annotated[int | None, Range(1)] = None
    """At most so many photos, drawn by the seed."""
    elsewhere: Path | None = None
    """Pictures without an answer: a folder with one sub-folder per family, or a table with a column `family`."""
    measures: Measures = field(default_factory=Measures)
    """How each index is searched and measured."""
    device: str = "auto"
    """auto, cpu or cuda."""
    cache: Path | None = None
    """A folder that keeps embeddings for later runs."""
    allow_download: bool = False
    """Fetch weights that an index or a prior names from a model hub."""

    def __post_init__(self) -> None:
        """Raise EncoderError for a device that does not exist."""
        check_device_name(self.device)
