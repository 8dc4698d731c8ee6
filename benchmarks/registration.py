"""Registration of pictures in styles that the reference lacks: how near, how sure, at what cost.

    python -m benchmarks.registration                         all styles and kinds, 12 pictures each
    python -m benchmarks.registration --kind turned --count 50
    python -m benchmarks.registration --fit                   coefficients of the acceptance, from other pictures
    python -m benchmarks.registration --effort exhaustive     the first method, on the same pictures
    python -m benchmarks.registration --costs --style relief  processor time, beside that of the first method

Candidates stand in for retrieval: one of `--places` lies about 150 km from the truth, the others are random land; the
footprint is unknown within the kind's range, and the turn is unknown. Kinds: north-up, turned, wide, narrow, oblique,
removed (the true place is missing from the reference), nowhere (patterns, patchworks, mirrored views). Intervals are
Wilson's at 95%. Markdown goes to standard output, and every picture's figures as JSON to --json FILE.
"""

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.support.machine import describe, sentence
from benchmarks.support.registration_costs import costs
from benchmarks.support.registration_exhaustive import EXHAUSTIVE
from benchmarks.support.registration_exhaustive import registered as exhaustively_registered
from benchmarks.support.registration_sets import KINDS, STYLES, Case, PictureKind, Removed, cases, reference_of
from indexer.evaluation.tables import markdown_table
from retrieval.registration.accept import BUILT_IN, Acceptance, Features, fit_acceptance
from retrieval.registration.canvases import CanvasCache
from retrieval.registration.jobs import NEAR, jobs_near
from retrieval.registration.registration import Effort, Hints, register
from retrieval.registration.search import distance_km

WITHIN_KM = (25, 50, 100, 200)
REPORT_SEED, FIT_SEED = 2, 1
CACHE_BYTES = 600_000_000


@dataclass(frozen=True)
class Record:
    """One picture's result. `width`, `turn`: the errors of the footprint, as a factor, and of the heading, degrees."""

    style: str
    kind: str
    has_place: bool
    edge_km: float
    distance_km: float
    width: float
    turn: float
    features: Features | None
    cpu_s: float

    @property
    def is_right(self) -> bool:
        """Whether the centre is within a quarter of the footprint."""
        return self.has_place and self.distance_km < self.edge_km / 4


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--style", action="append", choices=list(STYLES), help="may be repeated; default: all")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="may be repeated; default: all")
    parser.add_argument("--count", type=int, default=12, help="pictures of each style and kind")
    parser.add_argument("--places", type=int, default=20, help="candidates of each picture")
    parser.add_argument("--effort", choices=["near", "exhaustive"], default="near", help="exhaustive: the first method")
    parser.add_argument("--shortlist", type=int, default=Effort.shortlist, help="hypotheses aligned in 16 pixels")
    parser.add_argument("--aligned", type=int, default=Effort.aligned, help="hypotheses aligned in 32 pixels")
    parser.add_argument("--costs", action="store_true", help="measure processor times, a table for each style and kind")
    parser.add_argument("--fit", action="store_true", help="draw other pictures, and print fitted coefficients")
    parser.add_argument("--json", type=Path, help="write every picture's figures there")
    arguments = parser.parse_args()
    effort = replace(NEAR, shortlist=arguments.shortlist, aligned=arguments.aligned)
    effort = EXHAUSTIVE if arguments.effort == "exhaustive" else effort
    seed = FIT_SEED if arguments.fit else REPORT_SEED
    sets = [
        (style, kind)
        for style in arguments.style or STYLES
        for kind in arguments.kind or KINDS
        if KINDS[kind].tilt is None or STYLES[style].product is not None
    ]
    machine = describe()
    if arguments.costs:
        for style, kind in sets:
            print(f"{style}, {kind}\n\n{costs(style, kind, arguments.count, seed, arguments.places)}\n")
        print(f"{arguments.places} candidates. {sentence(machine)}")
        return
    records = [record for s, k in sets for record in measure(s, k, arguments.count, seed, arguments.places, effort)]
    if arguments.fit:
        print(json.dumps(fitted(records).to_json(), indent=1))
    print(f"{markdown(records)}\n\n{verdicts(records)}\n\n{arguments.places} candidates, {effort}. {sentence(machine)}")
    if arguments.json:
        rows = [asdict(record) for record in records]
        arguments.json.write_text(json.dumps({"machine": machine, "effort": asdict(effort), "pictures": rows}) + "\n")


def measure(style: str, kind: str, count: int, seed: int, places: int, effort: Effort) -> list[Record]:
    """Register pictures of a style and kind."""
    cache = CanvasCache(reference_of(style), CACHE_BYTES)
    drawn = cases(style, kind, count, seed, places)
    records = [registered(style, kind, case, KINDS[kind], cache, effort) for case in drawn]
    print(" | ".join(_row(kind, style, records)), file=sys.stderr, flush=True)
    return records


def registered(style: str, kind: str, case: Case, how: PictureKind, cache: CanvasCache, effort: Effort) -> Record:
    """Register one picture."""
    if how.removed:
        cache = CanvasCache(Removed(cache.reference, case.lng, case.lat, 0.75 * case.edge_km), 0)
    hints, started = Hints(edges_km=how.searched_km), time.process_time()
    if effort == EXHAUSTIVE:
        result = exhaustively_registered(case.pixels, jobs_near(case.candidates, hints, effort, 1.0), cache)
    else:
        result = register(case.pixels, case.candidates, cache, hints, effort)
    cpu_s = time.process_time() - started
    frame = result.frame
    if frame is None:
        return Record(style, kind, case.has_place, case.edge_km, np.inf, np.inf, np.inf, None, cpu_s)
    turn = abs((frame.heading - case.heading + 180) % 360 - 180)
    away, width = distance_km(frame, case), frame.edge_km / case.edge_km
    return Record(style, kind, case.has_place, case.edge_km, away, width, turn, result.features, cpu_s)


def fitted(records: list[Record]) -> Acceptance:
    """Coefficients from these pictures."""
    seen = [record for record in records if record.features is not None]
    # The candidates' confidences are invented, so the fit must not see them.
    features = [replace(record.features, log_confidence=0.0) for record in seen if record.features is not None]
    return fit_acceptance(features, np.array([record.is_right for record in seen]))


def markdown(records: list[Record]) -> str:
    """A row for each style and kind, and one for each kind."""
    head = ["kind", "style", "n", *(f"< {km} km" for km in WITHIN_KM), "median km, right", "accepted", "right", "CPU s"]
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.kind, record.style), []).append(record)
        groups.setdefault((record.kind, "all"), []).append(record)
    order = list(KINDS)
    return markdown_table(head, [_row(*key, groups[key]) for key in sorted(groups, key=lambda k: order.index(k[0]))])


def _row(kind: str, style: str, group: list[Record]) -> list[str]:
    away = np.array([record.distance_km for record in group])
    right = [record.distance_km for record in group if record.is_right]
    taken = [record for record in group if accepted(record)]
    within = [share(int((away < km).sum()), len(group)) if group[0].has_place else "" for km in WITHIN_KM]
    cpu = f"{np.median([record.cpu_s for record in group]):.2f}"
    median = f"{np.median(right):.1f}" if right else ""
    correct = share(sum(record.is_right for record in taken), len(taken)) if taken else ""
    return [kind, style, str(len(group)), *within, median, share(len(taken), len(group)), correct, cpu]


def verdicts(records: list[Record]) -> str:
    """How well margin, score and probability tell right from wrong, over all pictures."""
    seen = [record for record in records if record.features is not None]
    right = np.array([record.is_right for record in seen])
    values = {
        "margin": [record.features.margin for record in seen if record.features],
        "score": [record.features.score for record in seen if record.features],
        "probability": [BUILT_IN.probability(record.features) for record in seen if record.features],
    }
    return "AUROC: " + ", ".join(f"{name} {auroc(np.array(v), right):.3f}" for name, v in values.items())


def accepted(record: Record) -> bool:
    """Whether the built-in acceptance takes a result."""
    return record.features is not None and BUILT_IN.probability(record.features) >= BUILT_IN.threshold


def auroc(values: np.ndarray, right: np.ndarray) -> float:
    """The chance that a right result has a larger value than a wrong one; ties count half."""
    if right.all() or not right.any():
        return float("nan")
    difference = values[right][:, None] - values[~right][None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


def share(hits: int, n: int) -> str:
    """A share with Wilson's interval at 95% (Wilson 1927), as text."""
    z = 1.96
    middle, spread = (hits + z * z / 2) / (n + z * z), z / (n + z * z) * np.sqrt(hits * (n - hits) / n + z * z / 4)
    return f"{hits / n:.2f} ({max(0, middle - spread):.2f}-{min(1, middle + spread):.2f})"


if __name__ == "__main__":
    main()
