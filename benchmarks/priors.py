"""Gains of a prior: tiles only, geocells only, bolted on as in the hierarchical-search paper, fused, and fused noise.

    python -m benchmarks.priors --index INDEX --photos photos.csv --geocells MODEL --out OUT
    python -m benchmarks.priors --quick --out OUT

Works on a copy of the index. Calibrates it three times on the photos' validation split (plainly, with the geocells,
with the noise prior), each a `tilebeam calibrate` that is printed before it runs, and evaluates on the test split.
Tables go to standard output and OUT/priors.md, figures to OUT/priors.json, and those of `tilebeam evaluate` to
OUT/evaluation.
The geocell model must have been trained on other photos than those two splits.
"""

import argparse
import io
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from benchmarks.support.machine import describe, sentence
from benchmarks.support.noise_prior import NOISE, NOISE_KIND
from indexer.cli.terminal import Bars
from indexer.evaluation.bootstrap import Figure, Resamples, difference
from indexer.evaluation.figures import errors, plain
from indexer.evaluation.metrics import WITHIN_KM
from indexer.evaluation.request import EvaluationRequest, Measures
from indexer.evaluation.run import Evaluation, Measured, evaluate
from indexer.evaluation.tables import decimals, figure_text, markdown_table, percent
from indexer.evaluation.write import write_out
from retrieval.files import write_json
from retrieval.index.calibration import Calibration
from retrieval.priors.registry import KINDS
from tilebeam import app

PRIOR = "geocells"
PAIRS = (
    ("fused", "tiles only"),
    ("fused", "geocells only"),
    ("fused", "bolted on"),
    ("fused with noise", "tiles only"),
)
"""Ways that are compared, on the same resamples of the same photos."""


def main() -> None:
    """Calibrate, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, help="an index; it is copied")
    parser.add_argument("--photos", type=Path, help="a table with splits validation and test")
    parser.add_argument("--geocells", type=Path, help="a model that `tilebeam geocells train` made")
    parser.add_argument("--elsewhere", type=Path, help="pictures without an answer, for calibrating")
    parser.add_argument("--out", type=Path, required=True, help="a folder; results that it already holds are reused")
    parser.add_argument("--k", type=int, default=64, help="beam width")
    parser.add_argument("--limit", type=int, help="at most so many test photos, for a quick look")
    parser.add_argument(
        "--quick", action="store_true", help="make a small index, photos and a model, to see that it runs"
    )
    arguments = parser.parse_args()
    if arguments.quick:
        make_inputs(arguments)
    elif None in (arguments.index, arguments.photos, arguments.geocells):
        parser.error("--index, --photos and --geocells are needed, or --quick")
    KINDS[NOISE] = NOISE_KIND
    calibrate(arguments)
    ways = named(measured(arguments))
    machine = describe()
    pairs = compared(ways)
    text = "\n\n".join([*tables(arguments.out / "index", ways, pairs), sentence(machine)])
    print(text)
    (arguments.out / "priors.md").write_text(text + "\n", encoding="utf-8")
    write_json(arguments.out / "priors.json", report(arguments.out / "index", ways, pairs) | {"machine": machine})


def make_inputs(arguments: argparse.Namespace) -> None:
    """Make a small index of zooms 4 and 6, 2,400 photos and a geocell model trained for one epoch."""
    out: Path = arguments.out
    photos, model = out / "earth/photos.csv", out / "geocell-run"
    tilebeam("sample-data", "photos", "--out", out / "earth", "--count", 2400, "--no-folder-tiles")
    limits = ("--min-samples", "5", "--cells", "5", "200")
    tilebeam("geocells", "fit", "--photos", photos, *limits, "--out", out / "partition")
    train = ("--photos", photos, "--partition", out / "partition", "--lr-encoder", 0, "--epochs", 1)
    tilebeam("geocells", "train", *train, "--split-ratio", "8:2:2", "--out", model)
    tilebeam("index", "--source", "bluemarble", "--world", "--zooms", "4,6", "--out", out / "original")
    arguments.index, arguments.photos = out / "original", model / "photos.csv"
    arguments.geocells, arguments.limit = model / "model", 100


def calibrate(arguments: argparse.Namespace) -> None:
    """Make a copy of the index with three calibrations; those that exist already are reused."""
    index: Path = arguments.out / "index"
    if not index.exists():
        arguments.out.mkdir(parents=True, exist_ok=True)
        shutil.copytree(arguments.index, index, ignore=shutil.ignore_patterns("calibration*.json"))
    common = ["--index", index, "--photos", arguments.photos, "--k", arguments.k, "--cache", arguments.out / "cache"]
    common += ["--elsewhere", arguments.elsewhere] if arguments.elsewhere else []
    wanted = {None: [], PRIOR: ["--prior", f"{PRIOR}={arguments.geocells}"], NOISE: ["--prior", NOISE]}
    for name, options in wanted.items():
        report_of = arguments.out / f"calibration-{name or 'plain'}"
        if Calibration.read(index, name).id is None:
            tilebeam("calibrate", *common, *options, *(["--prior-on-request"] if name else []), "--out", report_of)


def tilebeam(*words: object) -> None:
    """Print one command and run it in this process, where the noise prior is a kind."""
    arguments = list(map(str, words))
    print(f"$ {shlex.join(['tilebeam', *arguments])}", file=sys.stderr)
    with redirect_stdout(io.StringIO()):
        code = typer.main.get_command(app).main(arguments, standalone_mode=False)
    if code:
        raise SystemExit(code)


def measured(arguments: argparse.Namespace) -> Evaluation:
    """All ways on the test photos."""
    request = EvaluationRequest(
        indexes=(arguments.out / "index",),
        photos=arguments.photos,
        limit=arguments.limit,
        cache=arguments.out / "cache",
        measures=Measures(
            widths=(arguments.k,),
            scorings=("posterior", "paper", "bolted"),
            priors=("none", PRIOR, NOISE),
            methods=("beam", PRIOR),
        ),
    )
    with Bars() as bars:
        evaluation = evaluate(request, bars)
        write_out(arguments.out / "evaluation", evaluation)
    return evaluation


def named(evaluation: Evaluation) -> dict[str, Measured]:
    """The rows by their names in the tables."""
    rows = {(m.row.prior, "alone" if m.row.alone else m.row.scoring): m for m in evaluation.rows}
    return {
        "tiles only": rows[None, "posterior"],
        "tiles only, ranked as in the paper": rows[None, "paper"],
        "geocells only": rows[PRIOR, "alone"],
        "bolted on": rows[PRIOR, "bolted"],
        "fused": rows[PRIOR, "posterior"],
        "fused with noise": rows[NOISE, "posterior"],
    }


def compared(ways: Mapping[str, Measured]) -> dict[tuple[str, str], dict[str, Figure]]:
    """Differences in errors, with intervals."""
    resamples = Resamples(len(ways["fused"].row.outcomes))
    differences = {}
    for a, b in PAIRS:
        of_a, of_b = (errors(ways[name].row.outcomes) for name in (a, b))
        differences[a, b] = resamples.figures({name: difference(of_a[name], of_b[name]) for name in of_a})
    return differences


def tables(
    index: Path, ways: Mapping[str, Measured], pairs: Mapping[tuple[str, str], Mapping[str, Figure]]
) -> Iterator[str]:
    """Errors, differences, confidences, weights."""
    limits = [f"≤ {limit:,} km %" for limit in WITHIN_KM]
    yield markdown_table(
        ["way", "n", "median km", *limits],
        [[name, f"{len(m.row.outcomes):,}", *cells(m.figures.errors)] for name, m in ways.items()],
    )
    yield "Paired differences (shares in percentage points; significant if the interval does not contain 0):"
    yield markdown_table(
        ["first less second", "median km", *limits],
        [[f"{a} - {b}", *cells(figures, "+")] for (a, b), figures in pairs.items()],
    )
    zooms = list(ways["fused"].figures.zooms)
    yield "ECE of the answer's tile, and the share of answers whose tile is right:"
    yield markdown_table(
        ["way", *(f"ECE, zoom {z}" for z in zooms), *(f"right %, zoom {z}" for z in zooms)],
        [
            [
                name,
                *(decimals(m.figures.zooms[z]["ece"]) for z in zooms),
                *(percent(m.figures.zooms[z]["right"]) for z in zooms),
            ]
            for name, m in ways.items()
            if m.row.scoring == "posterior"
        ],
    )
    yield "Fitted numbers:"
    yield markdown_table(
        ["calibration", *(f"zoom {z}: lambda (tau, gamma, rho, kappa)" for z in zooms)],
        [[name, *(numbers(calibration, z) for z in zooms)] for name, calibration in calibrations(index).items()],
    )


def cells(figures: Mapping[str, Figure], sign: str = "") -> list[str]:
    """The cells for the median error and the shares within each limit."""
    shares = [percent(figures[f"within_{limit}_km"], sign) for limit in WITHIN_KM]
    return [figure_text(figures["median_km"], f"{sign},.0f"), *shares]


def calibrations(index: Path) -> dict[str, Calibration]:
    """The index's calibrations by name."""
    return {name or "plain": Calibration.read(index, name) for name in (None, PRIOR, NOISE)}


def numbers(calibration: Calibration, zoom: int) -> str:
    """One zoom's numbers as a table cell."""
    n = calibration.numbers(zoom)
    return f"{n.lam:.2f} ({n.tau:.4f}, {n.gamma:.2f}, {n.rho:.2f}, {n.kappa:.2f})"


def report(
    index: Path, ways: Mapping[str, Measured], pairs: Mapping[tuple[str, str], Mapping[str, Figure]]
) -> dict[str, Any]:
    """All figures as JSON values."""
    fitted = {n: {str(z): asdict(v) for z, v in c.zooms.items()} for n, c in calibrations(index).items()}
    return {
        "ways": {n: {"errors": plain(m.figures.errors), "zooms": plain(m.figures.zooms)} for n, m in ways.items()},
        "differences": {f"{a} - {b}": plain(figures) for (a, b), figures in pairs.items()},
        "fitted": fitted,
    }


if __name__ == "__main__":
    main()
