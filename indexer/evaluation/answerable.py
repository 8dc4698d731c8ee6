"""Does "elsewhere" tell pictures that can be answered from those that cannot? And what does abstaining buy?

Answerable are all pictures of the photo set. Not answerable are pictures of no place, and of the pictures of real
places in a foreign rendition those that are answered wrongly: more than WRONG_KM off. Answers within that are left
out of the AUROC, as they harm nobody, and count as right in risk-coverage.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from indexer.evaluation.bootstrap import Figure, Resamples, Statistic, area_under_roc
from indexer.evaluation.metrics import Bools, Floats, risk_coverage
from indexer.evaluation.outcomes import Outcomes

WRONG_KM = 750.0
"""An answer farther off than this (the literature's "country") is wrong."""
COVERAGES = (0.5, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Family:
    """Pictures of one kind that the photo set is not of: how many, how many count as not answerable, AUROCs."""

    pictures: int
    placed: int  # of a real place
    not_answerable: int
    elsewhere: Figure  # AUROC of Answer.elsewhere, higher for what cannot be answered
    doubt: Figure  # AUROC of `doubt`
    mean_elsewhere: float


@dataclass(frozen=True)
class Answerable:
    """Families by name, the two sorts (and `all`, where both occur), and what abstaining buys over all pictures."""

    families: Mapping[str, Family]
    groups: Mapping[str, Family]
    score: Floats  # (m,) what to answer by, highest first: the photos, then those without an answer
    wrong: Bools  # (m,)
    risk_at: Mapping[float, float]  # coverage to the share of wrong answers
    aurc: float


def doubt(outcomes: Outcomes) -> Floats:
    """1 - (1 - elsewhere) * confidence of the first zoom's tile, (n,): what to abstain by; 0 is certainty."""
    return np.asarray(1 - (1 - outcomes.elsewhere) * outcomes.zooms[0].confidence)


def wrong(outcomes: Outcomes) -> Bools:
    """Answers that are more than WRONG_KM off, or of pictures of no place, (n,)."""
    return ~(outcomes.km <= WRONG_KM)


def answerable(inside: Outcomes, outside: Outcomes, families: NDArray[np.str_], resamples: Resamples) -> Answerable:
    """Hold the photo set's outcomes against those of pictures without answer, `families`: (m,) the kind of each."""
    placed, bad = np.isfinite(outside.km), wrong(outside)
    names = sorted(set(families.tolist()))
    found = {name: _family(inside, outside, families == name, resamples) for name in names}
    sorts = {"all": np.ones(len(bad), dtype=bool), "no place": ~placed, "foreign, answered wrongly": placed}
    if placed.all() or not placed.any():
        del sorts["all"]  # it would repeat the one sort that there is
    groups = {name: _family(inside, outside, among, resamples) for name, among in sorts.items() if among.any()}
    score, mistakes = abstaining(inside, outside)
    curve = risk_coverage(score, mistakes)
    at = {share: float(np.interp(share, curve.coverage, curve.risk)) for share in COVERAGES}
    return Answerable(found, groups, score, mistakes, at, curve.aurc)


def abstaining(inside: Outcomes, outside: Outcomes | None) -> tuple[Floats, Bools]:
    """Score to answer by, highest first, and whether the answer is wrong: of both sets of pictures together."""
    parts = [inside] if outside is None else [inside, outside]
    return np.concatenate([1 - doubt(part) for part in parts]), np.concatenate([wrong(part) for part in parts])


def _family(inside: Outcomes, outside: Outcomes, among: Bools, resamples: Resamples) -> Family:
    counted = among & wrong(outside)
    kinds = np.concatenate([np.zeros(len(inside), dtype=bool), np.ones(int(counted.sum()), dtype=bool)])
    scores = {
        "elsewhere": np.concatenate([inside.elsewhere, outside.elsewhere[counted]]),
        "doubt": np.concatenate([doubt(inside), doubt(outside)[counted]]),
    }
    asked: dict[str, Statistic] = {name: area_under_roc(score, kinds) for name, score in scores.items()}
    figures = Resamples(len(kinds), resamples.replicates, resamples.seed).figures(asked)
    return Family(
        pictures=int(among.sum()),
        placed=int((among & np.isfinite(outside.km)).sum()),
        not_answerable=int(counted.sum()),
        elsewhere=figures["elsewhere"],
        doubt=figures["doubt"],
        mean_elsewhere=float(outside.elsewhere[among].mean()),
    )
