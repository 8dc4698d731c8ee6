"""An evaluation from request to figures: search every index in every requested way, and measure the answers.

`evaluate` is the entry point. This module knows embedded pictures and open indexes, but nothing of photo files, text
tables or plots.
"""

import resource
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation.bootstrap import Resamples
from indexer.evaluation.exhaustive import Exhaustive
from indexer.evaluation.figures import (
    Answerable,
    Figures,
    Risk,
    Row,
    RowFigures,
    answerable,
    figures_of,
    rank_statistics,
    risk_of,
    row_name,
)
from indexer.evaluation.load import Loaded, Subject, load
from indexer.evaluation.outcomes import Outcomes, Pictures, Search, search_all
from indexer.evaluation.prior_alone import answers_alone
from indexer.evaluation.request import BEAM, EvaluatedScoring, EvaluationRequest, Measures
from indexer.progress import OnProgress, Progress
from retrieval.errors import QueryError
from retrieval.index.calibration import Calibration
from retrieval.index.reader import TileIndex
from retrieval.priors.base import Belief
from retrieval.search.beam import Descent, descend
from retrieval.search.options import MAX_K
from retrieval.search.plan import SearchPlan
from retrieval.search.query import LocateQuery

__all__ = ["Agreement", "Evaluation", "Measured", "evaluate", "forget_peak", "measure_all", "peak_mb"]

MAX_RANKED = 1_000_000_000
"""Index rows times photos up to which the true tiles are ranked among all tiles of their zoom: about a minute."""

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Agreement:
    """A beam compared with the exhaustive search of the same scoring."""

    same_tile: float  # share of photos that both answer with the same tile
    exhaustive: int  # number of the exhaustive search's row, from 0


@dataclass(frozen=True)
class Measured:
    """A row with all of its figures. `risk` is over the photo set alone."""

    row: Row
    figures: RowFigures
    risk: Risk
    answerable: Answerable | None = None
    agreement: Agreement | None = None


@dataclass(frozen=True)
class Evaluation:
    """All rows. `ranked` maps index label and zoom to the ranks of the true tiles among all tiles of that zoom."""

    request: EvaluationRequest
    loaded: Loaded
    rows: list[Measured]
    ranked: Mapping[str, Mapping[int, Figures]]

    def name_of(self, measured: Measured) -> str:
        """The row's name for plots; it includes the index only if there are several."""
        row = measured.row
        return row.name if len(self.loaded.subjects) == 1 else f"{row.index} {row.name}"


def evaluate(request: EvaluationRequest, on_progress: OnProgress) -> Evaluation:
    """Load, search and measure.

    Raises PhotoSetError, EvaluationError, QueryError, and the errors of opening an index.
    """
    loaded = load(request, on_progress)
    rows, ranked = measure_all(loaded.subjects, request.measures, on_progress)
    return Evaluation(request, loaded, rows, ranked)


def measure_all(
    subjects: Sequence[Subject], measures: Measures, on_progress: OnProgress
) -> tuple[list[Measured], dict[str, dict[int, Figures]]]:
    """All rows, and per index and zoom the ranks of the true tiles among all tiles of that zoom."""
    resamples = Resamples(len(subjects[0].inside.known), measures.replicates, measures.seed)
    rows: list[Measured] = []
    ranked: dict[str, dict[int, Figures]] = {}
    for subject in subjects:
        first = rows[0].row if rows else None
        measured = _measure_subject(subject, measures, resamples, first, on_progress)
        rows += _with_agreements(measured, len(rows))
        ranked[subject.label] = _rank(subject, measures, resamples, on_progress)
    return rows, ranked


def forget_peak() -> bool:
    """Reset the peak of `peak_mb` to the memory in use; False if the system cannot (all but Linux)."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def peak_mb() -> float:
    """The highest resident memory, in MB of 10^6 bytes, since `forget_peak` or since the process began.

    This is the system's own figure for the whole process: Python, libraries, the photo encoder, and those pages of
    mapped indexes that were read.
    """
    try:
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _measure_subject(
    subject: Subject, measures: Measures, resamples: Resamples, first: Row | None, on_progress: OnProgress
) -> list[Measured]:
    """One row per way of searching. `first`: the row to compare with; None: this subject's own first row."""
    rows: list[Measured] = []
    for way in _ways(subject, measures):
        rows.append(_measure_way(subject, way, resamples, first or (rows[0].row if rows else None), on_progress))
    return rows


@dataclass(frozen=True)
class _Way:
    """One way to answer: the beam or another `search` with a plan, or (`prior_only`) the plan's prior by itself.

    `k`: the beam width; None without a beam. The plan of scoring `bolted` is one of scoring `paper`.
    """

    plan: SearchPlan
    scoring: EvaluatedScoring
    k: int | None
    search: Search | None = None
    prior_only: bool = False

    @property
    def prior(self) -> str | None:
        """The name of the plan's prior."""
        return None if self.plan.prior is None else self.plan.prior.name


def _ways(subject: Subject, measures: Measures) -> Iterator[_Way]:
    queries, locator = measures.queries(), subject.locator
    for scoring, query in queries:
        plan = locator.plan(query)
        if scoring == "bolted":
            yield _bolted(locator.index, plan)
        else:
            yield _Way(plan, scoring, query.k)
    if measures.exhaustive:
        exhaustive = Exhaustive(locator.index)
        for scoring, query in dict.fromkeys((s, replace(q, k=MAX_K)) for s, q in queries if s != "bolted"):
            plan = locator.plan(query)
            yield _Way(plan, scoring, None, partial(_search_everything, exhaustive, plan.calibration))
    for name in measures.methods:
        if name != BEAM:
            yield _Way(locator.plan(LocateQuery(prior=name)), "posterior", None, prior_only=True)


def _bolted(index: TileIndex, plan: SearchPlan) -> _Way:
    """Search as the hierarchical-search paper combines a beam with GeoCLIP: the tile of the prior's answer is always
    in the beam.
    """
    if plan.prior is None:
        raise QueryError("scoring bolted needs a prior: name one with --prior")
    by_similarity = replace(plan, scoring="paper")

    def search(embedding: NDArray[np.float32], belief: Belief | None) -> Descent:
        return descend(index, embedding, by_similarity, always_keep=None if belief is None else belief.best())

    return _Way(by_similarity, "bolted", plan.k, search)


def _search_everything(
    exhaustive: Exhaustive, calibration: Calibration, embedding: NDArray[np.float32], belief: Belief | None
) -> Descent:
    return exhaustive.descend(embedding, calibration, belief)


def _measure_way(
    subject: Subject, way: _Way, resamples: Resamples, first: Row | None, on_progress: OnProgress
) -> Measured:
    text = f"{subject.label}: {row_name(way.k, way.scoring, way.prior, way.prior_only)}"
    forget_peak()
    known, out_of_scope = subject.pictures(way.prior)
    inside = _search(subject, known, way, text, on_progress)
    row = Row(subject.label, way.k, way.scoring, inside, peak_mb(), way.prior, way.prior_only)
    figures, risk = figures_of(row, first, resamples), risk_of(inside)
    if out_of_scope is None:
        return Measured(row, figures, risk)
    outside = _search(subject, out_of_scope, way, f"{text}, without an answer", on_progress)
    return Measured(row, figures, risk, answerable(inside, outside, np.array(subject.families), resamples))


def _search(subject: Subject, pictures: Pictures, way: _Way, text: str, on_progress: OnProgress) -> Outcomes:
    total = len(pictures.known)

    def on_picture(done: int) -> None:
        if done % 25 == 0 or done in (1, total):
            on_progress(Progress("search", text, done, total))

    if way.prior_only:
        return answers_alone(subject.locator.index, pictures, on_picture)
    return search_all(subject.locator, pictures, way.plan, way.search, on_picture)


def _with_agreements(rows: list[Measured], offset: int) -> list[Measured]:
    """One subject's rows, each beam with its agreement with the exhaustive row of its scoring and prior, if any.

    `offset`: how many rows the subjects before it have.
    """
    exhaustive = {(m.row.scoring, m.row.prior): i for i, m in enumerate(rows) if m.row.exhaustive}
    compared = []
    for measured in rows:
        number = exhaustive.get((measured.row.scoring, measured.row.prior))
        if number is not None and measured.row.k is not None:
            beam, whole = measured.row.outcomes, rows[number].row.outcomes
            same = float(((beam.tiles == whole.tiles) & (beam.depth == whole.depth)).mean())
            measured = replace(measured, agreement=Agreement(same, offset + number))
        compared.append(measured)
    return compared


def _rank(subject: Subject, measures: Measures, resamples: Resamples, on_progress: OnProgress) -> dict[int, Figures]:
    """Figures per zoom; empty if that would take long and the request has no exhaustive search."""
    index, known = subject.locator.index, subject.inside.known
    if not all(level.has_vectors for level in index.levels):
        return {}
    cost = sum(len(level.codes) for level in index.levels) * len(known)
    if cost > MAX_RANKED and not measures.exhaustive:
        return {}
    exhaustive, truths = Exhaustive(index), np.stack(subject.inside.rows, axis=1)
    ranks = np.empty(truths.shape, dtype=np.int64)
    for i, embedding in enumerate(known.embeddings):
        ranks[i] = exhaustive.ranks(embedding, truths[i])
        if i % 25 == 24 or i + 1 == len(known):
            on_progress(Progress("search", f"{subject.label}: ranks among all tiles", i + 1, len(known)))
    return {zoom: resamples.figures(rank_statistics(ranks[:, i])) for i, zoom in enumerate(index.zooms)}
