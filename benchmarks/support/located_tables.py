"""Tables of `benchmarks.located`, from what each picture's answer is worth. Shares have Wilson's intervals at 95%."""

from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.registration import share
from benchmarks.support.located_answers import Answered, added_ms
from benchmarks.support.located_records import FEATURES, Record, accepted_stage, has_answer, is_right
from indexer.evaluation.metrics import auroc, expected_calibration_error
from indexer.evaluation.tables import markdown_table
from retrieval.registration.accept import BUILT_IN

__all__ = ["line", "markdown"]

WITHIN_KM = (25, 50, 100, 200)
ZOOMS = ("4", "6", "8")


def markdown(answers: Sequence[Answered]) -> str:
    """All tables."""
    placed = [a for a in answers if has_answer(a.record)]
    lost = [a for a in answers if not has_answer(a.record)]
    parts = [_places(placed), _lost(lost), _candidates(placed), _confidences(answers), _circles(answers)]
    return "\n\n".join(part for part in [*parts, _cost(answers), _verdicts(answers)] if part)


def line(records: Sequence[Record]) -> str:
    """A short account of one set and style, for the terminal, as the built-in acceptance judges it."""
    stages = [accepted_stage(record, BUILT_IN) for record in records]
    accepted = [(r, stage["fit"]["km"]) for r, stage in zip(records, stages, strict=True) if stage is not None]
    cpu = np.median([added_ms(record, stage) for record, stage in zip(records, stages, strict=True)])
    return (
        f"{records[0]['set']} {records[0]['style']}: n {len(records)}, best fit right {sum(map(_fits, records))}, "
        f"accepted {len(accepted)}, right among these {sum(is_right(*pair) for pair in accepted)}, CPU {cpu:.0f} ms"
    )


def grouped(answers: Iterable[Answered], with_styles: bool = True) -> dict[tuple[str, str], list[Answered]]:
    """By set and style, and by set, sets in the order in which they first occur."""
    groups: dict[tuple[str, str], list[Answered]] = {}
    order = list(dict.fromkeys(answer.record["set"] for answer in answers))
    for answer in answers:
        if with_styles:
            groups.setdefault((answer.record["set"], answer.record["style"]), []).append(answer)
        groups.setdefault((answer.record["set"], "all"), []).append(answer)
    return dict(sorted(groups.items(), key=lambda item: (order.index(item[0][0]), item[0][1] == "all")))


def _fits(record: Record) -> bool:
    """Whether the best fit of the last stage is right, accepted or not."""
    fit = record["stages"][-1]["fit"]
    return fit is not None and is_right(record, fit["km"])


def _places(answers: Sequence[Answered]) -> str:
    head = ["set", "style", "n", "retrieval < 25", "< 50", "< 100", "< 200 km", "median km"]
    head += [*(f"answer < {km}" for km in WITHIN_KM), "median km", "best fit right", "accepted", "right among these"]
    rows = []
    for (name, style), group in grouped(answers).items():
        n, alone = len(group), np.array([a.record["retrieval"]["km"] for a in group])
        km, accepted = np.array([a.km for a in group]), [a for a in group if a.stage is not None]
        cells = [name, style, str(n), *(f"{(alone < limit).mean():.2f}" for limit in WITHIN_KM)]
        cells += [f"{np.median(alone):.0f}", *(share(int((km < limit).sum()), n) for limit in WITHIN_KM)]
        cells += [f"{np.median(km):.1f}", f"{np.mean([_fits(a.record) for a in group]):.2f}", share(len(accepted), n)]
        rows.append([*cells, share(sum(a.is_right for a in accepted), len(accepted)) if accepted else ""])
    return markdown_table(head, rows) if rows else ""


def _lost(answers: Sequence[Answered]) -> str:
    rows = [
        [name, style, str(len(group)), *(share(sum(hits), len(group)) for hits in _hits(group))]
        for (name, style), group in grouped(answers).items()
    ]
    return markdown_table(["set", "style", "n", "accepted", "`located`", "`elsewhere`"], rows) if rows else ""


def _hits(group: Sequence[Answered]) -> list[list[bool]]:
    accepted = [a.stage is not None for a in group]
    return [accepted, *([a.outcome == outcome for a in group] for outcome in ("located", "elsewhere"))]


def _candidates(answers: Sequence[Answered]) -> str:
    rows = [
        [name, style, str(len(group)), *(f"{np.mean([a.record['recall'][s] for a in group]):.2f}" for s in _STAGES)]
        for (name, style), group in grouped(answers).items()
    ]
    return markdown_table(["set", "style", "n", "the place among 21 candidates", "and 8 turns'"], rows) if rows else ""


def _confidences(answers: Sequence[Answered]) -> str:
    groups = grouped(answers, with_styles=False) | {("every set", "all"): list(answers)}
    rows = []
    for (name, _), group in groups.items():
        cells = [name, str(len(group))]
        for zoom in ZOOMS:
            cells.append(_reliability([a.record["retrieval"]["levels"].get(zoom) for a in group]))
            cells.append(_reliability([a.levels.get(zoom) for a in group]))
        rows.append(cells)
    head = [f"z{zoom}, {what}" for zoom in ZOOMS for what in ("retrieval", "answer")]
    return markdown_table(["set", "n", *head], rows) + "\n\nShare that is right / mean confidence / ECE over 15 bins."


def _reliability(levels: Sequence[Sequence[float] | None]) -> str:
    reached = [level for level in levels if level is not None]
    if not reached:
        return ""
    said, right = (np.array(values) for values in zip(*reached, strict=True))
    return f"{right.mean():.2f} / {said.mean():.2f} / {expected_calibration_error(said, right.astype(bool)):.3f}"


def _circles(answers: Sequence[Answered]) -> str:
    groups = grouped(answers, with_styles=False) | {("every set", "all"): list(answers)}
    rows = []
    for (name, _), group in groups.items():
        with_place = [a for a in group if a.record["has_place"]]
        circles = [a for a in with_place if a.radius_90_km is not None]
        located = [a for a in group if a.outcome == "located"]
        cells = [name, str(len(group)), f"{len(circles) / len(group):.2f}"]
        cells.append(share(sum(a.is_inside for a in circles), len(circles)) if circles else "")
        cells.append(share(len(located), len(group)))
        rows.append([*cells, share(sum(a.is_inside for a in located), len(located)) if located else ""])
    head = ["set", "n", "with a circle", "90% circle holds", "`located`", "these within their 90% circle"]
    return markdown_table(head, rows)


def _cost(answers: Sequence[Answered]) -> str:
    stages = [stage["name"] for stage in answers[0].record["stages"]]
    rows = []
    for (name, _), group in grouped(answers, with_styles=False).items():
        times = [[a.record["retrieval"][key] for a in group] for key in ("cpu_ms", "turned_cpu_ms")]
        times += [[a.record["stages"][i]["cpu_ms"] for a in group] for i in range(len(stages))]
        times.append([a.cpu_ms for a in group])
        rows.append([name, *(f"{np.median(t):.0f} ({np.quantile(t, 0.9):.0f})" for t in times)])
    head = ["set", "retrieval", "7 more turns", *(f"registration, {s}" for s in stages), "added until accepted"]
    return markdown_table(head, rows) + "\n\nCPU ms: median (90%)."


def _verdicts(answers: Sequence[Answered]) -> str:
    """How well features tell right from wrong, over the last stage of all pictures."""
    seen = [(a, a.record["stages"][-1]["fit"]) for a in answers if a.record["stages"][-1]["fit"] is not None]
    right = np.array([is_right(a.record, fit["km"]) for a, fit in seen])
    values = {name: np.array([fit[name] for _, fit in seen]) for name in FEATURES}
    values["probability"] = np.array([a.last_probability for a, _ in seen])
    ece = expected_calibration_error(values["probability"], right)
    return f"AUROC: {', '.join(f'{n} {auroc(v, right):.3f}' for n, v in values.items())}; ECE of p {ece:.3f}."


_STAGES = ("upright", "turned")
