"""Tables of `benchmarks.located`, from its records and an acceptance: nearness, acceptance, recall, cost.

Records hold the fits of all stages. The answer is the fit of the first stage that is accepted, else retrieval's.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.registration import share
from indexer.evaluation.metrics import auroc, expected_calibration_error
from indexer.evaluation.tables import markdown_table
from retrieval.registration.accept import BUILT_IN, Acceptance, Features, fit_acceptance

__all__ = ["Judged", "fitted", "judged", "line", "markdown"]

Record = dict[str, Any]
WITHIN_KM = (25, 50, 100, 200)
FEATURES = tuple(field.name for field in fields(Features))


@dataclass(frozen=True)
class Judged:
    """A record's answer: of which stage (None: retrieval's), with which probability, and km from the truth."""

    record: Record
    stage: str | None
    probability: float
    km: float
    cpu_ms: float

    @property
    def is_right(self) -> bool:
        """Whether the registered place is right: within a quarter of the footprint."""
        return self.stage is not None and is_right(self.record, self.km)


def judged(record: Record, acceptance: Acceptance) -> Judged:
    """The answer that follows from an acceptance."""
    spent, belief = 0.0, 0.0
    for stage in record["stages"]:
        spent += stage["cpu_ms"]
        if stage["fit"] is None:
            continue
        belief = acceptance.probability(features_of(stage["fit"]))
        if belief >= acceptance.threshold:
            return Judged(record, stage["name"], belief, stage["fit"]["km"], spent)
    return Judged(record, None, belief, record["retrieval"]["km"], spent)


def is_right(record: Record, km: float) -> bool:
    """Whether a place so far from the truth is right."""
    return bool(record["has_place"] and record["set"] != "removed" and km < record["truth"]["edge_km"] / 4)


def features_of(fit: dict[str, Any]) -> Features:
    """What the acceptance looks at."""
    return Features(*(fit[name] for name in FEATURES))


def fitted(records: Iterable[Record]) -> Acceptance:
    """Coefficients from the fits of all stages."""
    fits = [(record, stage["fit"]) for record in records for stage in record["stages"] if stage["fit"] is not None]
    right = np.array([is_right(record, fit["km"]) for record, fit in fits])
    return fit_acceptance([features_of(fit) for _, fit in fits], right)


def markdown(records: Sequence[Record], fitting: Sequence[Record] = ()) -> str:
    """All tables. With records to fit on, the acceptance of each picture comes from those of other styles."""

    @lru_cache(maxsize=64)
    def acceptance(style: str) -> Acceptance:
        return fitted(r for r in fitting if r["style"] != style) if fitting else BUILT_IN

    answers = [judged(record, acceptance(record["style"])) for record in records]
    parts = [f"Acceptance of all of them: {fitted(fitting).to_json()}"] if fitting else []
    if answers:
        placed = [a for a in answers if a.record["has_place"] and a.record["set"] != "removed"]
        lost = [a for a in answers if not a.record["has_place"] or a.record["set"] == "removed"]
        parts += [_places(placed), _lost(lost), _candidates(placed), _confidences(answers), _cost(answers)]
        parts.append(_verdicts(answers, acceptance))
    return "\n\n".join(part for part in parts if part)


def line(records: Sequence[Record]) -> str:
    """A short account of one set and style, for the terminal."""
    answers = [judged(record, BUILT_IN) for record in records]
    accepted = [a for a in answers if a.stage is not None]
    best = [record["stages"][-1]["fit"] for record in records]
    right = sum(fit is not None and is_right(r, fit["km"]) for r, fit in zip(records, best, strict=True))
    cpu = np.median([a.cpu_ms for a in answers])
    return (
        f"{records[0]['set']} {records[0]['style']}: n {len(records)}, best fit right {right}, accepted "
        f"{len(accepted)}, right among these {sum(a.is_right for a in accepted)}, CPU {cpu:.0f} ms"
    )


def grouped(answers: Iterable[Judged], with_styles: bool = True) -> dict[tuple[str, str], list[Judged]]:
    """By set and style, and by set, in the order in which they first occur."""
    groups: dict[tuple[str, str], list[Judged]] = {}
    for answer in answers:
        if with_styles:
            groups.setdefault((answer.record["set"], answer.record["style"]), []).append(answer)
    for answer in answers:
        groups.setdefault((answer.record["set"], "all"), []).append(answer)
    return dict(sorted(groups.items(), key=lambda item: item[0][0]))


def _places(answers: Sequence[Judged]) -> str:
    head = ["set", "style", "n", "retrieval < 25", "< 200 km", "median km"]
    head += [*(f"answer < {km}" for km in WITHIN_KM), "median km", "best fit right", "accepted", "right among accepted"]
    rows = []
    for (name, style), group in grouped(answers).items():
        n, alone = len(group), np.array([a.record["retrieval"]["km"] for a in group])
        km, taken = np.array([a.km for a in group]), [a for a in group if a.stage is not None]
        best = [a.record["stages"][-1]["fit"] for a in group]
        fits = sum(fit is not None and is_right(a.record, fit["km"]) for a, fit in zip(group, best, strict=True))
        cells = [name, style, str(n), *(f"{(alone < limit).mean():.2f}" for limit in (25, 200))]
        cells += [f"{np.median(alone):.0f}", *(share(int((km < limit).sum()), n) for limit in WITHIN_KM)]
        cells += [f"{np.median(km):.1f}", f"{fits / n:.2f}", share(len(taken), n)]
        rows.append([*cells, share(sum(a.is_right for a in taken), len(taken)) if taken else ""])
    return markdown_table(head, rows)


def _lost(answers: Sequence[Judged]) -> str:
    rows = [
        [name, style, str(len(group)), share(sum(a.stage is not None for a in group), len(group))]
        for (name, style), group in grouped(answers).items()
    ]
    return markdown_table(["set", "style", "n", "accepted"], rows) if rows else ""


def _candidates(answers: Sequence[Judged]) -> str:
    rows = [
        [name, style, str(len(group)), *(f"{np.mean([a.record['recall'][s] for a in group]):.2f}" for s in _STAGES)]
        for (name, style), group in grouped(answers).items()
    ]
    return markdown_table(["set", "style", "n", "the place among 21 candidates", "and 8 turns'"], rows) if rows else ""


def _confidences(answers: Sequence[Judged]) -> str:
    groups = grouped(answers, with_styles=False) | {("every set", "all"): list(answers)}
    rows = []
    for (name, _), group in groups.items():
        cells = [name, str(len(group))]
        for zoom in ("4", "6", "8"):
            pairs = [a.record["retrieval"]["levels"][zoom] for a in group if zoom in a.record["retrieval"]["levels"]]
            values, right = (np.array(v) for v in zip(*pairs, strict=True))
            cells.append(
                f"{right.mean():.2f} / {values.mean():.2f} / {expected_calibration_error(values, right, 15):.3f}"
            )
        rows.append(cells)
    return markdown_table(["set", "n", *(f"z{z}: right / said / ECE" for z in (4, 6, 8))], rows)


def _cost(answers: Sequence[Judged]) -> str:
    stages = [stage["name"] for stage in answers[0].record["stages"]]
    rows = []
    for (name, _), group in grouped(answers, with_styles=False).items():
        times = [[a.record["retrieval"][key] for a in group] for key in ("cpu_ms", "turned_cpu_ms")]
        times += [[a.record["stages"][i]["cpu_ms"] for a in group] for i in range(len(stages))]
        times.append([a.cpu_ms for a in group])
        rows.append([name, *(f"{np.median(t):.0f} ({np.quantile(t, 0.9):.0f})" for t in times)])
    head = ["set", "retrieval", "7 more turns", *(f"registration, {s}" for s in stages), "until accepted"]
    return markdown_table(head, rows) + "\n\nCPU ms: median (90%)."


def _verdicts(answers: Sequence[Judged], acceptance: Any) -> str:
    """How well features tell right from wrong, over the last stage of all pictures."""
    seen = [(a.record, a.record["stages"][-1]["fit"]) for a in answers if a.record["stages"][-1]["fit"] is not None]
    right = np.array([is_right(record, fit["km"]) for record, fit in seen])
    values = {name: np.array([fit[name] for _, fit in seen]) for name in FEATURES}
    values["probability"] = np.array([acceptance(r["style"]).probability(features_of(fit)) for r, fit in seen])
    ece = expected_calibration_error(values["probability"], right, 15)
    return f"AUROC: {', '.join(f'{n} {auroc(v, right):.3f}' for n, v in values.items())}; ECE of p {ece:.3f}."


_STAGES = ("upright", "turned")
