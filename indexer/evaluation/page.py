"""An evaluation as a Markdown page: what was measured, the tables of figures, and what each column means."""

from collections.abc import Iterator, Mapping, Sequence

from indexer.evaluation.figures import COVERAGES, WRONG_KM, Family, Figures, Risk, milliseconds
from indexer.evaluation.load import Subject
from indexer.evaluation.metrics import WITHIN_KM
from indexer.evaluation.run import Evaluation, Measured
from indexer.evaluation.tables import decimals, markdown_table, percent, rounded

__all__ = ["markdown"]

Rows = Sequence[tuple[str, Measured]]
"""The rows with their names, which include the index if there are several."""


def markdown(evaluation: Evaluation) -> str:
    """The whole page; a table without rows is left out."""
    return "\n".join([*_header(evaluation), "", "\n\n".join(_sections(evaluation))])


def _header(evaluation: Evaluation) -> Iterator[str]:
    photos, request = evaluation.loaded.photos, evaluation.request
    rejected = "; ".join(f"{count:,} {reason}" for reason, count in photos.summary().items())
    split = request.split or ("test" if photos.split is not None else "all")
    yield f"# {len(photos):,} photos of {request.photos.name} (split: {split})"
    yield ""
    if rejected:
        yield f"Not used: {rejected}."
        yield ""
    yield from map(_index_line, evaluation.loaded.subjects)


def _index_line(subject: Subject) -> str:
    locator = subject.locator
    rows = ", ".join(f"zoom {level.zoom}: {len(level.codes):,}" for level in locator.index.levels)
    calibration = f"calibrated at k = {locator.calibration.k}" if locator.calibration.id else "not calibrated"
    line = f"- **{subject.label}**: tiles at {rows}; photos by {locator.encoder.name}; {calibration}."
    for name, prior in locator.priors.by_name.items():
        fitted = f"calibrated with it at k = {prior.calibration.k}" if prior.fitted else "no calibration with it"
        line += f" Prior {name}: {fitted}."
    if subject.encode_seconds is not None and len(subject.encode_seconds):
        ms = milliseconds(subject.encode_seconds)
        times = f"{ms['median']:.1f} ms median, {ms['p95']:.1f} ms p95 of {len(subject.encode_seconds)} photos"
        line += f" From file to embedding, one photo at a time: {times}."
    return line


def _sections(evaluation: Evaluation) -> Iterator[str]:
    rows = [(evaluation.name_of(m), m) for m in evaluation.rows]
    for make in (_errors, _zooms):
        yield from make(rows)
    yield from _ranks(evaluation.ranked)
    for make in (_costs, _differences, _agreements, _risks, _families):
        yield from make(rows)


def _section(title: str, about: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        yield f"## {title}\n\n{about}\n\n{markdown_table(head, rows)}"


def _errors(rows: Rows) -> Iterator[str]:
    limits = [f"≤ {limit:,} km %" for limit in WITHIN_KM]
    head = ["index", "search", "n", *limits, "median km", "mean km", "GeoScore"]
    body = []
    for _, m in rows:
        e = m.figures.errors
        shares = [percent(e[f"within_{limit}_km"]) for limit in WITHIN_KM]
        others = [rounded(e[name]) for name in ("median_km", "mean_km", "geoscore")]
        body.append([m.row.index, m.row.name, f"{len(m.row.outcomes):,}", *shares, *others])
    return _section("Errors", "In brackets: 95% percentile-bootstrap intervals over the photos.", head, body)


def _zooms(rows: Rows) -> Iterator[str]:
    head = ["search", "zoom", "indexed %", "recall@1 %", "beam recall %", "answer right %", "confidence"]
    head += ["ECE", "Brier", "NLL", "AUROC"]
    body = []
    for row, m in rows:
        for zoom, f in m.figures.zooms.items():
            shares = [percent(f[name]) for name in ("recall_at_1", "beam_recall", "right")]
            values = [f"{f[name].value:.3f}" for name in ("brier", "nll", "auroc")]
            covered, confidence = f"{100 * f['covered'].value:.1f}", f"{f['confidence'].value:.3f}"
            body.append([row, str(zoom), covered, *shares, confidence, decimals(f["ece"]), *values])
    about = (
        "Recall@1: the candidate with the highest score is the true tile. Beam recall: the beam kept the true tile. "
        "Answer right: the true tile is the one around the answer, which is chosen from the posterior over all zooms. "
        "Confidence, ECE (15 bins), Brier, NLL and AUROC are those of the answer's tile, over the answers that reach "
        "the zoom. The ECE's interval is corrected for the bias that resampling adds."
    )
    return _section("Zooms", about, head, body)


def _ranks(ranked: Mapping[str, Mapping[int, Figures]]) -> Iterator[str]:
    body = [
        [label, str(zoom), *(percent(f[f"recall_at_{top}"]) for top in (1, 10, 100))]
        for label, zooms in ranked.items()
        for zoom, f in zooms.items()
    ]
    about = (
        "The rank of the true tile's cosine among all tiles of its zoom. It depends on the encoders, not on the beam."
    )
    return _section("Retrieval among all tiles", about, ["index", "zoom", "R@1 %", "R@10 %", "R@100 %"], body)


def _costs(rows: Rows) -> Iterator[str]:
    head = ["search", "50% circle holds %", "90% circle holds %", "circles given %", "calibrated"]
    head += ["search ms, median", "p95", "peak MB"]
    body = []
    for row, m in rows:
        c, ms = m.figures.circles, milliseconds(m.row.outcomes.seconds)
        costs = [f"{ms['median']:.2f}", f"{ms['p95']:.2f}", f"{m.row.peak_mb:,.0f}"]
        with_circle, calibrated = f"{100 * c['given_90'].value:.1f}", "yes" if m.row.outcomes.calibrated.all() else "no"
        body.append([row, percent(c["holds_50"]), percent(c["holds_90"]), with_circle, calibrated, *costs])
    about = (
        "Circle holds: the share of true places inside the circle, among the answers that give one. Search: from an "
        "embedding to its answer, one photo at a time in one thread. Peak: the highest resident memory of the whole "
        "process (Python, torch, the encoder, index pages that were read) during the row's search."
    )
    return _section("Circles, time and memory", about, head, body)


def _differences(rows: Rows) -> Iterator[str]:
    head = [
        "search",
        *(f"≤ {limit:,} km, points" for limit in WITHIN_KM),
        "median km",
        "mean km",
        "GeoScore",
        "recall@1",
    ]
    body = []
    for row, m in rows:
        d = m.figures.differences
        if not d:
            continue
        shares = [percent(d[f"within_{limit}_km"], "+") for limit in WITHIN_KM]
        others = [rounded(d[name], "+") for name in ("median_km", "mean_km", "geoscore")]
        recalls = [f"z{n.rsplit('_', 1)[1]} {percent(f, '+')}" for n, f in d.items() if n.startswith("recall")]
        body.append([row, *shares, *others, "<br>".join(recalls)])
    first = next((row for row, _ in rows), "")
    about = (
        f"Each row less {first}, paired: on the same resamples of the same photos. A difference is significant "
        "if its interval does not contain 0."
    )
    return _section("Differences from the first row", about, head, body)


def _agreements(rows: Rows) -> Iterator[str]:
    head = ["search", "exhaustive", "same tile %", "deepest recall@1 %: beam", "exhaustive"]
    head += ["median km: beam", "exhaustive", "ms: beam", "exhaustive", "times faster"]
    body = []
    for row, m in rows:
        if m.agreement is None:
            continue
        exhaustive, measured = rows[m.agreement.exhaustive]
        pair = (m, measured)
        recall = [percent(list(p.figures.zooms.values())[-1]["recall_at_1"]) for p in pair]
        km = [rounded(p.figures.errors["median_km"]) for p in pair]
        ms = [milliseconds(p.row.outcomes.seconds)["median"] for p in pair]
        times = [f"{ms[0]:.2f}", f"{ms[1]:.2f}", f"{ms[1] / ms[0]:.1f}"]
        same = f"{100 * m.agreement.same_tile:.1f}"
        body.append([row, exhaustive, same, *recall, *km, *times])
    about = "Exhaustive search scores every reachable tile of every zoom, with the same scoring, and prunes nothing."
    return _section("Beam against exhaustive search", about, head, body)


def _risks(rows: Rows) -> Iterator[str]:
    head = ["search", "pictures", "area under risk-coverage", *(f"wrong % at {share:.0%}" for share in COVERAGES)]
    body = []
    for row, m in rows:
        body.append([row, "photos", *_risk(m.risk)])
        if m.answerable is not None:
            body.append([row, "with pictures without an answer", *_risk(m.answerable.risk)])
    about = (
        f"Wrong: more than {WRONG_KM:g} km off, or any answer to a picture of no place. The pictures with the highest "
        "(1 - elsewhere) x confidence of the first zoom's tile are answered first."
    )
    return _section("Abstaining", about, head, body)


def _risk(risk: Risk) -> list[str]:
    return [f"{risk.aurc:.4f}", *(f"{100 * risk.at[share]:.1f}" for share in COVERAGES)]


def _families(rows: Rows) -> Iterator[str]:
    head = ["search", "family", "pictures", "with a place", "not answerable", "AUROC of elsewhere", "AUROC of doubt"]
    head.append("mean elsewhere")
    body = []
    detailed = _first_calibrated(rows)
    for row, m in rows:
        if m.answerable is not None:
            groups = [(f"**{name}**", family) for name, family in m.answerable.groups.items()]
            families = list(m.answerable.families.items()) if m is detailed[m.row.index] else []
            body += [[row, name, *_family(family)] for name, family in groups + families]
    about = (
        "How well the scores separate pictures without an answer from the photo set. Not answerable: pictures of no "
        f"place, and foreign renditions of real places that are answered more than {WRONG_KM:g} km off; renditions "
        "answered within that distance are left out. Doubt: 1 - (1 - elsewhere) x confidence of the first zoom's tile. "
        "Single families are listed for one row of each index; the JSON has all."
    )
    return _section("Elsewhere", about, head, body)


def _first_calibrated(rows: Rows) -> dict[str, Measured]:
    """Each index's first row whose answers are all calibrated, or else its first row."""
    first: dict[str, Measured] = {}
    for _, m in rows:
        current = first.setdefault(m.row.index, m)
        if m.row.outcomes.calibrated.all() and not current.row.outcomes.calibrated.all():
            first[m.row.index] = m
    return first


def _family(f: Family) -> list[str]:
    counts = [f"{n:,}" for n in (f.pictures, f.placed, f.not_answerable)]
    return [*counts, decimals(f.elsewhere), decimals(f.doubt), f"{f.mean_elsewhere:.3f}"]
