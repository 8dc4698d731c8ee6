"""The effect of training, calibration and beam settings on the built-in Earth: the tables of docs/experiments.md.

    python -m benchmarks.learning --out DIR [--quick]

Draws photos and tiles (`tilebeam sample-data`), trains map encoders in several ways with `tilebeam train`, indexes
with each, calibrates each on the validation photos and evaluates all on the test photos. Every step is one command,
printed before it runs; existing results are reused, so a killed run resumes. Hours on a laptop: see --only.
"""

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from retrieval.encoders.open_clip import builtin_directory

MARGINS = ("--context", "6=0.25", "--context", "8=1.0")  # as the built-in encoders have them


@dataclass(frozen=True)
class Way:
    """One way to make map encoders: options of `tilebeam train`; None: no training."""

    name: str
    about: str
    options: tuple[str, ...] | None


WAYS = (
    Way("untrained", "the photo tower itself looks at tiles", None),
    Way("paper", "the hierarchical-search paper's recipe: Adam 1e-4, warm start, photo to tile", ()),
    Way("fast", "the same at 1e-3, which so small a tower needs", ("--lr", "1e-3")),
    Way("margins", "1e-3, zooms 6 and 8 see margins around a tile", ("--lr", "1e-3", *MARGINS)),
)


def main() -> None:
    """Parse and run the commands in order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a folder for photos, runs, indexes and tables")
    parser.add_argument("--count", type=int, default=12_000, help="photos to draw")
    parser.add_argument("--only", action="append", choices=[w.name for w in WAYS], help="some of the ways")
    parser.add_argument("--k", default="16,32,64,256", help="beam widths")
    parser.add_argument("--zooms", default="4,6,8", help="zooms of the indexes")
    parser.add_argument("--quick", action="store_true", help="one way, few photos, two zooms, to see that it runs")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.only, arguments.count, arguments.k, arguments.zooms = ["fast"], 1500, "16", "4,6"
    out: Path = arguments.out
    ways = [w for w in WAYS if arguments.only is None or w.name in arguments.only]
    draw(out, arguments.count, arguments.quick)
    for way in ways:
        make(out, way, arguments.zooms)
    photos = splits(out)
    for way in ways:
        calibrate(out, way, photos)
    evaluate(out, ways, photos, arguments.k)


def draw(out: Path, count: int, quick: bool) -> None:
    """Draw photos with places, tiles, and pictures without an answer; `quick`: few of the last."""
    tilebeam("sample-data", "photos", "--out", out / "earth", "--count", count)
    tilebeam("sample-data", "elsewhere", "--out", out / "elsewhere", *(("--per-family", 6) if quick else ()))


def make(out: Path, way: Way, zooms: str) -> None:
    """Build an index whose tiles are embedded by this way's encoders."""
    tiles = ("--source", out / "earth/tiles", "--geojson", out / "earth/coverage.geojson", "--zooms", zooms)
    index = out / f"{way.name}-index"
    photo = ("--photo-encoder", builtin_directory())  # by its folder: without the built-in map encoders
    if way.options is None:
        tilebeam("index", *tiles, *photo, "--out", index)
        return
    learn = ("--photos", out / "earth/photos.csv", "--split-ratio", "8:2:2", "--cache", out / "cache")
    tilebeam("train", *learn, *tiles, *photo, *way.options, "--out", out / way.name, "--index", index)


def splits(out: Path) -> Path:
    """The photos with their splits, which are the same in every training run."""
    return next(out / w.name / "photos.csv" for w in WAYS if (out / w.name / "photos.csv").exists())


def calibrate(out: Path, way: Way, photos: Path) -> None:
    """Calibrate on the validation photos, and on half of the families of pictures without an answer."""
    index, report = out / f"{way.name}-index", out / f"{way.name}-calibration"
    if not (report / "calibration-report.json").exists():
        known = ("--photos", photos, "--elsewhere", out / "elsewhere/elsewhere.csv", "--cache", out / "cache/photos")
        tilebeam("calibrate", "--index", index, *known, "--out", report)


def evaluate(out: Path, ways: list[Way], photos: Path, widths: str) -> None:
    """Evaluate all indexes on the test photos: first all encoders, then beam widths and scorings of the last."""
    indexes = [argument for way in ways for argument in ("--index", out / f"{way.name}-index")]
    common = ("--photos", photos, "--cache", out / "cache/photos", "--elsewhere", out / "elsewhere/elsewhere.csv")
    tilebeam("evaluate", *indexes, *common, "--out", out / "encoders")
    last = ("--index", out / f"{ways[-1].name}-index", "--exhaustive")
    tilebeam("evaluate", *last, *common, "--k", widths, "--scoring", "posterior,paper", "--out", out / "searches")


def tilebeam(*arguments: object) -> None:
    """Run a Tilebeam command with this Python; a failure ends the benchmark with the command's exit code."""
    words = ["-m", "tilebeam", *map(str, arguments)]
    print(f"$ python {shlex.join(words)}", file=sys.stderr, flush=True)
    status = subprocess.run([sys.executable, *words], check=False).returncode
    if status:
        raise SystemExit(status)


if __name__ == "__main__":
    main()
