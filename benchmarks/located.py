"""Pictures through the whole road: retrieval, registration with the style left out, and what the answer is worth.

    python -m benchmarks.located --folder /tmp/located                        all sets and styles, 20 pictures each
    python -m benchmarks.located --folder /tmp/located --set turned --count 50
    python -m benchmarks.located --read records.json ...                      tables of records that were written before
    python -m benchmarks.located --fit fitting.json --read records.json       judge by numbers from other styles
    python -m benchmarks.located --fit fitting.json --write indexer/builtin   the built-in calibration's numbers

Retrieval is the built-in index's: the answer and 20 alternatives, then the best three places of the picture in each
of 7 other turns. Widths, headings and places are unknown to it. Styles that are products as they are were seen by the
encoder in training, renditions were not; no style is in the reference that it is compared with, save in the set
`clean`. Intervals are Wilson's at 95%. Markdown goes to standard output, all records to --json FILE.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.accuracy import built_in
from benchmarks.support import located_tables
from benchmarks.support.located_answers import Judge
from benchmarks.support.located_fit import fitted, numbers_for
from benchmarks.support.located_records import Record, read_records, write_records
from benchmarks.support.located_road import Road
from benchmarks.support.located_sets import NOWHERE, RENDITIONS, SETS, drawn, earth_of, styles_of
from benchmarks.support.machine import describe, sentence
from retrieval.index.calibration import Calibration
from retrieval.index.evidence_numbers import RegistrationNumbers
from retrieval.locator import Locator
from retrieval.registration.canvases import CanvasCache

REPORT_SEED, FIT_SEED = 2, 1
CACHE_BYTES = 1_000_000_000


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", action="append", dest="sets", choices=list(SETS), help="may be repeated; default: all")
    parser.add_argument("--style", action="append", choices=[*RENDITIONS, *NOWHERE], help="may be repeated")
    parser.add_argument("--count", type=int, default=20, help="pictures of each set and style")
    parser.add_argument("--seed", type=int, default=REPORT_SEED, help=f"{REPORT_SEED} to report, {FIT_SEED} to fit")
    parser.add_argument("--everywhere", action="store_true", help="search all land as a last stage")
    parser.add_argument("--folder", type=Path, help="keep pictures and records there, and go on with them")
    parser.add_argument("--json", type=Path, help="write all records there")
    parser.add_argument("--read", type=Path, nargs="+", help="measure nothing, and print tables of these records")
    parser.add_argument("--fit", type=Path, nargs="+", help="print numbers fitted on these records")
    parser.add_argument("--write", type=Path, help="put the fitted numbers into this folder's calibration.json")
    arguments = parser.parse_args()
    fitting = [record for path in arguments.fit or () for record in read_records(path)]
    if arguments.read or arguments.fit:
        records = [record for path in arguments.read or () for record in read_records(path)]
    else:
        records = measured(arguments)
    if fitting:
        numbers = fitted(fitting)
        print(f"Fitted on {len(fitting)} pictures:\n{json.dumps(numbers, indent=1)}\n")
        if arguments.write:
            registration = RegistrationNumbers.from_json(numbers)
            replace(Calibration.read(arguments.write), registration=registration).write(arguments.write)
    if records:
        locator = Locator.open(built_in(), device="cpu")
        own = locator.calibration.registration
        judge, numbers_of = Judge(locator), numbers_for(fitting) if fitting else lambda _: own
        print(located_tables.markdown([judge.answered(record, numbers_of(record["style"])) for record in records]))
    print(f"\n{sentence(describe())}")
    if arguments.json:
        write_records(arguments.json, records)


def measured(arguments: argparse.Namespace) -> list[Record]:
    """Draw and measure, those with the same reference after each other."""
    torch.set_num_threads(1)
    road = Road(Locator.open(built_in(), device="cpu"), everywhere=arguments.everywhere)
    wanted = [
        (name, style)
        for name in arguments.sets or SETS
        for style in styles_of(name)
        if arguments.style is None or style in arguments.style
    ]
    wanted.sort(key=lambda pair: earth_of(*pair).identity)
    cache, records = None, list[Record]()
    for name, style in wanted:
        earth = earth_of(name, style)
        if cache is None or cache.reference is not earth:
            cache = CanvasCache(earth, CACHE_BYTES)
        rows = measure(road, name, style, arguments, cache)
        records += rows
        print(located_tables.line(rows), file=sys.stderr, flush=True)
    return records


def measure(road: Road, name: str, style: str, arguments: argparse.Namespace, cache: CanvasCache) -> list[Record]:
    """The records of a set and style; those in the folder are read."""
    folder = arguments.folder
    if folder is None:
        raise SystemExit("--folder DIR is needed to draw pictures")
    rows = []
    for picture in drawn(folder / "pictures", name, style, arguments.seed, arguments.count):
        path = folder / "records" / picture.path.relative_to(folder / "pictures").with_suffix(".json")
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(road.record(picture, cache)))
        rows.append(json.loads(path.read_text()))
    return rows


if __name__ == "__main__":
    main()
