"""An index, searched in every way that was asked for, and what it did: rows of figures.

It knows embedded pictures and open indexes; nothing of photo files, tables of text or drawings.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation import memory
from indexer.evaluation.alone import answers_alone
from indexer.evaluation.answerable import COVERAGES, Answerable, abstaining, answerable
from indexer.evaluation.bootstrap import Resamples
from indexer.evaluation.exhaustive import Exhaustive
from indexer.evaluation.figures import Figures, Row, RowFigures, figures_of, ranks, row_name
from indexer.evaluation.loading import Subject
from indexer.evaluation.metrics import risk_coverage
from indexer.evaluation.outcomes import Outcomes, Pictures, Search, search_all
from indexer.evaluation.request import BEAM, Measures
from indexer.progress import OnProgress, Progress
from retrieval.index.calibration import Calibration
from retrieval.priors.base import Belief
from retrieval.search.beam import Descent
from retrieval.search.query import MAX_K, LocateQuery

__all__ = ["Agreement", "Measured", "measure_all", "silent"]

RANKED = 1_000_000_000
"""Rows times photos up to which true tiles are ranked among all of their zoom: about a minute."""


@dataclass(frozen=True)
class Agreement:
    """A beam held against the exhaustive search of the same scoring."""

    same_tile: float  # share of photos that both answer with the same tile
    exhaustive: int  # the row of the exhaustive search, counted from 0


@dataclass(frozen=True)
class Measured:
    """A row with all that is known of it."""

    row: Row
    figures: RowFigures
    risk_at: Mapping[float, float]  # coverage to the share of wrong answers, over the photo set
    aurc: float
    answerable: Answerable | None = None
    agreement: Agreement | None = None


def measure_all(
    subjects: Sequence[Subject], measures: Measures, on_progress: OnProgress
) -> tuple[list[Measured], dict[str, dict[int, Figures]]]:
    """All rows, and for each index and zoom where true tiles rank among all of that zoom."""
    resamples = Resamples(len(subjects[0].inside.known), measures.replicates, measures.seed)
    rows: list[Measured] = []
    ranked: dict[str, dict[int, Figures]] = {}
    for subject in subjects:
        first = rows[0].row if rows else None
        rows += _held_together(list(_rows(subject, measures, resamples, first, on_progress)), len(rows))
        ranked[subject.label] = _ranked(subject, measures, resamples, on_progress)
    return rows, ranked


def silent(progress: Progress) -> None:
    """For those who do not want to know how far it is."""


def _rows(
    subject: Subject, measures: Measures, resamples: Resamples, first: Row | None, on_progress: OnProgress
) -> Sequence[Measured]:
    found: list[Measured] = []
    for way in _ways(subject, measures):
        measured = _measured(subject, way, resamples, first or (found[0].row if found else None), on_progress)
        found.append(measured)
    return found


@dataclass(frozen=True)
class _Way:
    """One way to answer: a query, by the beam or another search; or a prior alone, by its name."""

    query: LocateQuery
    search: Search | None = None
    alone: str | None = None

    @property
    def k(self) -> int | None:
        """None where no beam searches."""
        return None if self.search or self.alone else self.query.k


def _ways(subject: Subject, measures: Measures) -> Iterator[_Way]:
    queries, locator = measures.queries(), subject.locator
    yield from (_Way(query) for query in queries)
    if measures.exhaustive:
        whole = Exhaustive(locator.index)
        for query in dict.fromkeys(replace(q, k=MAX_K) for q in queries if q.scoring != "bolted"):
            asked = locator.asked(query)
            numbers = locator.calibration if asked is None else asked.calibration
            yield _Way(query, partial(_everything, whole, numbers))
    yield from (_Way(LocateQuery(prior=name), alone=name) for name in measures.methods if name != BEAM)


def _everything(
    whole: Exhaustive, calibration: Calibration, embedding: NDArray[np.float32], belief: Belief | None
) -> Descent:
    return whole.descend(embedding, calibration, belief)


def _measured(
    subject: Subject, way: _Way, resamples: Resamples, first: Row | None, on_progress: OnProgress
) -> Measured:
    asked = subject.locator.asked(way.query)
    prior = None if asked is None else asked.name
    text = f"{subject.label}: {row_name(way.k, way.query.scoring, prior, way.alone is not None)}"
    memory.forget_peak()
    known, strange = subject.pictures(prior)
    inside = _search(subject, known, way, text, on_progress)
    row = Row(subject.label, way.k, way.query.scoring, inside, memory.peak_mb(), prior, way.alone is not None)
    told = None
    if strange is not None:
        outside = _search(subject, strange, way, f"{text}, without an answer", on_progress)
        told = answerable(inside, outside, np.array(subject.families), resamples)
    curve = risk_coverage(*abstaining(inside, None))
    risk = {share: float(np.interp(share, curve.coverage, curve.risk)) for share in COVERAGES}
    return Measured(row, figures_of(row, first, resamples), risk, curve.aurc, told)


def _search(subject: Subject, pictures: Pictures, way: _Way, text: str, on_progress: OnProgress) -> Outcomes:
    total = len(pictures.known)

    def show(done: int) -> None:
        if done % 25 == 0 or done in (1, total):
            on_progress(Progress("search", text, done, total))

    if way.alone is not None:
        return answers_alone(subject.locator.index, pictures, show)
    return search_all(subject.locator, pictures, way.query, way.search, show)


def _held_together(rows: list[Measured], before: int) -> list[Measured]:
    """Each beam's row with its agreement with the exhaustive row of its scoring, if there is one."""
    whole = {(m.row.scoring, m.row.prior): (before + i, m.row.outcomes) for i, m in enumerate(rows) if m.row.exhaustive}
    held = []
    for measured in rows:
        row = measured.row
        if row.k is not None and (row.scoring, row.prior) in whole:
            number, theirs = whole[row.scoring, row.prior]
            mine = row.outcomes
            same = float(((mine.tiles == theirs.tiles) & (mine.depth == theirs.depth)).mean())
            measured = replace(measured, agreement=Agreement(same, number))
        held.append(measured)
    return held


def _ranked(subject: Subject, measures: Measures, resamples: Resamples, on_progress: OnProgress) -> dict[int, Figures]:
    """Per zoom; empty where that would take long and no exhaustive search was asked for."""
    index, known = subject.locator.index, subject.inside.known
    if not all(level.has_vectors for level in index.levels):
        return {}
    cost = sum(len(level.codes) for level in index.levels) * len(known)
    if cost > RANKED and not measures.exhaustive:
        return {}
    whole, truths = Exhaustive(index), np.stack(subject.inside.rows, axis=1)
    found = np.empty(truths.shape, dtype=np.int64)
    for i, embedding in enumerate(known.embeddings):
        found[i] = whole.ranks(embedding, truths[i])
        if i % 25 == 24 or i + 1 == len(known):
            on_progress(Progress("search", f"{subject.label}: ranks among all tiles", i + 1, len(known)))
    return {zoom: resamples.figures(ranks(found[:, i])) for i, zoom in enumerate(index.zooms)}
