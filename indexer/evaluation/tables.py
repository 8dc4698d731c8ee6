"""Figures as Markdown tables, and what each column means. Text only; knows nothing of how figures came about."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from indexer.evaluation.answerable import COVERAGES, WRONG_KM, Family
from indexer.evaluation.bootstrap import Figure
from indexer.evaluation.figures import Figures, milliseconds
from indexer.evaluation.measuring import Measured
from indexer.evaluation.metrics import WITHIN_KM

__all__ = ["markdown"]

Cells = Iterable[str]


def markdown(rows: Sequence[Measured], ranked: Mapping[str, Mapping[int, Figures]]) -> str:
    """All tables that there is something to show in."""
    parts = [_errors(rows), _zooms(rows), _ranked(ranked), _costs(rows), _differences(rows), _agreements(rows)]
    parts += [_risks(rows), _families(rows)]
    return "\n\n".join(part for part in parts if part)


def _errors(rows: Sequence[Measured]) -> str:
    limits = [f"≤ {limit:,} km %" for limit in WITHIN_KM]
    head = ["#", "index", "search", "n", *limits, "median km", "mean km", "GeoScore"]
    body = []
    for number, m in enumerate(rows, 1):
        e = m.figures.errors
        shares = [_percent(e[f"within_{limit}_km"]) for limit in WITHIN_KM]
        others = [_whole(e[name]) for name in ("median_km", "mean_km", "geoscore")]
        body.append([str(number), m.row.index, m.row.name, f"{len(m.row.outcomes):,}", *shares, *others])
    return _section("Errors", "In brackets 95% percentile-bootstrap intervals over the photos.", head, body)


def _zooms(rows: Sequence[Measured]) -> str:
    head = ["#", "zoom", "indexed %", "recall@1 %", "beam recall %", "answer right %", "confidence"]
    head += ["ECE", "Brier", "NLL", "AUROC"]
    body = []
    for number, m in enumerate(rows, 1):
        for zoom, f in m.figures.zooms.items():
            shares = [_percent(f[name]) for name in ("recall_at_1", "beam_recall", "right")]
            plain = [f"{f[name].value:.3f}" for name in ("brier", "nll", "auroc")]
            covered, mean = f"{100 * f['covered'].value:.1f}", f"{f['confidence'].value:.3f}"
            body.append([str(number), str(zoom), covered, *shares, mean, _small(f["ece"]), *plain])
    about = (
        "Recall@1: the level's best candidate under the row's scoring is the true tile; beam recall: the true tile was "
        "among the kept; answer right: the tile around the answer, chosen with all levels in view. Confidence, ECE "
        "(15 bins), Brier, NLL and AUROC are those of the answer's tile, over the answers that reach the zoom. The "
        "ECE's interval is moved by what resampling itself adds to it."
    )
    return _section("Zooms", about, head, body)


def _ranked(ranked: Mapping[str, Mapping[int, Figures]]) -> str:
    body = [
        [label, str(zoom), *(_percent(f[f"recall_at_{top}"]) for top in (1, 10, 100))]
        for label, zooms in ranked.items()
        for zoom, f in zooms.items()
    ]
    about = "Where the true tile's cosine stands among all tiles of its zoom: the encoders alone, no beam."
    return _section("Retrieval among all tiles", about, ["index", "zoom", "R@1 %", "R@10 %", "R@100 %"], body)


def _costs(rows: Sequence[Measured]) -> str:
    head = ["#", "50% circle holds %", "90% circle holds %", "circles given %", "calibrated"]
    head += ["search ms, median", "p95", "peak MB"]
    body = []
    for number, m in enumerate(rows, 1):
        c, ms = m.figures.circles, milliseconds(m.row.outcomes.seconds)
        times = [f"{ms['median']:.2f}", f"{ms['p95']:.2f}", f"{m.row.peak_mb:,.0f}"]
        given, calibrated = f"{100 * c['given_90'].value:.1f}", "yes" if m.row.outcomes.calibrated.all() else "no"
        body.append([str(number), _percent(c["holds_50"]), _percent(c["holds_90"]), given, calibrated, *times])
    about = (
        "Circles: share of truths inside, of the answers that give one. Search: from an embedding to its answer, one "
        "photo at a time in one thread. Peak: highest resident memory of the whole process (Python, torch, encoder, "
        "index pages read) while the row was searched."
    )
    return _section("Circles, time and memory", about, head, body)


def _differences(rows: Sequence[Measured]) -> str:
    head = ["#", *(f"≤ {limit:,} km, points" for limit in WITHIN_KM), "median km", "mean km", "GeoScore", "recall@1"]
    body = []
    for number, m in enumerate(rows, 1):
        d = m.figures.differences
        if not d:
            continue
        shares = [_percent(d[f"within_{limit}_km"], "+") for limit in WITHIN_KM]
        others = [_whole(d[name], "+") for name in ("median_km", "mean_km", "geoscore")]
        recalls = [f"z{n.rsplit('_', 1)[1]} {_percent(f, '+')}" for n, f in d.items() if n.startswith("recall")]
        body.append([str(number), *shares, *others, "<br>".join(recalls)])
    about = "Row less row 1, paired: the same resamples of the same photos. An interval without 0 is a difference."
    return _section("Differences from row 1", about, head, body)


def _agreements(rows: Sequence[Measured]) -> str:
    head = ["#", "exhaustive #", "same tile %", "deepest recall@1 %: beam", "exhaustive"]
    head += ["median km: beam", "exhaustive", "ms: beam", "exhaustive", "times faster"]
    body = []
    for number, m in enumerate(rows, 1):
        if m.agreement is None:
            continue
        pair = (m, rows[m.agreement.exhaustive])
        recall = [_percent(list(p.figures.zooms.values())[-1]["recall_at_1"]) for p in pair]
        km = [_whole(p.figures.errors["median_km"]) for p in pair]
        ms = [milliseconds(p.row.outcomes.seconds)["median"] for p in pair]
        ends = [f"{ms[0]:.2f}", f"{ms[1]:.2f}", f"{ms[1] / ms[0]:.1f}"]
        same = f"{100 * m.agreement.same_tile:.1f}"
        body.append([str(number), str(m.agreement.exhaustive + 1), same, *recall, *km, *ends])
    about = "Exhaustive: every reachable tile of every zoom is scored, nothing is pruned; the same scoring."
    return _section("Beam against exhaustive search", about, head, body)


def _risks(rows: Sequence[Measured]) -> str:
    shares = [f"wrong % at {share:.0%}" for share in COVERAGES]
    head = ["#", "pictures", "area under risk-coverage", *shares]
    body = []
    for number, m in enumerate(rows, 1):
        body.append([str(number), "photos", f"{m.aurc:.4f}", *_risk(m.risk_at)])
        if m.answerable is not None:
            told = m.answerable
            body.append([str(number), "with those without an answer", f"{told.aurc:.4f}", *_risk(told.risk_at)])
    about = (
        f"Wrong: more than {WRONG_KM:g} km off, or any answer to a picture of no place. The surest are answered first, "
        "by (1 - elsewhere) x confidence of the first zoom's tile."
    )
    return _section("Abstaining", about, head, body)


def _families(rows: Sequence[Measured]) -> str:
    head = ["#", "family", "pictures", "with a place", "not answerable", "AUROC of elsewhere", "AUROC of doubt"]
    head.append("mean elsewhere")
    body = []
    shown = _first_calibrated(rows)
    for number, m in enumerate(rows, 1):
        if m.answerable is not None:
            groups = [(f"**{name}**", family) for name, family in m.answerable.groups.items()]
            families = list(m.answerable.families.items()) if m is shown.get(m.row.index) else []
            body += [[str(number), name, *_family(family)] for name, family in groups + families]
    about = (
        "Telling what cannot be answered from the photo set. Not answerable: pictures of no place, and foreign "
        f"renditions of real places that are answered more than {WRONG_KM:g} km off; renditions answered within that "
        "are left out. Doubt: 1 - (1 - elsewhere) x confidence of the first zoom's tile. Single families are shown for "
        "one row of each index; all are in the JSON."
    )
    return _section("Elsewhere", about, head, body)


def _first_calibrated(rows: Sequence[Measured]) -> dict[str, Measured]:
    """Each index's first row whose answers are calibrated, or else its first."""
    found: dict[str, Measured] = {}
    for m in rows:
        if m.row.index not in found or (
            m.row.outcomes.calibrated.all() and not found[m.row.index].row.outcomes.calibrated.all()
        ):
            found[m.row.index] = m
    return found


def _family(f: Family) -> list[str]:
    counts = [f"{n:,}" for n in (f.pictures, f.placed, f.not_answerable)]
    return [*counts, _small(f.elsewhere), _small(f.doubt), f"{f.mean_elsewhere:.3f}"]


def _risk(at: Mapping[float, float]) -> list[str]:
    return [f"{100 * at[share]:.1f}" for share in COVERAGES]


def _section(title: str, about: str, head: Cells, body: Sequence[Cells]) -> str:
    if not body:
        return ""
    lines = [f"| {' | '.join(cells)} |" for cells in [head, *body]]
    rule = "|" + "---|" * len(list(head))
    return "\n".join([f"## {title}", "", about, "", lines[0], rule, *lines[1:]])


def _percent(figure: Figure, sign: str = "") -> str:
    return _text(figure, lambda v: f"{100 * v:{sign}.1f}")


def _whole(figure: Figure, sign: str = "") -> str:
    """Whole numbers; with decimals where the largest of the three is small."""
    largest = np.nanmax(np.abs([*figure, 0.0]))
    digits = 0 if largest >= 100 or largest == 0 else 1 if largest >= 10 else 2
    return _text(figure, lambda v: f"{v:{sign},.{digits}f}")


def _small(figure: Figure) -> str:
    return _text(figure, lambda v: f"{v:.3f}")


def _text(figure: Figure, show: Callable[[float], str]) -> str:
    if np.isnan(figure.value):
        return "-"
    if np.isnan(figure.low):
        return show(figure.value)
    return f"{show(figure.value)} [{show(figure.low)}, {show(figure.high)}]"
